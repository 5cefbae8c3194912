"""The command line."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable  # for annotations only: Python 3.8 cannot subscript them
from pathlib import Path
from typing import Any

from edgespa.device.runner.answer import Result, brief, together
from edgespa.device.runner.batches import answer_batches
from edgespa.device.runner.bundle import RunnerError, at_size, read_bundle, size_names
from edgespa.device.runner.check import selfcheck
from edgespa.device.runner.confine import SECONDS, limit_memory, limit_time, memory_for
from edgespa.device.runner.cores import bind_to, cores_of, cores_text
from edgespa.device.runner.layers import bench_layers
from edgespa.device.runner.many import files_of, targets_of, write_picture
from edgespa.device.runner.measure import MIN_WARMUP, bench
from edgespa.device.runner.model import Opened
from edgespa.device.runner.runtimes import choose, list_variants, serves
from edgespa.device.runner.weights import beyond

FOLDER = Path(__file__).resolve().parent


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _seconds(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise ValueError
    return float(text)


def _warmup(text: str) -> int:
    if int(text) < MIN_WARMUP:
        raise argparse.ArgumentTypeError(f"at least {MIN_WARMUP}")
    return int(text)


def _cores(text: str) -> str:
    try:
        return cores_text(cores_of(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parser(folder: Path = FOLDER) -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(prog="run.py", description="Run the models of this bundle.")
    what = command.add_mutually_exclusive_group()
    what.add_argument("--selfcheck", action="store_true", help="compare with the recorded outputs; exit 1 if too far")
    what.add_argument("--bench", action="store_true", help="measure latency and memory, batch 1")
    what.add_argument("--layers", action="store_true", help="measure a folder of files that edgespa makes for tables")
    what.add_argument(
        "--input",
        type=Path,
        metavar="PATH",
        help="what the model says of an image, of a .npy or .npz file, or of each of those in a folder",
    )
    what.add_argument("--batches", type=Path, metavar="FOLDER", help="answer what edgespa asks of a whole data set")
    command.add_argument("--into", default="answers", help="with --batches: the folder in it for answers")
    command.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="draw it on the image, into this file; of a folder, into this folder",
    )
    command.add_argument("--overwrite", action="store_true", help="replace what is at --output")
    command.add_argument("--variant", metavar="NAME", help="default: the first that can run; 'all' with --selfcheck")
    command.add_argument("--size", metavar="HxW", help="of the input, where files take several; default: the first")
    command.add_argument("--threads", type=_positive, metavar="N", help="default: those of the pick, or 1")
    command.add_argument("--cores", type=_cores, metavar="LIST", help="of the machine, 4-7 or 0,2; default: any")
    command.add_argument("--runtime", metavar="NAME", help="such as openvino; default: the usual one of the format")
    command.add_argument("--arithmetic", metavar="NAME", help="fp32, bf16 or fp16, where the runtime has a choice")
    command.add_argument("--provider", metavar="NAME", help="of ONNX Runtime; default: the CPU's")
    command.add_argument("--runs", type=_positive, metavar="N", help="at most N runs; default 200 without --seconds")
    command.add_argument("--seconds", type=_seconds, metavar="S", help="stop after S seconds (and at least 10 runs)")
    command.add_argument("--by-layer", action="store_true", help="with --bench: what each operator takes, too")
    command.add_argument("--warmup", type=_warmup, default=MIN_WARMUP, metavar="N", help="default and least 10")
    command.add_argument("--top", type=_positive, default=5, metavar="K", help="classes to show; default 5")
    command.add_argument(
        "--score", type=float, metavar="X", help="leave out boxes and key points below it; default: boxes below 0.3"
    )
    command.add_argument(
        "--timeout",
        type=_seconds,
        default=SECONDS,
        metavar="S",
        help=f"end after so long, --bench its first run; default {SECONDS:g}",
    )
    command.add_argument(
        "--memory", type=_positive, metavar="MIB", help="it may allocate; default: by the sizes of files and tensors"
    )
    command.add_argument("--bundle", type=Path, default=folder, help="another bundle's folder; default: this one")
    command.add_argument("--json", action="store_true", help="one line of JSON; of a folder one for each file")
    return command


def describe(result: Any) -> str:
    """A result for people: a line per entry; rows as a table, and under it why a row is not as it should be."""
    lines = []
    for key, value in result.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{key}:", *_table(value, _SHOWN.get(key) or list(value[0]))]
            lines += _reasons(value)
        else:
            lines.append(f"{key}: {_cell(value)}")
    return "\n".join(lines)


# Of rows that have more, what fits into 80 columns; --json has all.
_SHOWN = {
    "selfcheck": ["name", "status", "component_error", "correlation", "count", "runtime"],
    "variants": ["name", "size_bytes", "runtime"],
}


def _table(rows: list[dict[str, Any]], keys: list[str]) -> list[str]:
    cells = [keys] + [[_cell(row.get(key)) for key in keys] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(keys))]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells]


def _reasons(rows: list[dict[str, Any]]) -> list[str]:
    """Each reason once, behind the names of the rows that it stands in."""
    names: dict[str, list[str]] = {}
    for row in rows:
        for why in [*row.get("failures", []), *([row["reason"]] if row.get("reason") else [])]:
            start = f"{row['name']}: "
            names.setdefault(why[len(start) :] if why.startswith(start) else why, []).append(row["name"])
    return [f"{', '.join(which)}: {why}" for why, which in names.items()]


def _cell(value: Any) -> str:
    if isinstance(value, list) and value:
        return ", ".join(f"{each:.1f}" if isinstance(each, float) else str(each) for each in value)
    if value is None or value == []:
        return "-" if value is None else "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def execute(folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Do what the options ask; the result and the exit status."""
    if options.layers:
        in_time = _timed(options)
        found = bench_layers(folder, options.threads or 1, options.seconds)
        in_time()
        return found, 0
    whole = read_bundle(folder)
    manifest = at_size(whole, options.size)
    if options.selfcheck:
        every = options.variant == "all"
        variants = manifest["variants"] if every else [choose(manifest, options.variant, options.runtime)]
        options.threads = options.threads or variants[0].get("threads") or 1
        _bind(variants[0], options)
        others = size_names(whole)[1:] if every and options.size is None else []
        views = [
            (manifest, variants),
            *((view, view["variants"]) for view in (at_size(whole, each) for each in others)),
        ]
        _confine(folder, [variant for _, own in views for variant in own], options)
        checks = [
            selfcheck(folder, view, _asked(variant, options), options.threads, options.runtime)
            for view, own in views
            for variant in own
        ]
        for row, size in zip(
            checks[len(variants) :], [each for each in others for _ in at_size(whole, each)["variants"]]
        ):
            row["name"] += f" {size}"
        good = any(check["status"] == "passed" for check in checks)
        return {"selfcheck": checks}, int(not good or any(check["status"] == "failed" for check in checks))
    if not options.bench and options.input is None and options.batches is None:
        sizes = size_names(whole)
        return {"variants": list_variants(manifest), **({"sizes": sizes} if sizes else {})}, 0
    files, targets = _files(options) if options.input is not None else ([], [])
    variant = _asked(choose(manifest, options.variant, options.runtime), options)
    options.threads = options.threads or variant.get("threads") or 1
    _bind(variant, options)
    foreign = beyond(folder, manifest, variant)
    if foreign:
        raise RunnerError(f"{variant['name']}: {'; '.join(foreign)}")
    in_time = _confine(folder, [variant], options)
    if options.batches is not None:
        where = (folder, manifest, variant, options.batches, options.into, options.threads, options.runtime)
        return answer_batches(*where, in_time, lambda: _timed(options)), 0
    if options.bench:
        return bench(folder, variant, manifest["inputs"], options, in_time), 0
    opened = Opened(folder, manifest, variant, options.threads, options.top, options.score, options.runtime)
    if options.output is not None and not opened.draws:
        raise RunnerError(f"nothing can be drawn of what it learned ({opened.reader.learns}): leave out --output")
    if not options.input.is_dir():
        return _said(opened, files[0], targets[0])[0], 0
    failed = 0
    for path, target in zip(files, targets):
        in_time()
        in_time = _timed(options)
        try:
            row, results = _said(opened, path, target)
        except (RunnerError, MemoryError) as error:
            failed += 1
            row, results = {"input": str(path), "error": str(error) or "it takes more memory than it may have"}, []
        if options.json:
            print(json.dumps(row, allow_nan=False), flush=True)
        else:
            print(f"{path.name}: {row.get('error') or '; '.join(map(brief, results))}", flush=True)
    in_time()
    if failed:
        print(f"error: {failed} of {len(files)} files were not read", file=sys.stderr)
    return {}, int(failed > 0)


def _bind(variant: dict[str, Any], options: argparse.Namespace) -> None:
    """Keep the process to the cores that are asked for, or that were picked; one with other purposes stays as it is."""
    options.cores = options.cores or (variant.get("cores") if options.alone else None)
    if options.cores:
        bind_to(options.cores)


def _asked(variant: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """A variant in the arithmetic and on the provider that are asked for."""
    asked = {"arithmetic": options.arithmetic, "provider": options.provider}
    return {**variant, **{key: value for key, value in asked.items() if value}}


def _files(options: argparse.Namespace) -> tuple[list[Path], list[Path | None]]:
    """What is asked about, and where each is drawn to."""
    files = files_of(options.input) if options.input.is_dir() else [options.input]
    if options.output is None:
        if options.overwrite:
            raise RunnerError("--overwrite is for --output")
        return files, [None] * len(files)
    return files, targets_of(options.input, files, options.output, options.overwrite)


def _said(opened: Opened, path: Path, target: Path | None) -> tuple[dict[str, Any], list[Result]]:
    """What a file is, in plain values; drawn, where it is asked for."""
    results, pixels = opened.file(path)
    row = {"variant": opened.variant["name"], "runtime": opened.runtime, "input": str(path), **together(results)}
    if target is not None:
        if pixels is None:
            raise RunnerError(f"{path} is no image, so nothing can be drawn on it: leave out --output")
        write_picture(opened.draw(pixels, results[0]), target)
        row["output"] = str(target)
    return row, results


def _confine(folder: Path, variants: list[dict[str, Any]], options: argparse.Namespace) -> Callable[[], None]:
    """Set the limits of this process, if it has no other purpose; that of time is taken back by what is returned."""
    if not options.alone:
        return lambda: None
    on_cpu = options.provider in (None, "CPUExecutionProvider") and serves(options.runtime or "")
    if on_cpu:  # a GPU's memory is mapped in ways of its own
        limit_memory(options.memory << 20 if options.memory else memory_for(folder, variants, options.threads))
    return limit_time(options.timeout)


def _timed(options: argparse.Namespace) -> Callable[[], None]:
    return limit_time(options.timeout) if options.alone else lambda: None


def main(arguments: list[str] | None = None, folder: Path = FOLDER, alone: bool = False) -> int:
    """Entry point; the exit status is 0, 1 (could not, or a bound is exceeded) or 2 (usage).

    Args:
        arguments: Of the command line.
        folder: Of the bundle.
        alone: The process has no other purpose: its memory and time are limited.
    """
    command = parser(folder)
    options = command.parse_args(arguments)
    options.alone = alone
    try:
        result, status = execute(options.bundle, options)
        if options.json and result:
            print(json.dumps(result, allow_nan=False))
        elif result:
            if "variants" in result:
                command.print_usage()
            print(describe(result))
        sys.stdout.flush()
    except RunnerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except MemoryError:
        print("error: it takes more memory than it may have: --memory MIB gives it more", file=sys.stderr)
        return 1
    except BrokenPipeError:  # who read it has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        # Its seal is right, its values are not: it was not edgespa that wrote it.
        print(f"error: manifest.json is not as edgespa writes it: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status
