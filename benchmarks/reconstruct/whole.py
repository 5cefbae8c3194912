"""A whole network at several compressions of its parameters: accuracy before, and after short fine-tuning.

The rows of the first seed before fine-tuning come first, then its fine-tuning, then the other seeds.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common import Row, Rows, chart, table
from setting import Setting

from edgespa.data import ImageData, load_data
from edgespa.tasks.task import Task

COMPRESSIONS = (1.5, 2, 4, 8, 16)
SEEDS = (0, 1, 2)
OLD = ("asym-in-change", "layer-in-change", "l1")  # also with the weights as they were
EQUAL = "equal-error"


@dataclasses.dataclass(frozen=True)
class Study:
    """What is measured.

    Attributes:
        name: Of the files.
        title: For people.
        train: The training images, in the data folder.
        methods: All with new weights, on uniform densities; `OLD` without too, and asym-in-change by `EQUAL`.
        tunings: Name, number of images (None for all), epochs, learning rate.
        loop: Further settings of the fine-tuning.
    """

    name: str
    title: str
    train: str
    methods: tuple[str, ...]
    tunings: tuple[tuple[str, int | None, int, float], ...]
    loop: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def variants(self) -> tuple[tuple[str, bool, str], ...]:
        """Method, new weights, allocation."""
        old = [(method, False, "uniform") for method in OLD]
        first = [("asym-in-change", True, "uniform"), ("asym-in-change", True, EQUAL)]
        return (*first, *((m, True, "uniform") for m in self.methods if m != "asym-in-change"), *old)


def measure(study: Study, data: Path, output: Path, results: Path, setting_of: Callable[[int], Setting]) -> None:
    rows = Rows(results / f"{study.name}-whole.jsonl")
    train = load_data(f"{data}/{study.train}")
    for seed in SEEDS:
        setting = setting_of(seed)
        rows.get({"method": "unpruned", "seed": seed}, lambda s=setting: {"accuracy": s.accuracy(None)})
        for tuning in (None, *study.tunings):
            for variant in study.variants:
                of_variant(rows, setting, train, tuning, variant, seed, output / study.name, study.loop)


def of_variant(
    rows: Rows, setting: Setting, train: ImageData, tuning: tuple[str, int | None, int, float] | None,
    variant: tuple[str, bool, str], seed: int, folder: Path, loop: Mapping[str, Any],
) -> None:  # fmt: skip
    """The rows of one method at every compression; pruned tasks are kept in a folder, for fine-tuning."""
    method, new, allocation = variant
    pruning = None
    for compression in COMPRESSIONS:
        key: Row = {"method": method, "new": new, "allocation": allocation, "seed": seed, "compression": compression}
        key["tuned"] = tuning[0] if tuning else "no"
        if rows.find(key) is not None:
            continue
        path = folder / f"{method}-{'new' if new else 'old'}-{allocation}-{seed}-{compression:g}.spa"
        if not path.exists():
            settings = {"method": method, "reweight": new, "allocation": allocation, "seed": seed}
            pruning = pruning or setting.pruning(**settings, budget="parameters")
            path.parent.mkdir(parents=True, exist_ok=True)
            pruning.task(1 / compression, path.parent.absolute()).save(path)
        task = Task.load(path)
        figures = task.header.figures
        key["reached"] = figures.base_parameters / figures.parameters
        if tuning is None:
            rows.get(key, lambda t=task: {"accuracy": setting.accuracy(t)})
        else:
            _, count, epochs, lr = tuning
            images = train.limit(count, seed) if count is not None else train
            rows.get(key, lambda t=task, i=images, e=epochs, r=lr: {"accuracy": setting.tuned(t, i, e, r, seed, loop)})


def report(study: Study, results: Path) -> list[str]:
    path = results / f"{study.name}-whole.jsonl"
    if not path.exists():
        return []
    rows = Rows(path).rows
    unpruned = statistics.median(row["accuracy"] for row in rows if row["method"] == "unpruned")
    parts = []
    for name, count, epochs, lr in (("no", 0, 0, 0.0), *study.tunings):
        what = "before fine-tuning" if name == "no" else _tuning(count, epochs, lr)
        body, series = [], {}
        for method, new, allocation in study.variants:
            cells, points = [], []
            for compression in COMPRESSIONS:
                key = {"method": method, "new": new, "allocation": allocation, "compression": compression}
                own = [
                    100 * row["accuracy"]
                    for row in rows
                    if row.get("tuned") == name and all(row.get(k) == v for k, v in key.items())
                ]
                cells.append(_cell(own))
                if own:
                    points.append((float(compression), statistics.median(own) / 100))
            label = f"`{method}`" + (f", {EQUAL}" if allocation == EQUAL else "")
            if points:
                body.append([label, "new" if new else "old", *cells])
                series[f"{method}{', ' + EQUAL if allocation == EQUAL else ''}{'' if new else ', old'}"] = points
        if body:
            heading = f"{study.title}, {what}, by compression of the parameters (unpruned: {100 * unpruned:.2f}%):"
            parts += [heading, table(["units", "weights", *(f"{c:g}x" for c in COMPRESSIONS)], body)]
            file = f"{study.name}-whole-{name}.svg"
            chart(results / file, f"{study.title}, {what}", "compression of parameters", series)
            parts.append(f"![chart](results/{file})")
    return parts


def _tuning(count: int | None, epochs: int, lr: float) -> str:
    images = "all training images" if count is None else f"{count:,} training images"
    return f"after {epochs} epoch{'s' if epochs > 1 else ''} of {images} (AdamW, {lr:g})"


def _cell(own: list[float]) -> str:
    if not own:
        return "-"
    spread = f" ({min(own):.1f} to {max(own):.1f})" if len(own) > 1 else ""
    return f"{statistics.median(own):.1f}{spread}"
