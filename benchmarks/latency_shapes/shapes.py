"""Which shape keeps most at the same latency: the knapsack, with and without blocks, beside the other allocations.

    EDGESPA_DATA=../shared/data OMP_NUM_THREADS=1 .venv/bin/python benchmarks/latency_shapes/shapes.py
    ... resnet56 onnx-fp32     that network and variant alone
    ... --heal 400        every network is healed for so many steps too
    ... --table           the table of README.md from results/shapes.jsonl

The device's table is made first (or found, where XDG_DATA_HOME has it). Each allocation is asked for the largest
network that the table foretells to be within a share of the unpruned time; all are pruned by `asym-in-change` on the
same 256 unlabelled images (`global`: the weights' l1, with new weights). Their files are measured in one process, in
turn, by the processor time of their one thread; what is off by more than 2% is asked for again by what was measured,
four times at most, so that all are compared at the same measured time. Judged are they on images that nothing was
chosen by.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "heal")]

from rows import Row, Rows, fill, table  # noqa: E402
from run import CIFAR, DATA, Network  # noqa: E402  (of heal: networks, their images, and what judges them)
from run import NETWORKS as HEALED  # noqa: E402
from table import VARIANTS, fastest_ms  # noqa: E402

from edgespa.adaptation.heal import HealConfig, heal, original_of  # noqa: E402
from edgespa.data import Prepared, load_data, prepare  # noqa: E402
from edgespa.device.board import load_device  # noqa: E402
from edgespa.device.link.reach import connect  # noqa: E402
from edgespa.errors import BudgetError  # noqa: E402
from edgespa.graph.program import Program  # noqa: E402
from edgespa.graph.surgery import compact  # noqa: E402
from edgespa.latency.known import known_latencies, make_latencies  # noqa: E402
from edgespa.latency.shapes import fitted  # noqa: E402
from edgespa.pruning import PruneConfig  # noqa: E402
from edgespa.pruning.run import Pruning  # noqa: E402
from edgespa.pruning.shapes import Shape, cut_down  # noqa: E402
from edgespa.tasks.base import Base  # noqa: E402
from edgespa.tasks.task import Task  # noqa: E402

NETWORKS = {
    **HEALED,
    "vit": Network(
        f"{HERE}/vit.py:vit", CIFAR, "cifar10_jpeg.zip:train", "cifar10_jpeg.zip:test", 512, "macs", (0.5,), 400, {}, 1
    ),
}
RESULTS = HERE / "results" / "shapes.jsonl"
SHARES = (0.75, 0.5, 0.25)
IMAGES, JUDGED = 256, 2000
ALLOCATIONS = {
    "knapsack": {"allocation": "knapsack"},
    "knapsack, channels": {"allocation": "knapsack", "blocks": False, "narrow_heads": False},
    "equal error, 16": {"allocation": "equal-error", "round_to": 16},
    "equal error, 8": {"allocation": "equal-error", "round_to": 8},
    "uniform": {"allocation": "uniform"},
    "global": {"allocation": "global", "method": "l1"},
}
_HALVINGS = 12
NEAR, ROUNDS = 0.02, 4


class Shaping:
    """A network, the table of this machine for it, and what its prunings have learnt."""

    def __init__(self, name: str, variant: str) -> None:
        self.name, self.variant, self.network = name, variant, NETWORKS[name]
        how, model = self.network.how, self.network.model
        spec = model if "/" in model else f"{DATA}/models.py:{model}"
        self.base = Base.open(spec, (1, 3, how.height, how.width))
        device = load_device("local")
        found = known_latencies(self.base, device, variant)
        if found is None or not found.corrected:
            with connect(device) as connection:
                found = make_latencies(self.base, connection, variant)
        self.foretold = found
        self.calibration = self._some(self.network.calibration, IMAGES, labelled=False)
        self.judge = self._some(self.network.judge, JUDGED, labelled=True)
        self._prunings: dict[str, Pruning] = {}

    def _some(self, spec: str, count: int, *, labelled: bool) -> Prepared:
        data = load_data(f"{DATA}/{spec}", labelled=labelled)
        chosen = np.random.default_rng(0).permutation(len(data))[:count]
        return prepare(data.subset(sorted(chosen)), self.network.how)

    def pruning(self, allocation: str) -> Pruning:
        """Of one allocation; those by the knapsack have learnt the same."""
        if allocation not in self._prunings:
            config = PruneConfig(density=1.0, **{"method": "asym-in-change", **ALLOCATIONS[allocation]})
            self._prunings[allocation] = Pruning(self.base, config, self.calibration)
        return self._prunings[allocation]

    def shape(self, allocation: str, limit: float) -> Shape | None:
        """The largest network of an allocation that is foretold to be within a limit in ms; None if there is none."""
        pruning = self.pruning(allocation)
        pruning.chosen = None
        if pruning.config.allocation == "knapsack":
            try:
                found = fitted(
                    pruning.learnt.all_losses(), self.foretold.predictor, limit, self.foretold.shape_ms, 0.005
                )
            except BudgetError:
                return None
            return None if found.chosen is None else found.chosen.shape
        low, high, shape = 0.0, 1.0, None
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            try:
                own = Shape(pruning.widths(middle))
            except BudgetError:
                low = middle
                continue
            if self.foretold.shape_ms(own) <= limit:
                low, shape = middle, own
            else:
                high = middle
        return shape

    def untrained(self, shape: Shape) -> Program:
        """The network cut to a shape: it takes as long with any weights."""
        smaller, kept = cut_down(self.base, shape)
        return compact(smaller.program, smaller.groups, kept)

    def pruned(self, allocation: str, shape: Shape) -> Task:
        """The same with the units that are best, and new weights."""
        pruning = self.pruning(allocation)
        pruning.chosen = shape
        return pruning.task(1.0, HERE)

    def healed(self, task: Task, steps: int) -> Task:
        """Trained towards the original, on the images that it was pruned on."""
        config = HealConfig.model_validate({**self.network.settings, "steps": steps, "mixed_precision": "bf16"})
        data = load_data(f"{DATA}/{self.network.calibration}", labelled=False)
        chosen = np.random.default_rng(0).permutation(len(data))[:IMAGES]
        data = data.subset(sorted(chosen))
        return heal(self.base, data, self.network.how, config, HERE, task, original_of(task, self.base))

    def quality(self, task: Task) -> tuple[float, float]:
        """Accuracy, and agreement with the unpruned network."""
        program, right, same = task.program(self.base), 0, 0
        with torch.no_grad():
            for images, labels in self.judge.batches(100):
                own, wanted = program(images).argmax(1), self.base.program(images).argmax(1)
                right, same = right + int((own == labels).sum()), same + int((own == wanted).sum())
        return right / len(self.judge), same / len(self.judge)


@dataclasses.dataclass(frozen=True)
class Cut:
    """What an allocation made of a limit.

    Attributes:
        limit_ms: The limit, by the table.
        shape: The network.
        took_ms: What its file takes.
        share: That of the unpruned time.
        told: The same as the table foretells it.
        corrected: And corrected by what the candidate before took, as `prune` does.
    """

    limit_ms: float
    shape: Shape
    took_ms: float
    share: float
    told: float
    corrected: float


def at_the_time(shaping: Shaping, share: float) -> tuple[dict[str, Cut], float]:
    """The network of each allocation whose measured time is nearest to the share, and the unpruned time in ms."""
    whole_ms = shaping.foretold.latency_ms()
    limits = dict.fromkeys(ALLOCATIONS, share * whole_ms)
    correction = dict.fromkeys(ALLOCATIONS, 1.0)
    nearest: dict[str, Cut] = {}
    for _ in range(ROUNDS):
        shapes = {name: shaping.shape(name, limit) for name, limit in limits.items()}
        made = {name: shape for name, shape in shapes.items() if shape is not None}
        programs = [shaping.base.program, *(shaping.untrained(shape) for shape in made.values())]
        unpruned, *times = fastest_ms(shaping.base, shaping.variant, programs)
        for (name, shape), took in zip(made.items(), times, strict=True):
            told = shaping.foretold.shape_ms(shape) / whole_ms
            own = Cut(limits[name], shape, took, took / unpruned, told, correction[name] * told)
            correction[name] = own.share / told
            if name not in nearest or abs(own.share - share) < abs(nearest[name].share - share):
                nearest[name] = own
        limits = {
            name: nearest[name].limit_ms * share / nearest[name].share
            for name in made
            if abs(nearest[name].share / share - 1) > NEAR
        }
        if not limits:
            break
    return nearest, unpruned


def measured(shaping: Shaping, share: float, steps: int) -> Row:
    """All allocations at one share."""
    nearest, unpruned = at_the_time(shaping, share)
    found: Row = {"unpruned_ms": unpruned, "shapes": {}}
    for name, cut in nearest.items():
        task = shaping.pruned(name, cut.shape)
        figures, removed = task.header.figures, task.header.depth.removed if task.header.depth is not None else ()
        accuracy, agreement = shaping.quality(task)
        row: Row = {
            "accuracy": accuracy, "agreement": agreement, "measured_ms": cut.took_ms, "share": cut.share,
            "macs": figures.macs / figures.base_macs, "parameters": figures.parameters / figures.base_parameters,
            "removed": list(removed), "heads": dict(task.header.widths), "told": cut.told, "corrected": cut.corrected,
        }  # fmt: skip
        if steps:
            row["healed_accuracy"], row["healed_agreement"] = shaping.quality(shaping.healed(task, steps))
        found["shapes"][name] = row
    return found


def _heads(own: Row) -> str:
    return f", {len(own['heads'])} narrower" if own.get("heads") else ""


def body(rows: Rows) -> list[list[str]]:
    """The rows of the table."""
    lines = []
    names, variants = list(NETWORKS), list(VARIANTS)
    order = sorted(
        rows.rows, key=lambda row: (names.index(row["network"]), variants.index(row["variant"]), -row["share"])
    )
    for row in order:
        for name in ALLOCATIONS:
            own = row["shapes"].get(name)
            head = [row["network"], row["variant"], f"{row['share']:.0%}", name]
            if own is None:
                lines.append([*head, *("-" * 6)])
                continue
            took = own["share"]
            off = ", ".join(f"{own[each] / took - 1:+.0%}" for each in ("told", "corrected") if each in own)
            healed = f"{own['healed_accuracy']:.1%}" if "healed_accuracy" in own else "-"
            lines.append([
                *head, f"{took:.3f} ({off})", f"{own['macs']:.0%}", f"{len(own['removed'])}{_heads(own)}",
                f"{own['accuracy']:.1%}", f"{own['agreement']:.1%}", healed,
            ])  # fmt: skip
    return lines


def main() -> None:
    """Measure what is missing, and fill the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*NETWORKS, *VARIANTS, []], metavar="NETWORK|VARIANT")
    parser.add_argument("--share", type=float, action="append")
    parser.add_argument("--heal", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(RESULTS)
    for name in [] if asked.table else [each for each in asked.what if each in NETWORKS] or NETWORKS:
        for variant in [each for each in asked.what if each in VARIANTS] or VARIANTS:
            shaping: Shaping | None = None
            for share in asked.share or SHARES:
                key: Row = {"network": name, "variant": variant, "share": share, "steps": asked.heal}
                if rows.find(key) is None:
                    shaping = shaping or Shaping(name, variant)
                    key["whole_ms"] = shaping.foretold.latency_ms()
                    rows.get(key, partial(measured, shaping, share, asked.heal))
    head = ["network", "variant", "share", "allocation", "measured (the table is off by, corrected)"]
    head += ["MACs", "blocks gone, products of heads", "accuracy", "agreement", "accuracy healed"]
    fill(HERE / "README.md", {"shapes": table(head, body(rows))})


if __name__ == "__main__":
    sys.exit(main())
