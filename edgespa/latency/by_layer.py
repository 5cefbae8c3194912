"""Operators of a real file with what they took, under the names of their layers, beside what a latency table says."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.graph.kinds import Kind
from edgespa.latency.table import LatencyTable
from edgespa.selection.staircase import Staircase

if TYPE_CHECKING:
    from edgespa.device.measure.results import Operator

log = logging.getLogger(__name__)

BLOCK = 8
"""Of a runtime where no table tells it: that of ONNX Runtime on x86 with AVX2 and, in two halves, on Arm."""
_SLOW = 0.5
_LAYOUT = "a change of layout, between layers of which one does not take the runtime's own"
_CONVERSIONS = {
    **dict.fromkeys(("ReorderInput", "ReorderOutput", "Reorder", "Transpose"), _LAYOUT),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), "between float32 and int8: beside a layer left in float"),
}
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FUSED = {"Relu": "relu", "Add": "add", "Sigmoid": "sigmoid", "HardSwish": "hardswish", "Gelu": "gelu", "Tanh": "tanh"}
_LONGEST = 3
MAX_FILE_BYTES = 512 << 20


@dataclasses.dataclass(frozen=True)
class LayerMeasured:
    """One operator of a file.

    Attributes:
        layer: The module whose weights it has, or as the runtime calls it.
        op: What it computes.
        kind: What it is, as latency tables name it; empty where they do not.
        widths: Of a kind.
        measured_ms: By the runtime's profile.
        table_ms: By the device's table, unscaled; None where that has no such layer.
        macs: Multiply-accumulates of a sample; 0 where that is not known.
        remark: What it costs that need not be, and what would help; None where nothing is known.
    """

    layer: str
    op: str
    kind: str
    widths: tuple[int, ...]
    measured_ms: float
    table_ms: float | None
    macs: int = 0
    remark: str | None = None

    @property
    def gmacs_per_s(self) -> float | None:
        """What it achieves, in billions of multiply-accumulates a second; None where they are not known."""
        return self.macs / self.measured_ms / 1e6 if self.macs and self.measured_ms > 0 else None


@dataclasses.dataclass(frozen=True)
class _Known:
    """What a file says of one of its layers."""

    layer: str
    kinds: tuple[Kind, ...]
    widths: tuple[int, ...]


def by_layer(
    operators: Sequence[Operator], file: Path, table: LatencyTable | None, plain: Path | None = None
) -> tuple[LayerMeasured, ...]:
    """Name the operators of an ONNX file by their layers, and look each up in a table.

    Args:
        operators: As the runtime told them.
        file: That they are of; where the package onnx is absent, or the file reads odd, names are the runtime's.
        table: Of the device.
        plain: The float32 file of the same network, which says how large maps are where this one does not.
    """
    known = dict(_known_layers(file, plain))
    names = sorted(known, key=len, reverse=True)
    rows = []
    for each in operators:
        name = next((name for name in names if _is_of(each.name, name)), None) if each.op not in _EDGES else None
        own = known.get(name or "")
        kind, time = _looked_up(own, table)
        rows.append(
            LayerMeasured(
                own.layer if own is not None else each.name,
                each.op,
                "" if kind is None else str(kind),
                () if own is None else own.widths,
                each.us / 1e3,
                time,
                own.kinds[0].macs(own.widths) if own is not None and own.kinds else 0,
            )
        )
    return tuple(_remarked(rows, BLOCK if table is None else max(table.step, 2)))


def _remarked(rows: Sequence[LayerMeasured], block: int) -> list[LayerMeasured]:
    """With what is odd: conversions, and layers whose widths are no multiple of the block and that compute slowly."""
    rates: dict[str, list[float]] = {}
    for row in rows:
        if row.gmacs_per_s is not None:
            rates.setdefault(row.kind.split(" ")[0], []).append(row.gmacs_per_s)
    found = []
    for row in rows:
        remark = _CONVERSIONS.get(row.op)
        usual = statistics.median(rates.get(row.kind.split(" ")[0], [0.0]))
        odd = next((width for width in row.widths if width % block and width > block // 2), None)
        if row.gmacs_per_s is not None and row.gmacs_per_s < _SLOW * usual and odd is not None:
            remark = f"{odd} channels are no multiple of {block}, and it computes slowly: prune with --round-to {block}"
        found.append(dataclasses.replace(row, remark=remark))
    return found


def layer_ms(rows: Sequence[LayerMeasured]) -> dict[str, float]:
    """What each layer took that is known by its module, all its operators together.

    Args:
        rows: From `by_layer`.
    """
    found: dict[str, float] = {}
    for row in rows:
        if row.kind:
            found[row.layer] = found.get(row.layer, 0.0) + row.measured_ms
    return found


_EDGES = ("ReorderInput", "ReorderOutput", "Reorder", "QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape")


def _is_of(told: str, name: str) -> bool:
    """Whether a runtime's name is that of an operator, or of what it made of it: it adds to the end."""
    return told == name or (told.startswith(name) and not told[len(name)].isalnum())


def _looked_up(own: _Known | None, table: LatencyTable | None) -> tuple[Kind | None, float | None]:
    if own is None or not own.kinds:
        return None, None
    for kind in own.kinds if table is not None else ():
        assert table is not None
        points = table.points(kind)
        if own.widths in points:
            return kind, points[own.widths] / 1e3
        if (stairs := _staircase(points, kind, table)) is not None:
            return kind, float(stairs(*own.widths)) / 1e3
    return own.kinds[0], None


def _staircase(points: Mapping[tuple[int, ...], float], kind: Kind, table: LatencyTable) -> Staircase | None:
    """Over the largest grid that the points have, whatever network they were measured for."""
    if not points:
        return None
    if kind.axes == 1:
        return Staircase.of([sorted({at[0] for at in points})], points, table.step, table.factors(kind))
    rows = {first: {second for other, second in points if other == first} for first, _ in points}
    while rows:
        common = set.intersection(*rows.values())
        if common:
            return Staircase.of([sorted(rows), sorted(common)], points, table.step, table.factors(kind))
        rows.pop(min(rows, key=lambda first: len(rows[first])))
    return None


def _known_layers(file: Path, plain: Path | None) -> Iterator[tuple[str, _Known]]:
    """The layers of a file by the names of their operators and of what those give."""
    try:
        import onnx
    except ImportError:
        log.warning("the package onnx is not installed, so operators are not named by their layers")
        return
    try:
        models = [each for each in (file, plain) if each is not None]
        if any(each.stat().st_size > MAX_FILE_BYTES for each in models):
            raise ValueError(f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
        # They may be anybody's: decoded and looked at, and nothing of onnx goes over them.
        graphs = [onnx.load(each, load_external_data=False).graph for each in models]
        yield from _layers_of(graphs[0], {name: shape for graph in graphs[::-1] for name, shape in _shapes(graph)})
    except Exception as error:  # whatever libraries make of a file that may be anybody's
        log.warning("%s cannot be read for the names of its layers: %s", file.name, str(error)[:200])


def _shapes(graph: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    for each in (*graph.input, *graph.value_info, *graph.output):
        yield each.name, tuple(int(dim.dim_value) for dim in each.type.tensor_type.shape.dim)


def _layers_of(graph: Any, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, _Known]]:
    sizes = {each.name: tuple(each.dims) for each in graph.initializer}
    scaled = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    levels = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type not in _LAYERS or len(node.input) < 2:
            continue
        weight = scaled.get(node.input[1], node.input[1])
        if weight not in sizes:
            continue
        after, outputs = _after(node, readers)
        read = scaled.get(node.input[0], node.input[0])
        found = _layer_of(node, weight, sizes[weight], shapes.get(levels.get(read, read), ()), after)
        for name in (
            node.name,
            *node.output,
            *outputs,
        ):  # what a runtime has fused, it calls by the first or by the last
            yield name, found


def _after(node: Any, readers: Mapping[str, list[Any]]) -> tuple[tuple[str, ...], list[str]]:
    """What follows and is fused, through conversions to int8 and back, and the names of what it gives."""
    chain: list[str] = []
    outputs: list[str] = []
    name = node.output[0]
    while len(readers.get(name, ())) == 1 and len(chain) < _LONGEST:
        (reader,) = readers[name]
        if reader.op_type == "Clip":
            chain.append("relu6")
        elif reader.op_type in _FUSED and not (reader.op_type == "Add" and "add" in chain):
            chain.append(_FUSED[reader.op_type])
        elif reader.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            break
        name = reader.output[0]
        outputs.append(name)
    return tuple(chain), outputs


def _layer_of(node: Any, weight: str, size: tuple[int, ...], shape: tuple[int, ...], after: tuple[str, ...]) -> _Known:
    """Its name, and what it is as far as that is known."""
    values = {each.name: each for each in node.attribute}
    layer = weight.removesuffix("_quantized").removesuffix(".weight")
    if node.op_type in ("Gemm", "MatMul"):
        turned = node.op_type == "Gemm" and "transB" in values and values["transB"].i == 1
        widths = size[::-1] if turned else size
        tokens = 1
        for each in shape[:-1][1 if len(shape) > 2 else 0 :]:
            tokens *= max(1, each)
        kinds = tuple(Kind("linear", size=(count,), after=after) for count in dict.fromkeys((tokens, 1)))
        return _Known(layer, kinds, widths) if len(widths) == 2 else _Known(layer, (), ())
    rank = len(size) - 2
    if rank < 1 or len(shape) != rank + 2:
        return _Known(layer, (), ())

    def listed(name: str, usual: int, count: int = rank) -> tuple[int, ...]:
        return tuple(int(each) for each in values[name].ints) if name in values else (usual,) * count

    groups = int(values["group"].i) if "group" in values else 1
    pads = listed("pads", 0, 2 * rank)
    low, high = pads[:rank], pads[rank:]
    around = tuple(each for pair in zip(low[::-1], high[::-1], strict=True) for each in pair)
    plain = {"kernel": size[2:], "stride": listed("strides", 1), "dilation": listed("dilations", 1)}
    none = (0,) * rank
    # A symmetric padding may have been an operator of its own; one that is not, must have been.
    ways = [(none, around)] + ([(low, ())] if low == high else [])
    operator, widths = "conv", (shape[1], size[0])
    if node.op_type == "ConvTranspose":
        operator, widths = "deconv", (size[0], size[1])
    elif groups > 1 and groups == shape[1]:
        operator, widths = "depthwise", (size[0],)
    elif groups > 1:
        return _Known(layer, (), ())
    kinds = tuple(
        Kind(operator, **plain, padding=padding, size=shape[2:], before=before if any(before) else (), after=after)
        for padding, before in reversed(ways)
    )
    return _Known(layer, kinds, widths)
