"""What the public calls that make a task give; see `edgespa.api.results`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.results import Result
from edgespa.api.tables import Table
from edgespa.system.plain import to_plain

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from edgespa.api.arguments import Model
    from edgespa.pruning.depth import Decision
    from edgespa.tasks.task import Task

_OF_PRUNING = ("calibration", "reconstruction_error", "curves", "whole", "heads", "shapes")


@dataclasses.dataclass(frozen=True, repr=False)
class TaskFile(Result):
    """A task file, and what its task costs beside its base.

    Attributes:
        path: The file.
        channel_density: Fraction of the removable channels that are kept.
        parameters: Of the compact program.
        base_parameters: Of the base.
        macs: Multiply-accumulates of one sample.
        base_macs: Of the base.
        size_bytes: Of the file.
        metrics: Accuracies and the like, by name.
        classes: Names of the outputs; empty if not known.
        task: Its content.
        given: The base, where it was given in Python; the next call takes it from here.
        decision: Where blocks were removed, which and why.
    """

    path: Path
    channel_density: float
    parameters: int
    base_parameters: int
    macs: int
    base_macs: int
    size_bytes: int
    metrics: Mapping[str, float]
    classes: tuple[str, ...]
    task: Task = dataclasses.field(repr=False)
    given: str | None = dataclasses.field(default=None, repr=False)
    decision: Decision | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def of(cls, task: Task, path: Path, given: str | None = None, decision: Decision | None = None) -> TaskFile:
        """Of a task that lies in a file.

        Args:
            task: Its content.
            path: The file.
            given: Its base, where that was given in Python.
            decision: Which blocks were removed from it just now.
        """
        figures = task.header.figures
        return cls(
            path,
            figures.channel_density,
            figures.parameters,
            figures.base_parameters,
            figures.macs,
            figures.base_macs,
            path.stat().st_size,
            dict(task.header.metrics),
            task.header.classes,
            task,
            given,
            decision,
        )

    def to_dict(self) -> dict[str, Any]:
        """As `edgespa adapt --json` and `edgespa prune --json`."""
        from edgespa.adapters.renorm import count_norms
        from edgespa.tasks.folder import depth_text

        figures, told = self.task.header.figures, self.task.header.provenance
        values = {
            "file": str(self.path),
            "size_bytes": self.size_bytes,
            "channel_density": self.channel_density,
            "parameters": self.parameters,
            "base_parameters": self.base_parameters,
            "macs": self.macs,
            "base_macs": self.base_macs,
            "stored_parameters": figures.stored_parameters,
            "kept_blocks": depth_text(self.task),
            "metrics": self.metrics,
            "classes": self.classes,
            "latency": told.get("latency"),
            "foretold": list(_foretold(self.task)),
            "frozen": told.get("frozen", {}),
            "blocks": told.get("blocks"),
            "trained_whole": told.get("trained", {}),
            "other_adapters": told.get("instead", {}),
            "added_norms": count_norms(self.task.tensors),
            "lr": told.get("lr"),
            "lowered_lr_from": _lowered_from(told),
            **{key: told[key] for key in _OF_PRUNING if key in told},
            **({"depth": self.decision.account()} if self.decision is not None else {}),
        }
        plain: dict[str, Any] = to_plain(values)
        return plain

    def module(
        self, *, base: Model | None = None, weights: str | Path | None = None, trust: bool = False
    ) -> GraphModule:
        """The compact network, adapters merged, as a module of PyTorch, to go on with without edgespa.

        It is in evaluation form; ``.train()`` lets batch norms and dropouts train, and all its parameters learn. It
        compiles, and ``torch.save`` writes what ``torch.load(..., weights_only=False)`` reads where edgespa is not
        installed. Its ``state_dict`` has the names of the base.

        Args:
            base: Its base, if it is not where it was.
            weights: Weight file of the base.
            trust: The base that the task names may be run if it is code.

        Raises:
            EdgespaError: The base cannot be found or is another, or a proof fails, as in an export.
        """
        from edgespa.api.arguments import base_of, text_of
        from edgespa.api.going_on import module_of

        spec = base_of(base, self.given)
        return module_of(self.task, self.path.absolute().parent, spec, text_of(weights), trust=trust)

    def _title(self) -> str:
        return f"{self.path}: {self.size_bytes:,} bytes"

    def _tables(self) -> Sequence[Table]:
        def share(own: int, of: int) -> str:
            return f"{own / of:.1%}" if of else "-"

        rows = (
            ("parameters", self.parameters, self.base_parameters, share(self.parameters, self.base_parameters)),
            ("MACs", self.macs, self.base_macs, share(self.macs, self.base_macs)),
            ("channels", None, None, f"{self.channel_density:.1%}"),
            *(
                (f"ms on {each['device']} ({each['variant']}), foretold", each["latency_ms"], each["whole_ms"],
                 f"{each['latency_ms'] / each['whole_ms']:.1%}" if each["whole_ms"] else "-")
                for each in _foretold(self.task)
            ),
        )  # fmt: skip
        return [Table(("", "task", "base", "density"), rows, right=("task", "base", "density"))]

    def _notes(self) -> Sequence[str]:
        from edgespa.objectives.measured import measured

        return [f"{each.name}: {each}" for each in measured(self.metrics)]


def _foretold(task: Task) -> Sequence[Mapping[str, Any]]:
    """What it takes by latency tables, as its header says; nothing where that reads odd."""
    rows = task.header.provenance.get("foretold")
    numbers = ("latency_ms", "whole_ms")
    found = [each for each in rows if isinstance(each, dict)] if isinstance(rows, list) else []
    found = [each for each in found if all(isinstance(each.get(name), int | float) for name in numbers)]
    texts = ("device", "variant")
    return [each for each in found if all(isinstance(each.get(name), str) for name in texts) and "threads" in each]


def _lowered_from(told: Mapping[str, Any]) -> float | None:
    """The first learning rate that was tried, where it is not the one that was taken."""
    rate, trials = told.get("lr"), told.get("lr_trials")
    if not isinstance(rate, float) or not isinstance(trials, dict) or not trials:
        return None
    with contextlib.suppress(ValueError):  # of a file from elsewhere
        first = float(next(iter(trials)))
        return first if first != rate else None
    return None
