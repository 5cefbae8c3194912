"""Accuracy at full depth, cut by the rule, and trained again; against other choices of as many blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from common import KINDS, PREPROCESS, TASKS, Row, Rows, Setting, at_depth, base, size_of, table, tested, tuned

from edgespa.adaptation.learn import adapt
from edgespa.data import prepare
from edgespa.device import connect, load_device
from edgespa.distributed.processes import Processes
from edgespa.errors import ConfigError
from edgespa.latency.budget import LatencyFitting
from edgespa.latency.stopwatch import LatencyBudget, Stopwatch
from edgespa.pruning.cut import cut
from edgespa.pruning.depth import Decision, DepthConfig, decide
from edgespa.selection.depth import kept_depth
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

ALPHAS = tuple(step / 10 for step in range(1, 10))
CHOICES = ("random 0", "random 1", "random 2", "channels")


def measure(setting: Setting, results: Path) -> None:
    """All rows, the most telling ones first: the rule for every method and task, then what it is compared with."""
    rows, whole = Rows(results / "accuracy.jsonl"), base()
    for task in TASKS:
        for kind in KINDS:
            _by_rule(rows, whole, setting, task, kind)
    for task in TASKS:
        _per_depth(rows, whole, setting, task)
        _compared(rows, whole, setting, task)


def _by_rule(rows: Rows, whole: Base, setting: Setting, task: str, kind: str) -> None:
    made, test = tuned(whole, setting, task, kind), setting.held_back(task)
    own = made.fit(whole)
    key = {"task": task, "adapter": kind}

    def full() -> Row:
        images = prepare(setting.train(task).limit(min(1000, setting.images)), PREPROCESS)
        found = decide(made.program(own), own.blocks, images, DepthConfig(), given=())  # the rule comes below
        scores = [each.score for each in found.scored]
        return {
            "accuracy": tested(made, whole, test),
            "bytes": size_of(made),
            "scores": scores,
            "kept": {str(alpha): kept_depth(scores, alpha) for alpha in ALPHAS} if scores[-1] > 0 else {},
        }

    row = rows.get({**key, "step": "full"}, full)
    if not row["kept"]:
        return
    smaller = at_depth(made, own, depth, setting.output) if (depth := row["kept"]["0.3"]) < len(own.blocks) else made
    rows.get({**key, "step": "cut"}, lambda: _row(smaller, whole, test, depth))
    rows.get({**key, "step": "again"}, lambda: _row(_again(smaller, whole, setting, task, kind), whole, test, depth))


def _again(start: Task, whole: Base, setting: Setting, task: str, kind: str) -> Task:
    config = setting.config(kind, setting.again)
    return adapt(whole, setting.train(task), PREPROCESS, config, setting.output, start=start)


def _row(made: Task, whole: Base, test: Any, depth: int) -> Row:
    figures = made.header.figures
    return {"accuracy": tested(made, whole, test), "bytes": size_of(made), "depth": depth, "macs": figures.macs}


def _per_depth(rows: Rows, whole: Base, setting: Setting, task: str, kind: str = "lora") -> None:
    """The last blocks cut without looking at scores, at every depth."""
    made, test = tuned(whole, setting, task, kind), setting.held_back(task)
    own = made.fit(whole)
    for depth in range(1, len(own.blocks)):
        key = {"task": task, "adapter": kind, "step": "last blocks cut", "depth": depth}
        rows.get(key, lambda depth=depth: _row(at_depth(made, own, depth, setting.output), whole, test, depth))


def _compared(rows: Rows, whole: Base, setting: Setting, task: str, kind: str = "lora") -> None:
    """As many blocks by chance, and as fast by fewer channels; each trained again as long as the rule's choice."""
    found = next((r for r in rows.rows if (r["task"], r["adapter"], r["step"]) == (task, kind, "cut")), None)
    if found is None:
        return
    made, test = tuned(whole, setting, task, kind), setting.held_back(task)
    own, depth = made.fit(whole), found["depth"]
    for choice in CHOICES:
        key = {"task": task, "adapter": kind, "step": "again", "choice": choice}
        if choice == "channels":
            smaller = at_depth(made, own, depth, setting.output)
            rows.get(key, lambda s=smaller: _fewer_channels(whole, setting, task, kind, s, test))
            continue
        random = np.random.default_rng(int(choice.split()[1]))
        gone = sorted(random.permutation(len(own.blocks))[: len(own.blocks) - depth])
        decision = Decision(own.blocks, tuple(own.blocks[index].name for index in gone))
        try:
            smaller = cut(made, own, decision, DepthConfig(), setting.output, None)
        except ConfigError:
            continue
        rows.get({**key, "step": "cut"}, lambda s=smaller: _row(s, whole, test, depth))
        rows.get(key, lambda s=smaller: _row(_again(s, whole, setting, task, kind), whole, test, depth))


def _fewer_channels(whole: Base, setting: Setting, task: str, kind: str, cut_task: Task, test: Any) -> Row:
    """Channels and heads removed while training, in the epochs of both trainings together, until as fast as the cut.

    Both are measured on this machine as ONNX files of float32, one thread, as ``adapt --budget latency_ms`` does.
    """
    device, program = load_device("local"), cut_task.program(whole)
    with connect(device) as connection:
        asked = Stopwatch(LatencyBudget(1.0, device), connection).latency_ms(program, cut_task.header.figures.macs, 0)
    config = setting.config(kind, setting.epochs + setting.again, prune_until=0.6)
    processes = Processes.start(config.mixed_precision)
    with LatencyFitting.of(LatencyBudget(asked, device), whole, None, PREPROCESS, None) as fitting:
        config = fitting.for_adapting(config, False, processes)
        made = adapt(whole, setting.train(task), PREPROCESS, config, setting.output, processes=processes)
        made = fitting.recorded(made)
    made.save(setting.output / f"{task}-{kind}-channels.spa")
    times = {"asked_ms": asked, "latency_ms": made.header.metrics["latency_ms"]}
    return {**_row(made, whole, test, len(whole.blocks)), **times}


def report(results: Path) -> str:
    """The tables."""
    rows = Rows(results / "accuracy.jsonl").rows
    by = {(r["task"], r["adapter"], r["step"], r.get("choice"), r.get("depth", 0)): r for r in rows}

    def of(task: str, kind: str, step: str) -> Row | None:
        return next((r for k, r in by.items() if k[:4] == (task, kind, step, None)), None)

    body, depths = [], []
    for task in TASKS:
        for kind in KINDS:
            full, less, again = (of(task, kind, step) for step in ("full", "cut", "again"))
            if full is None:
                continue
            cells = [f"{r['accuracy']:.2%}" if r else "-" for r in (full, less, again)]
            sizes = [f"{r['bytes'] / 1024:.0f}" if r else "-" for r in (full, less)]
            body.append([task, kind, *cells, str(less["depth"]) if less else "-", *sizes])
            depths.append([task, kind, *(str(full["kept"].get(str(alpha), "-")) for alpha in ALPHAS)])
    head = ["task", "adapter", "full", "cut", "trained again", "blocks", "task KiB", "cut KiB"]
    parts = [table(head, body), "Blocks kept for alpha:", table(["task", "adapter", *map(str, ALPHAS)], depths)]
    last = [r for r in rows if r["step"] == "last blocks cut"]
    if last:
        known = sorted({r["depth"] for r in last})
        body = [
            [task, *(f"{r['accuracy']:.1%}" if (r := _at(last, task, depth)) else "-" for depth in known)]
            for task in TASKS
            if any(r["task"] == task for r in last)
        ]
        parts += ["LoRA, the last blocks cut at every depth, no training:", table(["task", *map(str, known)], body)]
    compared = [r for r in rows if r.get("choice")]
    if compared:
        own = [r for r in rows if r["adapter"] == "lora" and r["step"] in ("cut", "again") and not r.get("choice")]
        body = [_choice(r) for task in TASKS for r in (*own, *compared) if r["task"] == task]
        parts += [
            "LoRA, the rule and other choices of the same cost: as many blocks, or channels to the latency of the cut:",
            table(["task", "choice", "", "accuracy", "blocks", "MACs", "ms"], body),
        ]
    return "\n\n".join(parts)


def _choice(row: Row) -> list[str]:
    """A line of what the rule is compared with."""
    time = f"{row['latency_ms']:.2f}, asked {row['asked_ms']:.2f}" if "asked_ms" in row else ""
    step = "trained again" if row["step"] == "again" else row["step"]
    cost = [str(row["depth"]), f"{row['macs'] / 1e6:.0f}M", time]
    return [row["task"], row.get("choice", "the rule"), step, f"{row['accuracy']:.2%}", *cost]


def _at(rows: list[Row], task: str, depth: int) -> Row | None:
    return next((r for r in rows if r["task"] == task and r["depth"] == depth), None)
