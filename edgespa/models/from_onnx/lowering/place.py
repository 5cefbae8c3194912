"""One node in its graph, as the functions that lower it see it, and what they give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgespa.errors import ModelError
from edgespa.models.from_onnx.known import Known
from edgespa.models.from_onnx.refusals import spoken

Array = NDArray[Any]


class Step(nn.Module):
    """A step without weights: a function of tensors, with what else it takes.

    Args:
        function: Of `torch`, or of this package.
        rest: Arguments behind the tensors.
        keywords: Keyword arguments.
    """

    def __init__(self, function: Callable[..., Any], *rest: Any, **keywords: Any) -> None:
        super().__init__()
        self.function, self.rest, self.keywords = function, rest, keywords

    def forward(self, *tensors: Tensor) -> Any:
        """Call the function."""
        return self.function(*tensors, *self.rest, **self.keywords)


@dataclasses.dataclass(frozen=True)
class Made:
    """What a node becomes.

    Attributes:
        module: That computes it; None where it gives what it reads.
        inputs: Names of the values that the module takes, in order.
        weight: What its weight is called in the file, of a layer with weights; it is one with others of the same key.
        key: What else tells two layers with the same weights apart.
    """

    module: nn.Module | None
    inputs: tuple[str, ...]
    weight: str | None = None
    key: tuple[Any, ...] = ()


class Place:
    """A node, and what is known of the values around it.

    Args:
        node: An ``onnx.NodeProto``.
        known: Of every value, at two sizes of the batch.
        spec: Of the file, for messages.
        opset: Of the file.
        source: Name of a value that begins with the batch.
    """

    def __init__(
        self, node: Any, known: tuple[Mapping[str, Known], Mapping[str, Known]], spec: str, opset: int, source: str
    ) -> None:
        import onnx

        self.node, self.spec, self.opset, self.source = node, spec, opset, source
        self._known = known
        self.inputs = tuple(node.input)
        self.attributes: Mapping[str, Any] = MappingProxyType(
            {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        )

    def has(self, index: int) -> bool:
        """Whether an optional input is there."""
        return len(self.inputs) > index and bool(self.inputs[index])

    def constant(self, index: int) -> Array | None:
        """The constant that is read there; None where it is none."""
        return constant_of(self._known, self.inputs[index]) if self.has(index) else None

    def values(self, index: int) -> tuple[Array | None, Array | None]:
        """What is read there at both sizes of the batch, where no input but by its sizes reaches it."""
        name = self.inputs[index]
        return self._known[0][name].value, self._known[1][name].value

    def numbers(self, index: int, attribute: str | None = None) -> list[int] | None:
        """Whole numbers that are an attribute in one opset and an input in another; None where they are left out.

        Raises:
            ModelError: They are computed from an input.
        """
        if attribute is not None and attribute in self.attributes:
            found = self.attributes[attribute]
            return [int(each) for each in found] if isinstance(found, list | tuple) else [int(found)]
        if not self.has(index):
            return None
        value = self.constant(index)
        if value is None:
            raise self.refusal(f"its input {self.inputs[index]!r} depends on the values of the inputs")
        return [int(each) for each in value.ravel()]

    def sizes(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of a value, at both sizes of the batch."""
        return self._known[0][name].shape, self._known[1][name].shape

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Of an input, at the first size of the batch."""
        return self._known[0][self.inputs[index]].shape

    def dtype(self, name: str) -> int:
        """Element type of a value, a number of ``onnx.TensorProto``."""
        return self._known[0][name].dtype

    def text(self, name: str, otherwise: str) -> str:
        """An attribute that is a text."""
        value = self.attributes.get(name, otherwise)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def is_constant(self, name: str) -> bool:
        """Whether a value is the same whatever goes in."""
        return self._known[0][name].value is not None

    def refusal(self, why: str, hint: str = "") -> ModelError:
        """The error for a node that cannot be taken.

        Args:
            why: In words.
            hint: What to do.
        """
        return ModelError(
            f"{self.spec}: {spoken(self.node)} cannot be taken: {why}",
            hint or "leave it out of the exported network, or give the PyTorch model that it was made of",
        )


def constant_of(known: tuple[Mapping[str, Known], Mapping[str, Known]], name: str) -> Array | None:
    """The value of a name, where it is the same at both sizes of the batch.

    Args:
        known: Of every value, at two sizes of the batch.
        name: Of one.
    """
    one, other = known[0][name].value, known[1][name].value
    if one is None or other is None:
        return None
    same = one is other or (
        one.shape == other.shape and bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
    )
    return one if same else None


def tensor(array: Array) -> Tensor:
    """An array as a tensor of its own."""
    return torch.from_numpy(np.array(array, order="C", copy=True))


def parameter(array: Array) -> nn.Parameter:
    """An array as a weight."""
    return nn.Parameter(tensor(array), requires_grad=array.dtype.kind == "f")


def layer(made: nn.Module, **tensors: Array | None) -> nn.Module:
    """A module of torch with its tensors as the file has them.

    Args:
        made: Built on the meta device or anywhere else.
        tensors: Its parameters and buffers by name; None for one that it does not have.
    """
    for name, array in tensors.items():
        if array is None:
            made.register_parameter(name, None)
        elif name in made._buffers:
            made.register_buffer(name, tensor(array))
        else:
            made.register_parameter(name, parameter(array))
    return made.eval()


def spatial(place: Place, index: int = 0) -> int:
    """The number of dimensions behind batch and channels."""
    return len(place.shape(index)) - 2


def same(place: Place, sizes: Sequence[int]) -> bool:
    """Whether a node gives what it reads, in the same sizes."""
    return list(place.shape(0)) == list(sizes)
