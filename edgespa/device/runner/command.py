"""The command line."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable  # for annotations only: Python 3.8 cannot subscript them
from pathlib import Path
from typing import Any

from edgespa.device.runner.answer import predict
from edgespa.device.runner.bundle import RunnerError, read_bundle
from edgespa.device.runner.check import selfcheck
from edgespa.device.runner.confine import SECONDS, limit_memory, limit_time, memory_for
from edgespa.device.runner.measure import MIN_WARMUP, bench
from edgespa.device.runner.runtimes import choose, list_variants
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


def parser(folder: Path = FOLDER) -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(prog="run.py", description="Run the models of this bundle.")
    what = command.add_mutually_exclusive_group()
    what.add_argument("--selfcheck", action="store_true", help="compare with the recorded outputs; exit 1 if too far")
    what.add_argument("--bench", action="store_true", help="measure latency and memory, batch 1")
    what.add_argument(
        "--input", type=Path, metavar="FILE", help="what the model says of an image, or of a .npy or .npz"
    )
    command.add_argument("--variant", metavar="NAME", help="default: the first that can run; 'all' with --selfcheck")
    command.add_argument("--threads", type=_positive, default=1, metavar="N", help="default 1")
    command.add_argument("--provider", metavar="NAME", help="of ONNX Runtime, for --bench; default: the CPU's")
    command.add_argument("--runs", type=_positive, metavar="N", help="at most N runs; default 200 without --seconds")
    command.add_argument("--seconds", type=_seconds, metavar="S", help="stop after S seconds (and at least 10 runs)")
    command.add_argument("--warmup", type=_warmup, default=MIN_WARMUP, metavar="N", help="default and least 10")
    command.add_argument("--top", type=_positive, default=5, metavar="K", help="classes to show; default 5")
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
    command.add_argument("--json", action="store_true", help="one line of JSON")
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
    return f"{value:.6g}" if isinstance(value, float) else "-" if value is None else str(value)


def execute(folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Do what the options ask; the result and the exit status."""
    manifest = read_bundle(folder)
    if options.selfcheck:
        every = options.variant == "all"
        variants = manifest["variants"] if every else [choose(manifest, options.variant)]
        _confine(folder, variants, options)
        checks = [selfcheck(folder, manifest, variant, options.threads) for variant in variants]
        good = any(check["status"] == "passed" for check in checks)
        return {"selfcheck": checks}, int(not good or any(check["status"] == "failed" for check in checks))
    if not options.bench and options.input is None:
        return {"variants": list_variants(manifest)}, 0
    variant = choose(manifest, options.variant)
    foreign = beyond(folder, manifest, variant)
    if foreign:
        raise RunnerError(f"{variant['name']}: {'; '.join(foreign)}")
    in_time = _confine(folder, [variant], options)
    if options.bench:
        return bench(folder, variant, manifest["inputs"], options, in_time), 0
    return predict(folder, manifest, variant, options), 0


def _confine(folder: Path, variants: list[dict[str, Any]], options: argparse.Namespace) -> Callable[[], None]:
    """Set the limits of this process, if it has no other purpose; that of time is taken back by what is returned."""
    if not options.alone:
        return lambda: None
    if options.provider in (None, "CPUExecutionProvider"):  # a GPU's memory is mapped in ways of its own
        limit_memory(options.memory << 20 if options.memory else memory_for(folder, variants, options.threads))
    return limit_time(options.timeout)


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
    except RunnerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except MemoryError:
        print("error: it takes more memory than it may have: --memory MIB gives it more", file=sys.stderr)
        return 1
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        # Its seal is right, its values are not: it was not edgespa that wrote it.
        print(f"error: manifest.json is not as edgespa writes it: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(result, allow_nan=False))
        return status
    if "variants" in result:
        command.print_usage()
    print(describe(result))
    return status
