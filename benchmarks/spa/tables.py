"""Rows to tables in Markdown, between marks in README.md."""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

import published
import speed
from measure import Row, find, read_rows
from settings import (
    DENSITIES,
    EPOCHS,
    MOBILENET,
    NETWORKS,
    RESNET,
    SEEDS,
    Setting,
    every,
    folded,
    main_table,
    reasons,
    second_table,
)

HERE = Path(__file__).resolve().parent
LATENCIES = "latency.jsonl"  # beside the rows
sys.path.append(str(HERE.parent))

from rows import fill, table  # noqa: E402

HEAD = (
    "method", "channels", "accuracy %", "seeds", "stored parameters", "task KiB", "MACs", "p50 ms", "of unpruned",
    "training, CPU s",
)  # fmt: skip


def write_report(results: Path, readme: Path | None = HERE / "README.md") -> None:
    """Put the tables between their marks, or print them without a README.

    Args:
        results: The rows.
        readme: Where the marks are.
    """
    rows = _with_latencies(read_rows(results), read_rows(results.with_name(LATENCIES)))
    if readme is None:
        print(table(("network", *HEAD), ([group[0]["network"], *_cells(group)] for group in _grouped(rows))))
        return
    parts = {
        **{name: _main(rows, name) for name in NETWORKS},
        "second": _second(rows),
        "reasons": _reasons(rows),
        "folded": _folded(rows),
        "claims": _claims(rows),
        "missing": _missing(rows),
    }
    for part, made_by in (("speed", speed), ("published", published)):
        path = results.with_name(f"{part}.jsonl")
        if path.exists():
            parts[part] = made_by.table(path)
    fill(readme, parts)


def _with_latencies(rows: list[Row], latencies: list[Row]) -> list[Row]:
    """The rows with their latencies, or None where there is none yet."""
    names = ("p50_ms", "latency_ratio")
    found = [find(latencies, Setting.of(row)) or dict.fromkeys(names) for row in rows]
    return [{**row, **{name: latency[name] for name in names}} for row, latency in zip(rows, found, strict=True)]


def _grouped(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows that differ in the seed alone."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(Setting.of(row).with_seed(0).label, []).append(row)
    return list(groups.values())


def _main(rows: list[Row], network: str) -> str:
    groups = [_of(rows, setting) for setting in main_table(network, SEEDS[0])]
    return table(HEAD, [_cells(group) for group in groups if group])


def _second(rows: list[Row]) -> str:
    taylor = [each for each in main_table(RESNET.name, 0) if each.method in ("splora-r8", "full") and each.density < 1]
    settings = [*(each for each in taylor if each.round_to == 1), *second_table()]
    found = [row for each in settings if (row := find(rows, each))]
    return table(("criterion", *HEAD), ([f"`{row['criterion']}`", *_cells([row])] for row in found))


def _reasons(rows: list[Row]) -> str:
    few = Setting(RESNET.name, "splora", DENSITIES[-1])
    known = [dataclasses.replace(few, **more) for more in ({"adapter": "full"}, {}, {"rank": 32}, {"kernel": "full"})]
    return table(HEAD, [_cells([row]) for each in (*known, *reasons()) if (row := find(rows, each))])


def _folded(rows: list[Row]) -> str:
    pairs = [each for bare in folded() for each in (bare, dataclasses.replace(bare, options=()))]
    return table(HEAD, [_cells([row]) for each in pairs if (row := find(rows, each))])


def _of(rows: list[Row], setting: Setting) -> list[Row]:
    """The rows of a setting with every seed."""
    return [row for seed in SEEDS if (row := find(rows, setting.with_seed(seed)))]


def _cells(group: list[Row]) -> list[str]:
    """One line: means over the seeds."""
    first = group[0]
    setting = Setting.of(first)

    def mean(name: str) -> float:
        return statistics.mean(row[name] for row in group)

    def latency(name: str) -> str:
        known = [row[name] for row in group if row[name] is not None]
        return f"{statistics.mean(known):.2f}" if known else "-"

    options = [each.lstrip("-") for each in setting.options if each != "--adapter-option"]
    more = [f"{setting.epochs} epochs"] if setting.epochs != EPOCHS else []
    name = ", ".join([f"`{setting.method}`", *more, *([" ".join(options)] if options else [])])
    density = f"{setting.density:.0%}" + (f", aligned to {setting.round_to}" if setting.round_to > 1 else "")
    return [
        name,
        density,
        _accuracy(group),
        str(len(group)),
        f"{mean('stored_parameters'):,.0f}",
        f"{mean('task_bytes') / 1024:.0f}",
        f"{mean('macs') / 1e6:.1f}M ({mean('macs') / first['base_macs']:.1%})",
        latency("p50_ms"),
        latency("latency_ratio"),
        f"{mean('train_cpu_seconds'):.0f}",
    ]


def _accuracy(group: list[Row]) -> str:
    own = [100 * row["accuracy"] for row in group]
    return f"{statistics.mean(own):.2f}" + (f" ± {statistics.stdev(own):.2f}" if len(own) > 1 else "")


def _claims(rows: list[Row]) -> str:
    """SPLoRA beside fine-pruning, in points and in stored parameters."""
    body = []
    for network in (RESNET.name, MOBILENET.name):
        for density in DENSITIES:
            full = _of(rows, Setting(network, "full", density))
            for rank in (8, 32):
                own = _of(rows, Setting(network, "splora", density, rank=rank))
                pairs = [(a, b) for a in own for b in full if a["seed"] == b["seed"]]
                if pairs:
                    gaps = [100 * (a["accuracy"] - b["accuracy"]) for a, b in pairs]
                    less = statistics.mean(b["stored_parameters"] / a["stored_parameters"] for a, b in pairs)
                    spread = f" ({min(gaps):+.2f} to {max(gaps):+.2f})" if len(gaps) > 1 else ""
                    cells = [network, f"{density:.0%}", f"r{rank}", f"{statistics.mean(gaps):+.2f}{spread}"]
                    body.append([*cells, f"{less:.1f}x", str(len(pairs))])
    head = ("network", "channels", "rank", "points above fine-pruning", "fewer stored parameters", "seeds")
    return table(head, body)


def _missing(rows: list[Row]) -> str:
    settings = list(dict.fromkeys(every()))
    done = sum(find(rows, each) is not None for each in settings)
    if done == len(settings):
        return f"All {done} rows are measured."
    return f"{done} of {len(settings)} rows are measured; `run.py measure --list` names the others."
