"""The state of an unfinished adaptation, as a safetensors file: what the next epoch depends on, and the best epoch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgespa import sealed
from edgespa.adapters.factors import Factors
from edgespa.errors import EdgespaError, TaskFileError
from edgespa.files import write_whole
from edgespa.graph.groups import Kept

_KEY = "edgespa-checkpoint"
_START_ANEW = "start anew without --resume"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A point in an adaptation.

    Attributes:
        kept: Units that are kept there.
        factors: Adapters and whole tensors, sliced to the kept units.
        averages: The optimiser's running averages by ``MOMENT/KEY``.
        facts: Everything that is not a tensor.
        best: The best epoch so far, without averages and facts.
    """

    kept: Kept
    factors: Factors
    averages: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    best: Checkpoint | None = None

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all."""
        tensors = self._tensors("now")
        tensors.update({f"average/{name}": tensor for name, tensor in self.averages.items()})
        if self.best is not None:
            tensors.update(self.best._tensors("best"))
        write_whole(path, sealed.to_bytes(_KEY, json.dumps(dict(self.facts)), tensors))

    def _tensors(self, prefix: str) -> dict[str, Tensor]:
        tensors = {f"{prefix}/kept/{name}": torch.from_numpy(mask.astype(np.uint8)) for name, mask in self.kept.items()}
        tensors.update({f"{prefix}/{key}": tensor for key, tensor in self.factors.flat().items()})
        return tensors

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a state.

        Raises:
            TaskFileError: If the file is damaged or something else.
        """
        try:
            text, tensors = sealed.read(path, _KEY)
            facts = json.loads(text)
            averages = _below(tensors, "average/")
            best = _below(tensors, "best/")
            now = _split(_below(tensors, "now/"))
            return cls(*now, averages, facts, cls(*_split(best)) if best else None)
        except (OSError, KeyError, ValueError, EdgespaError) as error:
            raise TaskFileError(f"{path}: not the state of an adaptation, or damaged: {error}", _START_ANEW) from error


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _split(tensors: Mapping[str, Tensor]) -> tuple[Kept, Factors]:
    kept = {name: tensor.numpy().astype(bool) for name, tensor in _below(tensors, "kept/").items()}
    return kept, Factors.from_flat({name: t for name, t in tensors.items() if not name.startswith("kept/")})
