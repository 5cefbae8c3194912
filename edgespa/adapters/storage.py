"""Adapter factors in fewer bytes: half precision, or int8 with scales.

Scales go along the first or the last dimension, whichever is shorter: for a pair of factors along the rank. A scale is
the largest magnitude there / 127, rounded up to 16 significant bits. So an int8 times the scale is exact in float32,
and encoding what was decoded gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edgespa.errors import AdapterError

STORES = ("fp32", "fp16", "int8")
_SCALE = "scale/"
_SECTIONS = ("adapter/", "shared/")


def encode(flat: Mapping[str, Tensor], store: str) -> dict[str, Tensor]:
    """Tensors of a task as a file holds them.

    Args:
        flat: By key, as `edgespa.adapters.factors.Factors.flat` gives them.
        store: ``fp32`` changes nothing; the others change floating-point factors of adapters only.

    Raises:
        AdapterError: If a value is too large for half precision, or not finite; it names the key.
    """
    if store not in STORES:
        raise AdapterError(f"unknown type of stored factors '{store}'", f"choose one of: {', '.join(STORES)}")
    result = dict(flat)
    if store == "fp32":
        return result
    for key, tensor in flat.items():
        if not key.startswith(_SECTIONS) or not tensor.is_floating_point() or tensor.dim() < 2:
            continue
        if store == "fp16":
            result[key] = tensor.to(torch.float16)
            finite = result[key]
        else:
            result[key], result[_SCALE + key] = _quantised(tensor.float())
            finite = result[_SCALE + key]
        if not bool(torch.isfinite(finite).all()):
            raise AdapterError(f"{key} cannot be stored as {store}: it has values too large, or not finite")
    return result


def decode(flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `encode`, in float32.

    Raises:
        AdapterError: If a scale does not fit its tensor.
    """
    result = {}
    for key, tensor in flat.items():
        if key.startswith(_SCALE):
            continue
        scale = flat.get(_SCALE + key)
        if scale is not None:
            if tensor.dtype != torch.int8 or tensor.dim() < 2 or scale.shape != (tensor.shape[_axis(tensor)],):
                raise AdapterError(f"the scale of {key} does not fit it", "fetch the task file again")
            result[key] = tensor.float() * _along(scale, tensor)
        else:
            half = key.startswith(_SECTIONS) and tensor.dtype == torch.float16
            result[key] = tensor.float() if half else tensor
    missing = [key for key in flat if key.startswith(_SCALE) and key.removeprefix(_SCALE) not in flat]
    if missing:
        raise AdapterError(f"unexpected tensor {missing[0]}", "fetch the task file again")
    return result


def _axis(tensor: Tensor) -> int:
    return 0 if tensor.shape[0] <= tensor.shape[-1] else tensor.dim() - 1


def _along(scale: Tensor, tensor: Tensor) -> Tensor:
    """Scales in a shape that is broadcast against the tensor."""
    axis = _axis(tensor)
    return scale.reshape([-1 if dim == axis else 1 for dim in range(tensor.dim())])


def _quantised(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values and their scales."""
    slices = tensor.movedim(_axis(tensor), 0).flatten(1)
    largest = slices.abs().amax(1) if slices.shape[1] else slices.new_zeros(slices.shape[0])
    mantissa, exponent = torch.frexp(largest / 127)
    scale = torch.ldexp(torch.ceil(mantissa * 2**16) / 2**16, exponent)
    scale = torch.where(largest == 0, torch.ones_like(scale), scale)
    values = (tensor / _along(scale, tensor)).round().clamp(-127, 127)
    return values.to(torch.int8), scale
