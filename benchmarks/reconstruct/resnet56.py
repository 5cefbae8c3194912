"""ResNet-56 on JPEG-CIFAR: the first convolutions of the 27 blocks, uniform; then all groups, with fine-tuning."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import Row, Rows, chart, table
from setting import Setting

from edgespa.adapt import AdaptConfig, adapt
from edgespa.config import Preprocess
from edgespa.data import load_data
from edgespa.evaluate import accuracy

PREPROCESS = Preprocess(height=32, width=32, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
FIRST = ("layer*.*.bn1",)  # of all channel groups only those of the first convolutions have these
KEPT = (0.5, 0.25)
COMPRESSION = (1.5, 2, 4, 8, 16)
# What evidence there was before: a rough trial of the Gram form; in per cent at 50 and 25%.
REFERENCE = {
    ("layer-in-change", "layer"): (80.26, 33.49), ("seq-in-change", "seq"): (78.22, 32.02),
    ("asym-in-change", "asym"): (84.32, 66.26), ("l1", "none"): (35.56, 10.01), ("l1", "asym"): (83.97, 50.61),
    ("l1", "seq"): (79.99, 26.28), ("layer-random", "asym"): (75.4, 37.7),
}  # fmt: skip
VARIANTS = (
    ("asym-in-change", "asym"), ("layer-in-change", "layer"), ("seq-in-change", "seq"), ("l1", "none"), ("l1", "asym"),
    ("l1", "seq"), ("layer-random", "asym"), ("layer-weight-norm", "asym"), ("layer-act-grad", "asym"),
    ("layer-sampling", "asym"), ("layer-greedy-fs", "asym"), ("layer-greedy-fs-fd", "asym"), ("asym-in-change", "none"),
    ("l2", "asym"), ("layer-in-change", "none"), ("seq-in-change", "none"),
)  # fmt: skip
ALL = (
    ("asym-in-change", "asym"), ("layer-in-change", "layer"), ("seq-in-change", "seq"), ("l1", "none"), ("l1", "asym"),
    ("layer-random", "asym"), ("layer-weight-norm", "asym"), ("layer-act-grad", "asym"), ("layer-sampling", "asym"),
)  # fmt: skip


def settings_of(method: str, new_weights: str, seed: int) -> dict[str, Any]:
    given: dict[str, Any] = {"method": method, "allocation": "uniform", "seed": seed, "reweight": new_weights != "none"}
    if new_weights != "none" and not method.endswith("in-change"):
        given["activations"] = new_weights
    return given


def setting_of(data: Path, seed: int, only: tuple[str, ...]) -> Setting:
    images = f"{data}/cifar10_jpeg.zip"
    return Setting.of(f"{data}/models.py:resnet56", PREPROCESS, f"{images}:train", f"{images}:test", 512, seed, only)


def measure(data: Path, output: Path, results: Path) -> None:
    first(data, results, seeds=(0,), variants=VARIANTS)
    first(data, results, seeds=(1, 2), variants=VARIANTS[:6])
    whole(data, results)


def first(data: Path, results: Path, seeds: tuple[int, ...], variants: tuple[tuple[str, str], ...]) -> None:
    """The 27 first convolutions, without fine-tuning or new batch-norm statistics."""
    rows = Rows(results / "resnet56-first.jsonl")
    for seed in seeds:
        setting = setting_of(data, seed, FIRST)
        rows.get({"method": "unpruned", "seed": 0}, lambda s=setting: {"accuracy": s.accuracy(None)})
        for method, weights in variants:
            pruning = None
            for kept in KEPT:
                key: Row = {"method": method, "weights": weights, "seed": seed, "kept": kept}
                if rows.find(key) is None:
                    pruning = pruning or setting.pruning(**settings_of(method, weights, seed))
                    rows.get(key, lambda s=setting, p=pruning, k=kept: {"accuracy": s.accuracies(p, [k])[k]})


def whole(data: Path, results: Path) -> None:
    """All groups at a compression of the parameters; accuracy before, and after short fine-tuning."""
    rows = Rows(results / "resnet56-all.jsonl")
    for seed in range(3):
        setting = setting_of(data, seed, ())
        train = load_data(f"{data}/cifar10_jpeg.zip:train")
        for method, weights in ALL:
            pruning = setting.pruning(**settings_of(method, weights, seed), budget="parameters")
            for compression in COMPRESSION:
                key: Row = {"method": method, "weights": weights, "seed": seed, "compression": compression}
                if all(rows.find({**key, "tuned": tuned}) for tuned in ("no", "512", "all")):
                    continue
                task = pruning.task(1 / compression, Path.cwd())
                rows.get({**key, "tuned": "no"}, lambda s=setting, t=task: {"accuracy": s.accuracy(t)})
                for tuned, images, epochs in (("512", train.limit(512, seed), 20), ("all", train, 2)):
                    config = AdaptConfig(adapter="full", epochs=epochs, lr=2e-3, head="keep", seed=seed)

                    def tune(s: Setting = setting, d: Any = images, c: AdaptConfig = config, t: Any = task) -> Row:
                        better = adapt(s.base, d, PREPROCESS, c, Path.cwd(), start=t)
                        return {"accuracy": accuracy(better.program(s.base), s.test, batch_size=500)}

                    rows.get({**key, "tuned": tuned}, tune)


def cells(rows: list[Row], keys: Iterator[Row] | list[Row]) -> list[str]:
    found = []
    for key in keys:
        own = [100 * row["accuracy"] for row in rows if all(row.get(name) == value for name, value in key.items())]
        spread = f" ({min(own):.2f} to {max(own):.2f}, {len(own)} seeds)" if len(own) > 1 else ""
        found.append(f"{statistics.median(own):.2f}{spread}" if own else "-")
    return found


def report(results: Path) -> str:
    rows = Rows(results / "resnet56-first.jsonl").rows
    unpruned = next(100 * row["accuracy"] for row in rows if row["method"] == "unpruned")
    body = []
    for method, weights in VARIANTS:
        own = cells(rows, [{"method": method, "weights": weights, "kept": kept} for kept in KEPT])
        known = REFERENCE.get((method, weights))
        theirs = [f"{value:.2f}" for value in known] if known else ["-", "-"]
        if own != ["-", "-"]:
            body.append([f"`{method}`", weights, own[0], theirs[0], own[1], theirs[1]])
    head = ["units", "new weights", "50%", "reference", "25%", "reference"]
    parts = [f"First convolutions of the 27 blocks. Unpruned: {unpruned:.2f}%.", table(head, body)]
    path = results / "resnet56-all.jsonl"
    if path.exists():
        every = Rows(path).rows
        for tuned, title in (
            ("no", "before fine-tuning"),
            ("512", "after 20 epochs of 512 images"),
            ("all", "after 2 epochs of all"),
        ):
            body, series = [], {}
            for method, weights in ALL:
                keys = [{"method": method, "weights": weights, "compression": c, "tuned": tuned} for c in COMPRESSION]
                own = cells(every, keys)
                if own != ["-"] * len(COMPRESSION):
                    body.append([f"`{method}`", weights, *own])
                points = [
                    (c, [r["accuracy"] for r in every if all(r.get(k) == v for k, v in key.items())])
                    for c, key in zip(COMPRESSION, keys, strict=True)
                ]
                if any(values for _, values in points):
                    series[f"{method}, {weights}"] = [(c, statistics.median(v)) for c, v in points if v]
            if body:
                parts += [
                    f"All groups, {title}, by compression of the parameters:",
                    table(["units", "new weights", *(f"{c:g}x" for c in COMPRESSION)], body),
                ]
                chart(
                    results / f"resnet56-{tuned}.svg",
                    f"ResNet-56, all groups, {title}",
                    "compression of parameters",
                    series,
                )
    return "\n\n".join(parts)
