"""From the nodes of an ONNX graph to a module whose parts are called as in the file."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx, nn

from edgespa.errors import EdgespaError, ModelError
from edgespa.models.from_onnx.fusing import DOMAIN
from edgespa.models.from_onnx.known import Known
from edgespa.models.from_onnx.lowering.activations import ACTIVATIONS
from edgespa.models.from_onnx.lowering.arranging import ARRANGING, widened_like
from edgespa.models.from_onnx.lowering.delegated import delegated
from edgespa.models.from_onnx.lowering.place import Made, Place, Step, constant_of, parameter
from edgespa.models.from_onnx.lowering.pointwise import POINTWISE
from edgespa.models.from_onnx.lowering.weighted import WEIGHTED
from edgespa.models.from_onnx.lowering.windows import WINDOWS
from edgespa.models.from_onnx.names import layer_path, plain, step_path, tensor_path
from edgespa.models.from_onnx.refusals import spoken

Array = NDArray[Any]
_LOWERED = {**ARRANGING, **WEIGHTED, **WINDOWS, **POINTWISE, **ACTIVATIONS}
_PARTS = ("weight", "bias")


class Assembly:
    """A module that is put together node by node.

    Args:
        spec: Of the file, for messages.
        opset: Of the file.
        known: Of every value, at two sizes of the batch.
        inputs: Names of the graph's inputs, in order.
        stored: Names of the tensors that are in the file, and not computed from others.
    """

    def __init__(
        self,
        spec: str,
        opset: int,
        known: tuple[dict[str, Known], dict[str, Known]],
        inputs: tuple[str, ...],
        stored: frozenset[str],
    ) -> None:
        self._spec, self._opset, self._known, self._stored = spec, opset, known, stored
        self._source = inputs[0]
        self._root, self._graph = nn.Module(), fx.Graph()
        self._nodes: dict[str, fx.Node] = {}
        self._layers: dict[tuple[Any, ...], str] = {}
        self._tensors: dict[str, str] = {}
        taken: set[str] = set()
        for name in inputs:
            wanted = plain(name)
            while wanted in taken:
                wanted += "_"
            taken.add(wanted)
            self._nodes[name] = self._graph.placeholder(wanted)

    def add(self, node: Any) -> None:
        """Lower a node, unless what it gives is known already, or nobody asks for it.

        Args:
            node: Whose inputs were added before.

        Raises:
            ModelError: It cannot be taken; with its name.
        """
        outputs = [name for name in node.output if name]
        if all(self._known[0][name].value is not None and self._known[1][name].value is not None for name in outputs):
            return
        place = Place(node, self._known, self._spec, self._opset, self._source)
        lower = _LOWERED.get(node.op_type) if node.domain in ("", "ai.onnx", DOMAIN) else None
        try:
            made = lower(place) if lower is not None else delegated(place, self._known[0])
        except EdgespaError:
            raise
        except Exception as error:  # attributes that are missing, or of sizes that fit nothing
            raise place.refusal(f"{type(error).__name__}: {error}") from error
        read = [self._read(name, node) for name in made.inputs]
        if made.module is None:
            self._nodes[outputs[0]] = read[0]
            return
        path = self._path(node, made)
        result = self._graph.call_module(path, tuple(read))
        if len(outputs) == 1 and list(node.output)[:1] == outputs[:1] and not _gives_several(node):
            self._nodes[outputs[0]] = result
            return
        for index, name in enumerate(node.output):
            if name:
                self._nodes[name] = self._graph.call_function(operator.getitem, (result, index))

    def finish(self, outputs: Mapping[str, str]) -> fx.GraphModule:
        """The module.

        Args:
            outputs: Names of the graph's outputs in the file -> how they are called.

        Raises:
            ModelError: An output is known without any input.
        """
        found = {}
        for name, called in outputs.items():
            if name not in self._nodes:
                raise ModelError(
                    f"{self._spec}: its output {name!r} does not depend on its inputs",
                    "export the network in evaluation mode, with the outputs that are computed from what goes in",
                )
            found[called] = self._nodes[name]
        self._graph.output(next(iter(found.values())) if len(found) == 1 else found)
        module = fx.GraphModule(self._root, self._graph, "FromOnnx")
        module.graph.eliminate_dead_code()
        module.graph.lint()
        module.delete_all_unused_submodules()
        module.recompile()
        return module.eval()

    def _path(self, node: Any, made: Made) -> str:
        """Where the module is put; a layer that is called a second time with the same weights is one."""
        if made.weight is None:
            return self._put(step_path(node), made.module)
        shared = all(name in self._stored for name in made.key[1] if name) if made.key else False
        if shared and made.key in self._layers:
            return self._layers[made.key]
        path = self._put(layer_path(node, made.weight), made.module)
        if shared:
            self._layers[made.key] = path
        return path

    def _put(self, path: str, module: nn.Module | None) -> str:
        assert module is not None
        holder, leaf = self._holder(path)
        empty = holder._modules.get(leaf)
        if type(empty) is nn.Module and not set(dir(module)) & _held(empty):  # made for what lies below it
            for inner, each in empty.named_children():
                module.add_module(inner, each)
            for inner, value in empty.named_parameters(recurse=False):
                module.register_parameter(inner, value)
            for inner, held in empty.named_buffers(recurse=False):
                module.register_buffer(inner, held)
            holder.add_module(leaf, module)
            return path
        name, number = leaf, 0
        while hasattr(holder, name):
            number += 1
            name = f"{leaf}_{number}"
        holder.add_module(name, module)
        return f"{path.rpartition('.')[0]}.{name}".lstrip(".")

    def _holder(self, path: str) -> tuple[nn.Module, str]:
        *above, leaf = path.split(".")
        holder = self._root
        for part in above:
            inner = holder._modules.get(part)
            if inner is None:
                inner = nn.Module()
                setattr(holder, part, inner) if not hasattr(holder, part) else holder.add_module(f"{part}_", inner)
            holder = inner
        return holder, leaf

    def _read(self, name: str, node: Any) -> fx.Node:
        """The value of a name in the graph; constants become parameters, or buffers of whole numbers."""
        if name in self._nodes:
            return self._nodes[name]
        if name in self._tensors:
            return self._graph.get_attr(self._tensors[name])
        value = constant_of(self._known, name)
        if value is not None:
            return self._graph.get_attr(self._store(name, value, node))
        return self._repeated(name, node)

    def _store(self, name: str, value: Array, node: Any) -> str:
        path = tensor_path(name) if name in self._stored else None
        wanted = path or f"{step_path(node)}.constant"
        *above, leaf = wanted.split(".")
        holder, _ = self._holder(".".join([*above, leaf]))
        own, number = leaf, 0
        while hasattr(holder, own):
            number += 1
            own = f"{leaf}_{number}"
        if value.dtype.kind == "f":
            holder.register_parameter(own, parameter(value))
        else:
            holder.register_buffer(own, parameter(value).data)
        self._tensors[name] = ".".join([*above, own])
        return self._tensors[name]

    def _repeated(self, name: str, node: Any) -> fx.Node:
        """A constant that has a row for each sample, all the same."""
        one, other = (side.get(name) for side in self._known)
        batch = [side[self._source].shape[0] for side in self._known]
        values = [each.value for each in (one, other) if each is not None and each.value is not None]
        if len(values) == 2 and values[0].ndim == values[1].ndim:
            free = [axis for axis in range(values[0].ndim) if values[0].shape[axis] != values[1].shape[axis]]
            if len(free) == 1 and [value.shape[free[0]] for value in values] == batch:
                rows = [np.take(value, [0], free[0]) for value in values]
                same = all(np.array_equal(np.broadcast_to(rows[0], value.shape), value) for value in values)
                if same:
                    stored = self._graph.get_attr(self._store(f"{name}\0row", rows[0], node))
                    sizes = tuple(None if axis == free[0] else -1 for axis in range(values[0].ndim))
                    path = self._put(f"{step_path(node)}_rows", Step(widened_like, sizes))
                    self._nodes[name] = self._graph.call_module(path, (stored, self._nodes[self._source]))
                    return self._nodes[name]
        raise ModelError(
            f"{self._spec}: {spoken(node)} reads {name!r}, a number that is calculated from the size of the batch",
            "export it for batches of one size: without dynamic_axes or dynamic_shapes",
        )


def _held(module: nn.Module) -> set[str]:
    """Names of what is in a module."""
    return {*module._modules, *module._parameters, *module._buffers}


def _gives_several(node: Any) -> bool:
    """Whether the module of a node gives a tuple, also where one of its values is all that is named."""
    return node.op_type in ("Split", "TopK")
