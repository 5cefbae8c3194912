"""Running a program over all calibration images one stop at a time.

Front-to-back pruning needs the inputs of each reader *after* the layers before it have changed. A sweep keeps, for
every batch, only the values that are alive at the current stop, and goes on from there with whatever weights hold by
then: each operator runs once per image. Values beyond a memory budget go to temporary files.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, fx

from edgespa.graph.program import Program, fetch

MEMORY_BYTES = 1 << 30
_SMALL = 1 << 20  # smaller tensors are not worth a file


class Shelf:
    """Tensors kept for later: in memory up to a budget, in temporary files beyond it.

    A file loses its name as soon as it is mapped, so that nothing is left of it, however the process ends.

    Args:
        memory_bytes: The budget.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._budget = memory_bytes
        self._used = 0

    def __enter__(self) -> Shelf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass  # what is mapped goes with the tickets

    def put(self, value: Any) -> Any:
        """Keep a value; anything but a large tensor is its own ticket.

        Raises:
            OSError: The disk for temporary files is full.
        """
        if not isinstance(value, Tensor):
            return value
        size = value.untyped_storage().nbytes()
        if size < _SMALL or self._used + size <= self._budget:
            self._used += size
            return _Kept(value, size)
        return _Filed(_mapped(value))

    def take(self, ticket: Any) -> Any:
        """Get a value back; the ticket is used up."""
        if isinstance(ticket, _Kept):
            self._used -= ticket.size
            return ticket.value
        if isinstance(ticket, _Filed):
            return ticket.stored.clone()  # a copy, so that the file can go
        return ticket


def _mapped(value: Tensor) -> Tensor:
    """A copy in a file without a name."""
    count = value.numel()
    with tempfile.NamedTemporaryFile(prefix="edgespa-") as file:
        try:
            # Asked for beforehand: a full disk would end the process where the mapped file is written to.
            os.posix_fallocate(file.fileno(), 0, max(1, count * value.element_size()))
        except OSError as error:
            raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error
        stored = torch.from_file(file.name, shared=True, size=count, dtype=value.dtype)
    stored.copy_(value.reshape(-1))
    return stored.reshape(value.shape)


class _Kept:
    def __init__(self, value: Tensor, size: int) -> None:
        self.value = value
        self.size = size


class _Filed:
    def __init__(self, stored: Tensor) -> None:
        self.stored = stored


Inputs = Callable[[int], tuple[Tensor, ...]]


class Sweep:
    """A program on its way through all batches.

    Args:
        program: The program.
        batches: Number of batches.
        inputs: Gives a batch by its index: all inputs of the program.
        shelf: Where values lie between stops.
        state: Tensors that replace the program's; looked up when an operator runs, so they may change between stops.
    """

    def __init__(
        self, program: Program, batches: int, inputs: Inputs, shelf: Shelf, state: Mapping[str, Tensor] | None = None
    ) -> None:
        self._module = program.module
        self._nodes = list(program.graph.nodes)
        self._places = {node: place for place, node in enumerate(n for n in self._nodes if n.op == "placeholder")}
        self._position = {node.name: index for index, node in enumerate(self._nodes)}
        self._last_use = _last_uses(self._nodes)
        self._inputs = inputs
        self._shelf = shelf
        self._state: Mapping[str, Tensor] = state if state is not None else {}
        self._values: list[dict[fx.Node, Any]] = [{} for _ in range(batches)]
        self._at = 0

    @torch.no_grad()
    def until(self, name: str, source: str, *, beyond: bool = False) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Run every batch up to a node, one batch at a time; all of them have to be taken before the next call.

        Args:
            name: The node, not before the last stop.
            source: A node before it.
            beyond: Run the node too.

        Yields:
            The value of ``source``, and with ``beyond`` that of the node, for each batch in turn.
        """
        stop = self._position[name] + beyond
        before = next(node for node in self._nodes if node.name == source)
        for batch, shelved in enumerate(self._values):
            values = {node: self._shelf.take(ticket) for node, ticket in shelved.items()}
            for index in range(self._at, stop):
                self._run(self._nodes[index], values, batch)
                if index + 1 < stop:
                    self._drop_dead(values, index + 1, before)
            yield values[before], values[self._nodes[stop - 1]] if beyond else None
            self._drop_dead(values, stop, None)
            self._values[batch] = {node: self._shelf.put(value) for node, value in values.items()}
        self._at = stop

    def change(self, function: Callable[[str, Any], Any]) -> None:
        """Change the values that are alive now: ``(node name, value) -> value``."""
        for batch, shelved in enumerate(self._values):
            values = {node: self._shelf.take(ticket) for node, ticket in shelved.items()}
            self._values[batch] = {node: self._shelf.put(function(node.name, v)) for node, v in values.items()}

    def _run(self, node: fx.Node, values: dict[fx.Node, Any], batch: int) -> None:
        if node.op == "placeholder":
            values[node] = self._inputs(batch)[self._places[node]]
        elif node.op == "call_function":
            arguments, keywords = fx.node.map_arg((node.args, node.kwargs), lambda item: self._value(item, values))
            values[node] = node.target(*arguments, **keywords)  # type: ignore[operator]

    def _value(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        if node.op != "get_attr":
            return values[node]
        name = str(node.target)
        return self._state[name] if name in self._state else fetch(self._module, name)

    def _drop_dead(self, values: dict[fx.Node, Any], position: int, spare: fx.Node | None) -> None:
        dead = [node for node in values if self._last_use.get(node, -1) < position and node is not spare]
        for node in dead:
            del values[node]


def _last_uses(nodes: list[fx.Node]) -> dict[fx.Node, int]:
    return {source: index for index, node in enumerate(nodes) for source in node.all_input_nodes}
