"""What the parts of this benchmark share: rows that are measured once, data, and the tuned tasks."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from vit import SIDE, weights_path

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.config import Preprocess
from edgespa.data import ImageData, Prepared, load_data, prepare
from edgespa.objectives.evaluate import accuracy
from edgespa.pruning.cut import cut
from edgespa.pruning.depth import Decision, DepthConfig, given_depth
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from rows import Row, Rows, fill, table  # noqa: E402

__all__ = ["Row", "Rows", "fill", "table"]
TASKS = ("fashion", "mnist")
KINDS = ("lora", "ssf", "convpass", "repadapter", "splora", "full")
# Of AdamW: the usual ones for tuning a transformer of this width; not searched.
RATES = {"lora": 3e-3, "ssf": 5e-3, "convpass": 3e-3, "repadapter": 3e-3, "splora": 3e-3, "full": 3e-4}
PREPROCESS = Preprocess(height=SIDE, width=SIDE, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True)
class Setting:
    """How much is spent on each network.

    Attributes:
        data: The folder of data sets.
        output: For task files.
        images: Training images of a task.
        epochs: Of the tuning at full depth.
        again: Epochs after a cut.
        test: Test images.
    """

    data: Path
    output: Path
    images: int = 2000
    epochs: int = 3
    again: int = 2
    test: int = 2000

    def train(self, task: str) -> ImageData:
        return load_data(f"{self.data}/{task}:train").limit(self.images)

    def held_back(self, task: str) -> Prepared:
        return prepare(load_data(f"{self.data}/{task}:test").limit(self.test), PREPROCESS)

    def config(self, kind: str, epochs: int, **more: Any) -> AdaptConfig:
        values = {"adapter": kind, "epochs": epochs, "lr": RATES[kind], "batch_size": 32, "head": "new", **more}
        return AdaptConfig(**values)


def base() -> Base:
    """The network that `pretrain.py` has trained."""
    if not weights_path().exists():
        raise SystemExit(f"{weights_path()} is not there: run pretrain.py first")
    return Base.open(f"{HERE / 'vit.py'}:vit", (1, 3, SIDE, SIDE))


def tuned(whole: Base, setting: Setting, task: str, kind: str) -> Task:
    """A task at full depth, learned once."""
    path = setting.output / f"{task}-{kind}.spa"
    if not path.exists():
        made = adapt(whole, setting.train(task), PREPROCESS, setting.config(kind, setting.epochs), setting.output)
        made.save(path)
    return Task.load(path)


def at_depth(task: Task, base_of_task: Base, depth: int, folder: Path) -> Task:
    """The task with its first blocks."""
    decision = Decision(base_of_task.blocks, given_depth(base_of_task.blocks, (depth,)))
    return cut(task, base_of_task, decision, DepthConfig(keep_depth=(depth,)), folder, None)


def tested(task: Task, whole: Base, data: Prepared) -> float:
    return accuracy(task.program(whole), data)


def size_of(task: Task) -> int:
    return len(task.to_bytes())
