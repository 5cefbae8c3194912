"""ResNet-56 on JPEG-CIFAR: the first convolutions of the 27 blocks, uniform; then all groups, with fine-tuning."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import whole
from common import Row, Rows, table
from setting import Setting

from edgespa.config import Preprocess

PREPROCESS = Preprocess(height=32, width=32, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
FIRST = ("layer*.*.bn1",)  # of all channel groups only those of the first convolutions have these
KEPT = (0.5, 0.25)
TEST_IMAGES = 2000  # of the tables of all groups; those of the first convolutions use all 10,000
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
SEVERAL = tuple(v for v in VARIANTS if "none" not in v and v[0] not in ("l2", "layer-weight-norm", "layer-act-grad"))
METHODS = (  # on equal fractions act-grad, weight-norm and random choose what their layer- forms do
    "asym-in-change", "layer-in-change", "seq-in-change", "l1", "layer-random", "layer-weight-norm", "layer-act-grad",
    "layer-sampling", "layer-greedy-fs", "layer-greedy-fs-fd", "l2",
)  # fmt: skip
WHOLE = whole.Study(
    "resnet56-all", "ResNet-56, all groups", "cifar10_jpeg.zip:train", METHODS,
    tunings=(("512", 512, 10, 1e-3), ("5000", 5000, 1, 1e-3)), loop={"batch_size": 64, "mixed_precision": "bf16"},
)  # fmt: skip


def settings_of(method: str, new_weights: str, seed: int) -> dict[str, Any]:
    given: dict[str, Any] = {"method": method, "allocation": "uniform", "seed": seed, "reweight": new_weights != "none"}
    if new_weights != "none" and not method.endswith("in-change"):
        given["activations"] = new_weights
    return given


def setting_of(data: Path, seed: int, only: tuple[str, ...], test_images: int | None = None) -> Setting:
    images = f"{data}/cifar10_jpeg.zip"
    model = f"{data}/models.py:resnet56"
    return Setting.of(model, PREPROCESS, f"{images}:train", f"{images}:test", 512, seed, only, test_images)


def measure(data: Path, output: Path, results: Path) -> None:
    first(data, results, seeds=(0,), variants=VARIANTS)
    first(data, results, seeds=(1, 2), variants=SEVERAL)
    whole.measure(WHOLE, data, output, results, lambda seed: setting_of(data, seed, (), TEST_IMAGES))


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
    return "\n\n".join([*parts, *whole.report(WHOLE, results)])
