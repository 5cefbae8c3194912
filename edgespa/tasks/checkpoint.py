"""The state of an unfinished adaptation, as a safetensors file: what the next epoch depends on, and the best epoch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgespa.adapters.factors import Factors
from edgespa.errors import ConfigError, EdgespaError, TaskFileError
from edgespa.graph.groups import Kept
from edgespa.system.files import write_whole
from edgespa.tasks import sealed
from edgespa.tasks.unfinished import KEY

_START_ANEW = "start anew with --fresh"
_SHOWN = 80


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A point in an adaptation.

    Attributes:
        kept: Units that are kept there.
        factors: Adapters and whole tensors, sliced to the kept units.
        averages: The optimiser's running averages by ``MOMENT/KEY``.
        facts: Everything that is not a tensor.
        best: The best epoch so far, without averages and facts.
        random: States of generators of random numbers, by name.
    """

    kept: Kept
    factors: Factors
    averages: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    best: Checkpoint | None = None
    random: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all."""
        tensors = self._tensors("now")
        tensors.update({f"average/{name}": tensor for name, tensor in self.averages.items()})
        tensors.update({f"random/{name}": tensor for name, tensor in self.random.items()})
        if self.best is not None:
            tensors.update(self.best._tensors("best"))
        write_whole(path, sealed.to_bytes(KEY, json.dumps(dict(self.facts)), tensors))

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
            text, tensors = sealed.read(path, KEY)
            facts = json.loads(text)
            averages = _below(tensors, "average/")
            best = _below(tensors, "best/")
            now = _split(_below(tensors, "now/"))
            return cls(*now, averages, facts, cls(*_split(best)) if best else None, _below(tensors, "random/"))
        except (OSError, KeyError, ValueError, EdgespaError) as error:
            raise TaskFileError(f"{path}: not the state of an adaptation, or damaged: {error}", _START_ANEW) from error


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _split(tensors: Mapping[str, Tensor]) -> tuple[Kept, Factors]:
    kept = {name: tensor.numpy().astype(bool) for name, tensor in _below(tensors, "kept/").items()}
    return kept, Factors.from_flat({name: t for name, t in tensors.items() if not name.startswith("kept/")})


def require_same(known: Mapping[str, Any], now: Mapping[str, Any], options: Mapping[str, str]) -> None:
    """Refuse to go on with a run that was asked for otherwise.

    Args:
        known: What its state says.
        now: What is asked for.
        options: How the user says what is under a key of these, where that is not ``--key``; keys within keys as
            ``config.rank``.

    Raises:
        ConfigError: It names the option, and both values.
    """
    for key, there, here in _differences(known, now, ""):
        own = f"--{key.rpartition('.')[2].replace('_', '-')}"
        option = options.get(key) or options.get(key.partition(".")[0]) or own
        both = "" if isinstance(there or here, Mapping) else f": {_short(there)} there, {_short(here)} here"
        raise ConfigError(
            f"the unfinished run was made with another {option}{both}",
            "leave it out, or say the same again; or start anew with --fresh",
        )


def _differences(known: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for key, value in now.items():
        there = known.get(key)
        if there == value:
            continue
        if isinstance(there, Mapping) and isinstance(value, Mapping) and not prefix:
            yield from _differences(there, value, f"{key}.")
        else:
            yield prefix + key, there, value


def _short(value: Any) -> str:
    text = "nothing" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
