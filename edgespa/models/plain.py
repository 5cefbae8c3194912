"""What stands between a model as it comes and a trace: computed weights, and outputs of the user's own types."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils import _pytree


def store_computed_weights(model: nn.Module) -> None:
    """Store the weights that hooks compute before each call, in place; a model with such hooks cannot be copied.

    They come from ``torch.nn.utils.weight_norm``, ``spectral_norm`` and ``prune``. Parametrised weights
    (``torch.nn.utils.parametrize``) can be copied and need nothing.

    Args:
        model: In eval mode. The computed tensors become parameters under their own names, in the place of those that
            they were computed from.
    """
    with torch.no_grad():
        for module in model.modules():
            for key, hook in list(module._forward_pre_hooks.items()):
                if isinstance(hook, WeightNorm | SpectralNorm | prune.BasePruningMethod):
                    hook.remove(module)
                    del module._forward_pre_hooks[key]
            # of spectral_norm
            for key, extra in list(module._state_dict_hooks.items()):
                if type(extra).__module__ == SpectralNorm.__module__:
                    del module._state_dict_hooks[key]


def register_outputs(model: nn.Module, inputs: Sequence[Tensor]) -> bool:
    """Run a model and make the dataclasses in its output known to ``torch.export``, which refuses them otherwise.

    Args:
        model: In eval mode.
        inputs: Example inputs.

    Returns:
        Whether there was one that was not known.
    """
    try:
        with torch.no_grad():
            output = model(*inputs)
    except Exception:  # the trace has said what is wrong with it
        return False
    found = {type(part) for part in _parts(output) if type(part) not in _pytree.SUPPORTED_NODES}
    for kind in found:
        torch.export.register_dataclass(kind)
    return bool(found)


def _parts(value: Any) -> Iterator[Any]:
    """Every dataclass instance in a nest of containers."""
    inside: Sequence[Any] = ()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield value
        inside = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        inside = list(value.values())
    elif isinstance(value, list | tuple):
        inside = value
    for each in inside:
        yield from _parts(each)
