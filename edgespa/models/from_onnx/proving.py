"""The module that was made of an ONNX file beside ONNX Runtime, on that very file and the same inputs.

The runtime is a large program of others, and the file may be anybody's: it runs in a process of its own, with bounds of
memory and time, which is given the bytes of the file and opens none.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgespa.errors import MissingExtraError, ModelError
from edgespa.models.from_onnx.running import ABSENT
from edgespa.models.inputs import InputSize
from edgespa.models.interface import output_tensors
from edgespa.system.isolated import own_module

Array = NDArray[Any]
BOUND, HALF_BOUND = 1e-4, 2e-2
"""Of the largest number in a component of an output: what two ways to compute it in float32, or in half precision, may
differ by; more, where the network itself rounds more (`_ROUNDINGS` times that).
"""
_ROUNDINGS = 20
_SAMPLES, _SEED, _FAR = 2, 7, 8.0
_LEAST = 1e-3
_SECONDS = 300.0
_REPORT = "please report it with the file, and give the PyTorch model meanwhile"


@dataclasses.dataclass(frozen=True)
class Proof:
    """How near a module is to the ONNX file that it was made of.

    Attributes:
        difference: The largest difference of an output, as a share of the largest number of the same component.
        bound: What it may be.
        output: The output that it is of.
        runtime: What the file was run by, with its version.
        halves: The file is of half precision, and the module of float32.
        blind: What goes in hardly changes what comes out, as of weights that are all the same: little is proved.
    """

    difference: float
    bound: float
    output: str
    runtime: str
    halves: bool
    blind: bool = False

    def __str__(self) -> str:
        wide = ", half precision there and float32 here" if self.halves else ""
        wide += "; what goes in hardly changes it, so this proves little" if self.blind else ""
        return (
            f"computes what {self.runtime} makes of the file, within {self.difference:.1e} of each output's size{wide}"
        )


def prove(
    module: nn.Module,
    content: bytes,
    names: Sequence[str],
    sizes: Sequence[InputSize],
    fixed: Sequence[int | None],
    spec: str,
    *,
    free: bool,
    halves: bool,
) -> Proof:
    """Run both on the same random inputs.

    Args:
        module: In eval mode.
        content: The file, with all of its tensors in it.
        names: Of its inputs.
        sizes: Of its inputs.
        fixed: The first size of each input in the file, where it has one.
        spec: Of the file, for messages.
        free: Whether the module takes any batch; a file that does not is then run on one sample after the other.
        halves: Whether the file is of half precision.

    Raises:
        ModelError: They differ, or the file does not run.
        MissingExtraError: ONNX Runtime is not installed.
    """
    samples = _SAMPLES if free else None
    inputs = _drawn(sizes, samples, fixed)
    single = free and fixed[0] is not None
    wanted, runtime = run(content, names, inputs, spec, rows=single)
    with torch.no_grad():
        given = [torch.from_numpy(each) for each in inputs]
        found = _outputs(module, given)
        if len(found) != len(wanted) or any(a.shape != b.shape for a, b in zip(found, wanted, strict=True)):
            raise ModelError(
                f"{spec}: what was made of it gives {[a.shape for a in found]}, the file {[b.shape for b in wanted]}",
                _REPORT,
            )
        apart = [_difference(a, b) for a, b in zip(found, wanted, strict=True)]
        worst = int(np.argmax(apart))
        bound = HALF_BOUND if halves else BOUND
        if apart[worst] > bound and not halves:
            bound = max(bound, _ROUNDINGS * _rounding(module, given, found))
    name = _names(module)[worst] if worst < len(_names(module)) else f"output {worst}"
    if not apart[worst] <= bound:
        raise ModelError(
            f"{spec}: what was made of it is not what {runtime} computes: {name} differs by {apart[worst]:.2g} of its "
            f"size, and {bound:.2g} are allowed",
            _REPORT,
        )
    return Proof(apart[worst], bound, name, runtime, halves, blind=free and _are_alike(wanted, bound))


def _are_alike(outputs: Sequence[Array], bound: float) -> bool:
    """Whether two samples that are far apart have the same outputs."""
    return all(len(each) == _SAMPLES and _difference(each[:1], each[1:]) <= bound for each in outputs)


def run(
    content: bytes, names: Sequence[str], inputs: Sequence[Array], spec: str, *, rows: bool
) -> tuple[list[Array], str]:
    """What ONNX Runtime makes of a file, in a process of its own.

    Args:
        content: The file.
        names: Of its inputs.
        inputs: In the same order.
        spec: Of the file, for messages.
        rows: One sample after the other.

    Returns:
        Outputs, and the runtime with its version.

    Raises:
        ModelError: It does not load or run it, or needs too much for it.
        MissingExtraError: It is not installed.
    """
    header = {
        "size": len(content), "rows": rows, "names": list(names), "seconds": _SECONDS,
        "inputs": [[each.dtype.str, list(each.shape)] for each in inputs],
    }  # fmt: skip
    with tempfile.TemporaryFile() as question, tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        question.write(json.dumps(header).encode() + b"\n" + content)
        for each in inputs:
            question.write(np.ascontiguousarray(each).tobytes())
        question.seek(0)
        command = own_module("edgespa.models.from_onnx.running")
        process = subprocess.Popen(command, stdin=question, stdout=answer, stderr=said, start_new_session=True)
        try:
            status = process.wait(_SECONDS + 30)
        except subprocess.TimeoutExpired:
            status = -1
        finally:
            process.kill()
            process.wait()
        answer.seek(0)
        line = answer.readline(1 << 20)
        told = _told(line)
        if "error" in told:
            if told["error"] == ABSENT:
                raise MissingExtraError("onnxruntime", "onnx")
            raise ModelError(f"{spec}: ONNX Runtime does not run it: {str(told['error'])[:300]}", _CHECK)
        if "outputs" not in told:
            raise ModelError(f"{spec}: ONNX Runtime ended on it ({_ended(status)})", _CHECK)
        found = []
        for kind, shape in told["outputs"]:
            array = np.frombuffer(answer.read(np.dtype(kind).itemsize * int(np.prod(shape))), dtype=kind).reshape(shape)
            found.append(array)
        return found, str(told["runtime"])


_CHECK = "check the file with onnx.checker.check_model, or export it again"


def _told(line: bytes) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _ended(status: int) -> str:
    return (
        f"signal {-status}: it may take more memory or time than a network of its size"
        if status < 0
        else f"status {status}"
    )


def _drawn(sizes: Sequence[InputSize], samples: int | None, fixed: Sequence[int | None]) -> list[Array]:
    """Standard normal numbers, a second sample of larger ones, for what bends far from 0; zeros of whole numbers."""
    generator = torch.Generator().manual_seed(_SEED)
    found = []
    for size, first in zip(sizes, fixed, strict=True):
        batched = samples is not None and first == fixed[0]
        shape = (samples or 1, *size.shape[1:]) if batched else size.shape
        kind = getattr(torch, size.dtype or "float32")
        drawn = torch.randn(shape, generator=generator) if kind.is_floating_point else torch.zeros(shape)
        if batched:
            drawn[1:] *= _FAR
        found.append(drawn.to(kind).numpy())
    return found


def _outputs(module: nn.Module, given: Sequence[Tensor]) -> list[Array]:
    return [each.numpy() for each in output_tensors(module(*given))]


def _difference(found: Array, wanted: Array) -> float:
    """The largest difference, as a share of the largest number that is wanted of the same component.

    Components are along dimension 1: a class, a side of a box. One is taken to be `_LEAST` of the largest at least.
    """
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    if not np.isfinite(a).all() or not np.isfinite(b).all():
        return 0.0 if np.array_equal(a, b, equal_nan=True) else float("inf")
    if not b.size:
        return 0.0
    largest = float(np.abs(b).max())
    others = tuple(axis for axis in range(b.ndim) if axis != 1)
    own = np.abs(b).max(axis=others, keepdims=True) if b.ndim > 1 else np.abs(b)
    return float((np.abs(a - b) / np.maximum(own, _LEAST * largest or 1.0)).max())


def _rounding(module: nn.Module, given: Sequence[Tensor], found: Sequence[Array]) -> float:
    """How much the network itself rounds: in float32 beside float64."""
    try:
        wide = copy.deepcopy(module).double()
        exact = _outputs(wide, [each.double() if each.is_floating_point() else each for each in given])
    except RuntimeError:  # types that are written into the graph
        return 0.0
    return max(_difference(a, b) for a, b in zip(found, exact, strict=True))


def _names(module: Any) -> list[str]:
    node = next(node for node in module.graph.nodes if node.op == "output")
    given = node.args[0]
    return list(given) if isinstance(given, Mapping) else ["its output"]
