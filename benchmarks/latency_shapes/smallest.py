"""How fast can a ResNet-56 on JPEG-CIFAR be made that is right in 85% of the images, beside torch-pruning?

    make zoo
    PYTHONPATH=.zoo EDGESPA_DATA=../shared/data OMP_NUM_THREADS=1 .venv/bin/python benchmarks/latency_shapes/smallest.py
    ... --table           the table and the figure from results/smallest.jsonl

torch-pruning takes a share of the channels (by group norms, globally); what its network takes is measured, edgespa is
asked for a network of the same measured time. Both are trained by the same call of `edgespa.adapt`: all weights, a few
epochs on some of the training images, of which the epoch counts that is best on a tenth of them. In the end all files
are measured in one process, in turn, by the processor time of their one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "heal")]

from rows import Row, Rows, fill, table  # noqa: E402
from run import CIFAR, DATA  # noqa: E402  (of heal: images and where they are)
from shapes import Shaping  # noqa: E402
from table import fastest_ms  # noqa: E402

import edgespa as es  # noqa: E402
from edgespa.graph.program import Program  # noqa: E402
from edgespa.graph.trace import trace  # noqa: E402
from edgespa.tasks.task import Task  # noqa: E402

RATIOS = (0.45, 0.6, 0.7)
VARIANT = "onnx-fp32"
WANTED = 0.85
NEAR, ROUNDS = 0.02, 4
ROWS, MADE = HERE / "results" / "smallest.jsonl", HERE / "out" / "smallest"
LEARNING: dict[str, Any] = {
    "data": f"{DATA}/cifar10_jpeg.zip:train", "eval_data": f"{DATA}/cifar10_jpeg.zip:test", "limit": 10_000,
    "eval_limit": 10_000, "input_shape": (1, 3, 32, 32), "mean": CIFAR.mean, "std": CIFAR.std, "adapter": "full",
    "density": 1.0, "epochs": 3, "batch_size": 64, "augment": ("flip", "crop"), "mixed_precision": "bf16", "seed": 0,
}  # fmt: skip
COLOURS = {"edgespa": "#1f77b4", "torch-pruning": "#d62728"}


def network() -> nn.Module:
    """The ResNet-56 of the data."""
    spec = importlib.util.spec_from_file_location("models_of_the_data", DATA / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: nn.Module = module.resnet56()
    return made.eval()


def theirs(ratio: float) -> nn.Module:
    """What torch-pruning leaves, by its own defaults for a network with residual blocks."""
    import torch_pruning as tp

    model, inputs = network(), torch.zeros(1, 3, 32, 32)
    last = [each for each in model.modules() if isinstance(each, nn.Linear)][-1:]
    pruner = tp.pruner.GroupNormPruner(
        model, inputs, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=ratio,
        global_pruning=True, ignored_layers=last,
    )  # fmt: skip
    pruner.step()
    return model.eval()


def traced(model: nn.Module) -> Program:
    return trace(model, (torch.zeros(1, 3, 32, 32),))


def ours(shaping: Shaping, share: float) -> Task:
    """The knapsack's network at a share of the measured time, pruned without labels."""
    whole, limit = shaping.foretold.latency_ms(), share * shaping.foretold.latency_ms()
    nearest = None
    for _ in range(ROUNDS):
        shape = shaping.shape("knapsack", limit)
        if shape is None:
            break
        unpruned, took = fastest_ms(shaping.base, VARIANT, [shaping.base.program, shaping.untrained(shape)])
        found = took / unpruned
        print(f"asked {share:.3f}, the table {shaping.foretold.shape_ms(shape) / whole:.3f}, measured {found:.3f}")
        if nearest is None or abs(found - share) < abs(nearest[1] - share):
            nearest = shape, found
        if abs(found / share - 1) < NEAR:
            break
        limit *= share / found
    assert nearest is not None
    return shaping.pruned("knapsack", nearest[0])


class Bench:
    """Both tools on one network, each of their networks made once; files lie below `MADE`."""

    def __init__(self) -> None:
        self.shaping = Shaping("resnet56", VARIANT)
        self.rows = Rows(ROWS)
        MADE.mkdir(parents=True, exist_ok=True)

    def share(self, program: Program) -> float:
        """Of the unpruned network's time."""
        whole, took = fastest_ms(self.shaping.base, VARIANT, [self.shaping.base.program, program])
        return took / whole

    def cut(self, ratio: float) -> Path:
        """Our network that takes the time of theirs."""
        path = MADE / f"edgespa-{ratio:g}.cut.spa"
        if not path.exists():
            ours(self.shaping, self.share(traced(theirs(ratio)))).save(path)
        return path

    def trained(self, tool: str, ratio: float) -> Row:
        path = MADE / f"{tool}-{ratio:g}.spa"
        own: Any = {"start": self.cut(ratio), "trust": True} if tool == "edgespa" else {"model": theirs(ratio)}
        task = es.open_task(path) if path.exists() else es.adapt(output=path, **own, **LEARNING)
        program = self.program(tool, ratio)
        return {
            "parameters": program.parameter_count(), "before": self.right(program),
            "after": task.metrics["test_accuracy"], "judged_on": task.metrics["test_images"],
        }  # fmt: skip

    def right(self, program: Program) -> float:
        """The share of the images that nothing was chosen by, of which a cut program says what they are."""
        judge = self.shaping.judge
        with torch.no_grad():
            right = sum(int((program(images).argmax(1) == labels).sum()) for images, labels in judge.batches(100))
        return right / len(judge)

    def program(self, tool: str, ratio: float) -> Program:
        if tool == "torch-pruning":
            return traced(theirs(ratio))
        return Task.load(self.cut(ratio)).program(self.shaping.base)

    def times(self) -> Row:
        """Of all files, in turn."""
        names = [(tool, ratio) for ratio in RATIOS for tool in COLOURS]
        whole, *found = fastest_ms(
            self.shaping.base, VARIANT, [self.shaping.base.program, *(self.program(*name) for name in names)]
        )
        pairs = zip(names, found, strict=True)
        return {"whole_ms": whole, "ms": {f"{tool} {ratio:g}": took for (tool, ratio), took in pairs}}


def points(rows: Rows) -> list[Row]:
    """Networks with what they take, slowest first."""
    times = rows.find({"what": "times"})
    if times is None:
        return []
    found = [
        {**row, "took_ms": times["ms"][f"{row['tool']} {row['ratio']:g}"], "whole_ms": times["whole_ms"]}
        for row in rows.rows
        if row.get("tool")
    ]
    return sorted(found, key=lambda row: (list(COLOURS).index(row["tool"]), -row["took_ms"]))


def body(rows: Rows) -> list[list[str]]:
    """The rows of the table."""
    return [
        [
            row["tool"], f"{row['ratio']:g}", f"{row['took_ms']:.2f} ({row['took_ms'] / row['whole_ms']:.0%})",
            f"{row['parameters'] / 1e3:,.0f}", f"{row['before']:.1%}", f"{row['after']:.1%}",
        ]
        for row in points(rows)
    ]  # fmt: skip


def draw(found: list[Row]) -> str:
    """Accuracy against measured time."""
    width, height, left, top = 640, 380, 60, 40
    across, down = width - left - 20, height - top - 50
    last = 1.05 * max((row["took_ms"] for row in found), default=1.0)
    floor = min((row["after"] for row in found), default=0.8)
    low = min(0.8, floor - 0.01)

    def place(row: Row) -> tuple[float, float]:
        return left + across * row["took_ms"] / last, top + down * (0.92 - row["after"]) / (0.92 - low)

    limit = top + down * (0.92 - WANTED) / (0.92 - low)
    parts = [
        f'<line x1="{left}" x2="{left + across}" y1="{limit:.1f}" y2="{limit:.1f}" stroke="#888" '
        f'stroke-dasharray="4 4"/><text x="{left + 4}" y="{limit - 4:.1f}" fill="#555">{WANTED:.0%}</text>',
        f'<path d="M{left} {top}V{top + down}H{left + across}" fill="none" stroke="#333"/>',
        f'<text x="{left + across / 2}" y="{height - 12}" text-anchor="middle">ms of the processor, {VARIANT}</text>',
    ]
    parts += [
        f'<text x="{left - 8}" y="{top + down * (0.92 - value / 100) / (0.92 - low) + 4:.1f}" '
        f'text-anchor="end">{value}%</text>'
        for value in range(int(low * 100) + 1, 93, 2)
    ]
    step = next(each for each in (0.1, 0.2, 0.5, 1.0, 2.0) if last / each <= 10)
    parts += [
        f'<text x="{left + across * number * step / last:.1f}" y="{top + down + 18}" text-anchor="middle">'
        f"{number * step:.1f}</text>"
        for number in range(int(last / step) + 1)
    ]
    for number, (tool, colour) in enumerate(COLOURS.items()):
        own = [place(row) for row in found if row["tool"] == tool]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in own)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in own]
        parts.append(
            f'<circle cx="{left + 10 + 130 * number}" cy="16" r="5" fill="{colour}"/>'
            f'<text x="{left + 20 + 130 * number}" y="20">{tool}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(parts)}</svg>\n"
    )


def main() -> None:
    """Measure what is missing, and fill the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(ROWS)
    if not asked.table:
        bench = Bench()
        rows = bench.rows
        for ratio in RATIOS:
            for tool in ("torch-pruning", "edgespa"):
                rows.get({"tool": tool, "ratio": ratio}, partial(bench.trained, tool, ratio))
        rows.get({"what": "times", "ratios": list(RATIOS)}, bench.times)
    found = points(rows)
    if found:
        (HERE / "results" / "smallest.svg").write_text(draw(found))
    head = ["tool", "share asked of torch-pruning", "ms (of unpruned)", "thousand parameters"]
    fill(HERE / "README.md", {"smallest": table([*head, "right before training", "after"], body(rows))})


if __name__ == "__main__":
    sys.exit(main())
