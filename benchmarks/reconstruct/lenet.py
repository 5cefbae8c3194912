"""LeNet on MNIST: every method with and without new weights, on the two hidden linear layers; then all layers."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import torch
import whole
from common import Row, Rows, chart, table
from networks import LeNet, train
from safetensors.torch import save_file
from setting import Setting

from edgespa.config import Preprocess
from edgespa.data import load_data, prepare

KEPT = (0.05, 0.075, 0.1, 0.25, 0.5)
SEEDS = range(5)
PREPROCESS = Preprocess(height=28, width=28, channels=1, mean=(0.1307,), std=(0.3081,))
METHODS = (
    "asym-in-change", "seq-in-change", "layer-in-change", "layer-greedy-fs", "layer-greedy-fs-fd", "layer-sampling",
    "act-grad", "layer-act-grad", "weight-norm", "layer-weight-norm", "random", "layer-random", "l1", "l2",
)  # fmt: skip
WHOLE = whole.Study(
    "lenet", "LeNet, all layers", "mnist:train", METHODS, tunings=(("512", 512, 20, 1e-3), ("all", None, 1, 1e-3))
)
# The published code's accuracies (its printed values over 0.98892), new weights, unpruned .9886.
PUBLISHED = {
    "asym-in-change": (0.455, None, 0.814, 0.947, 0.985),
    "seq-in-change": (0.478, None, 0.801, 0.947, 0.985),
    "layer-in-change": (0.412, None, 0.778, 0.947, 0.985),
    "weight-norm": (0.307, None, 0.673, 0.948, 0.984),
    "act-grad": (0.332, None, 0.641, 0.922, 0.979),
    "random": (0.232, None, 0.483, 0.885, 0.955),
}


def weights(data: Path, output: Path, seed: int) -> Path:
    """Train the network of a seed, once."""
    path = output / f"lenet-{seed}.safetensors"
    if not path.exists():
        torch.manual_seed(seed)
        model = LeNet()
        images = prepare(load_data(f"{data}/mnist:train"), PREPROCESS)
        train(model, images.tensor(range(len(images))), images.labels, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), path)
    return path


def setting_of(data: Path, output: Path, seed: int, only: tuple[str, ...]) -> Setting:
    os.environ["LENET_WEIGHTS"] = str(weights(data, output, seed).resolve())
    network = f"{Path(__file__).with_name('networks.py')}:lenet"
    return Setting.of(network, PREPROCESS, f"{data}/mnist:train", f"{data}/mnist:test", 512, seed, only)


def measure(data: Path, output: Path, results: Path) -> None:
    hidden(data, output, results)
    whole.measure(WHOLE, data, output, results, lambda seed: setting_of(data, output, seed, ()))


def hidden(data: Path, output: Path, results: Path) -> None:
    """The two hidden linear layers, before fine-tuning."""
    rows = Rows(results / "lenet.jsonl")
    for seed in SEEDS:
        setting = setting_of(data, output, seed, ("fc1.bias", "fc2.bias"))
        rows.get({"method": "unpruned", "seed": seed}, lambda s=setting: {"accuracy": s.accuracy(None)})
        for method in METHODS:
            for reweight in (True, False):
                key: Row = {"method": method, "reweight": reweight, "seed": seed}
                if any(rows.find({**key, "kept": kept}) is None for kept in KEPT):
                    pruning = setting.pruning(method=method, reweight=reweight, seed=seed)
                    for kept in KEPT:
                        rows.get(
                            {**key, "kept": kept},
                            lambda s=setting, p=pruning, k=kept: {"accuracy": s.accuracies(p, [k])[k]},
                        )


def report(results: Path) -> str:
    rows = Rows(results / "lenet.jsonl").rows
    unpruned = [row["accuracy"] for row in rows if row["method"] == "unpruned"]
    parts = [f"Unpruned: {statistics.mean(unpruned):.4f} (mean of {len(unpruned)} seeds)."]
    series: dict[str, list[tuple[float, float]]] = {}
    for reweight in (True, False):
        body = []
        for method in METHODS:
            cells = [f"`{method}`"]
            for index, kept in enumerate(KEPT):
                own = [
                    row["accuracy"]
                    for row in rows
                    if (row["method"], row.get("reweight"), row.get("kept")) == (method, reweight, kept)
                ]
                if not own:
                    cells.append("-")
                    continue
                mean = statistics.mean(own)
                theirs = PUBLISHED.get(method, (None,) * len(KEPT))[index] if reweight else None
                spread = statistics.pstdev(own)
                cells.append(f"{mean:.3f} ± {spread:.3f}" + (f" ({theirs:.3f})" if theirs else ""))
                if reweight:
                    series.setdefault(method, []).append((kept, mean))
            body.append(cells)
        title = "With new weights; the published code's figure in brackets" if reweight else "Without new weights"
        parts += [f"{title}:", table(["kept", *(f"{kept:g}" for kept in KEPT)], body)]
    chart(
        results / "lenet.svg",
        "LeNet, two hidden layers, new weights, no fine-tuning",
        "fraction of neurons kept",
        series,
    )
    return "\n\n".join([*parts, *whole.report(WHOLE, results)])
