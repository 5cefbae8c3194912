"""Windows over pixels: padding, pooling, and changes of size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgespa.models.from_onnx.lowering.place import Made, Place, Step, spatial

_MAXIMUM: Mapping[int, Any] = MappingProxyType({1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d})
_AVERAGE: Mapping[int, Any] = MappingProxyType({1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d})
_GLOBAL_MAXIMUM: Mapping[int, Any] = MappingProxyType({1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d})


def pads_of(
    place: Place, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is put before and behind each dimension of pixels, also where the file leaves it to the sizes."""
    rank = len(kernel)
    mode = place.text("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        pads = tuple(place.attributes.get("pads", (0,) * 2 * rank)) if mode == "NOTSET" else (0,) * 2 * rank
        if len(pads) != 2 * rank or min(pads) < 0:
            raise place.refusal(f"padded by {list(pads)}")
        return tuple(map(int, pads[:rank])), tuple(map(int, pads[rank:]))
    begins, ends = [], []
    for size, width, step, apart in zip(place.shape()[2:], kernel, stride, dilation, strict=True):
        total = max(0, (math.ceil(size / step) - 1) * step + (width - 1) * apart + 1 - size)
        less, more = total // 2, total - total // 2
        begins.append(less if mode == "SAME_UPPER" else more)
        ends.append(more if mode == "SAME_UPPER" else less)
    return tuple(begins), tuple(ends)


def padded_pool(x: Tensor, pads: Sequence[int], value: float, pool: Callable[[Tensor], Tensor]) -> Tensor:
    """A pool over an input that is padded unevenly."""
    return pool(F.pad(x, list(pads), value=value))


class CountedPool(nn.Module):
    """A mean over what lies inside, of an input that is padded unevenly.

    Args:
        pads: As `torch.nn.functional.pad` takes them.
        pool: The mean over all that is in a window.
        share: Of each window that lies inside: [1, 1, H, W].
    """

    share: Tensor

    def __init__(self, pads: Sequence[int], pool: nn.Module, share: Tensor) -> None:
        super().__init__()
        self.pads, self.pool = tuple(pads), pool
        self.register_buffer("share", share)

    def forward(self, x: Tensor) -> Tensor:
        """Take the means."""
        result: Tensor = self.pool(F.pad(x, self.pads)) / self.share
        return result


def pool(place: Place) -> Made:
    """The largest, or the mean, of each window."""
    values, rank = place.attributes, spatial(place)
    kinds = _MAXIMUM if place.node.op_type == "MaxPool" else _AVERAGE
    if rank not in kinds or any(place.node.output[1:]):
        raise place.refusal(f"over {rank} dimensions, or with its indices read")
    kernel = tuple(int(each) for each in values["kernel_shape"])
    stride, dilation = (tuple(int(e) for e in values.get(name, (1,) * rank)) for name in ("strides", "dilations"))
    ceil = bool(values.get("ceil_mode", 0))
    begins, ends = pads_of(place, kernel, stride, dilation)
    even = begins == ends and all(2 * begin <= width for begin, width in zip(begins, kernel, strict=True))
    pads = tuple(size for pair in reversed(list(zip(begins, ends, strict=True))) for size in pair)
    if kinds is _MAXIMUM:
        made: nn.Module = kinds[rank](kernel, stride, begins if even else 0, dilation, ceil_mode=ceil)
        if not even:
            made = _Padded(pads, -math.inf, made)
        return Made(made, place.inputs[:1])
    if max(dilation) > 1:
        raise place.refusal("a mean over windows with gaps")
    counted = bool(values.get("count_include_pad", 0))
    if even:
        return Made(kinds[rank](kernel, stride, begins, ceil, counted), place.inputs[:1])
    inner = kinds[rank](kernel, stride, 0, ceil)
    if counted:
        return Made(_Padded(pads, 0.0, inner), place.inputs[:1])
    share = inner(F.pad(torch.ones(1, 1, *place.shape()[2:]), pads))
    return Made(CountedPool(pads, inner, share), place.inputs[:1])


class _Padded(nn.Module):
    """A pool over an input that is padded unevenly."""

    def __init__(self, pads: Sequence[int], value: float, inner: nn.Module) -> None:
        super().__init__()
        self.pads, self.value, self.inner = tuple(pads), value, inner

    def forward(self, x: Tensor) -> Tensor:
        return padded_pool(x, self.pads, self.value, self.inner)


def global_pool(place: Place) -> Made:
    """Over all pixels."""
    if place.node.op_type == "GlobalAveragePool":
        return Made(Step(torch.mean, tuple(range(2, 2 + spatial(place))), True), place.inputs[:1])
    if spatial(place) not in _GLOBAL_MAXIMUM:
        raise place.refusal(f"over {spatial(place)} dimensions")
    return Made(_GLOBAL_MAXIMUM[spatial(place)](1), place.inputs[:1])


def pad(place: Place) -> Made:
    """Values put around."""
    rank = len(place.shape())
    mode = place.text("mode", "constant")
    pads = place.numbers(1, "pads") or place.numbers(1, "paddings") or []
    axes = place.numbers(3) or list(range(rank))
    if len(pads) != 2 * len(axes):
        raise place.refusal(f"padded by {pads}")
    by_axis = {axis % rank: (pads[index], pads[index + len(axes)]) for index, axis in enumerate(axes)}
    if not any(map(any, by_axis.values())):
        return Made(None, place.inputs[:1])
    given = place.constant(2) if place.has(2) else None
    value = float(given.ravel()[0]) if given is not None and given.size else float(place.attributes.get("value", 0.0))
    last = max((rank - axis for axis, sizes in by_axis.items() if any(sizes)), default=0)
    sizes = [size for axis in range(rank - 1, rank - 1 - last, -1) for size in by_axis.get(axis, (0, 0))]
    kind = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}.get(mode)
    if kind is None or (kind != "constant" and last > rank - 2):
        raise place.refusal(f"padded by the mode {mode} over these dimensions")
    if kind == "constant":
        return Made(Step(F.pad, sizes, kind, value), place.inputs[:1])
    return Made(Step(F.pad, sizes, kind), place.inputs[:1])


def resize(place: Place) -> Made:
    """To another number of pixels, in the ways that torch has too."""
    shape, sizes = place.shape(), place.sizes(place.node.output[0])[0]
    if shape == sizes:
        return Made(None, place.inputs[:1])
    if shape[:2] != sizes[:2] or spatial(place) not in (1, 2, 3):
        raise place.refusal("it changes the number of channels, or of samples")
    mode = place.text("mode", "nearest")
    where = place.text(
        "coordinate_transformation_mode", "half_pixel" if place.node.op_type == "Resize" else "asymmetric"
    )
    where = "asymmetric" if place.node.op_type == "Resize" and place.opset < 11 else where
    whole = all(big % small == 0 for big, small in zip(sizes[2:], shape[2:], strict=True))
    options: dict[str, Any] = {"size": list(sizes[2:])}
    if mode == "nearest":
        options["mode"] = _nearest(place, where, whole)
    elif mode in ("linear", "cubic"):
        if place.attributes.get("antialias", 0) or (
            mode == "cubic" and place.attributes.get("cubic_coeff_a", -0.75) != -0.75
        ):
            raise place.refusal("antialiased, or with a curve of its own")
        if where not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
            raise place.refusal(f"between pixels by the rule {where}, which torch does not have")
        names = {1: "linear", 2: "bilinear", 3: "trilinear"} if mode == "linear" else {2: "bicubic"}
        if spatial(place) not in names:
            raise place.refusal(f"{mode} over {spatial(place)} dimensions")
        options.update(mode=names[spatial(place)], align_corners=where == "align_corners")
    else:
        raise place.refusal(f"by the mode {mode}")
    return Made(Step(F.interpolate, **options), place.inputs[:1])


def _nearest(place: Place, where: str, whole: bool) -> str:
    """Which of torch's two ways a nearest pixel is; enlarged by whole numbers, all are one."""
    rounding = place.text("nearest_mode", "round_prefer_floor")
    if place.node.op_type == "Upsample" or (place.node.op_type == "Resize" and place.opset < 11):
        rounding = "floor"
    if where == "asymmetric" and (
        rounding == "floor" or (whole and rounding == "round_prefer_floor" and _doubled(place))
    ):
        return "nearest"
    if where in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round"):
        return "nearest" if whole else "nearest-exact"
    raise place.refusal(f"the nearest pixel by the rules {where} and {rounding}, which torch does not have")


def _doubled(place: Place) -> bool:
    """Whether no dimension is enlarged more than twice, where rounding down halves is taking the floor."""
    one, other = place.shape()[2:], place.sizes(place.node.output[0])[0][2:]
    return all(big <= 2 * small for big, small in zip(other, one, strict=True))


WINDOWS: Mapping[str, Callable[[Place], Made]] = MappingProxyType(
    {
        "MaxPool": pool,
        "AveragePool": pool,
        "GlobalAveragePool": global_pool,
        "GlobalMaxPool": global_pool,
        "Pad": pad,
        "Resize": resize,
        "Upsample": resize,
    }
)
