"""Sweeps: the same values as running the program at once, with weights that change on the way, and in little memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgespa.pruning.sweep import Shelf, Sweep
from edgespa.tasks.base import Base


def direct(base: Base, x: Tensor, names: set[str], state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    found = {}
    program = base.program.with_state(state or {})

    class Record(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> object:
            value = super().run_node(node)
            if node.name in names:
                found[node.name] = value
            return value

    with torch.no_grad():
        Record(program.module).run(x)
    return found


def batches(base: Base) -> list[Tensor]:
    return [base.program.example_inputs(batch=3, seed=seed)[0] for seed in range(4)]


@pytest.mark.parametrize("memory", [0, 1 << 30])
@pytest.mark.parametrize("name", ["residual", "concat", "attention"])
def test_values_at_every_stop(
    network: Callable[[str], Base], name: str, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgespa.pruning.sweep._SMALL", 64)
    base = network(name)
    stops = [n for n in base.program.graph.nodes if n.op == "call_function" and n.all_input_nodes][::2]
    stops = [
        n
        for n in stops
        if isinstance(n.meta["val"], Tensor)
        and n.all_input_nodes[0].op != "get_attr"
        and isinstance(n.all_input_nodes[0].meta["val"], Tensor)
    ]
    given = batches(base)
    with Shelf(memory) as shelf:
        sweep = Sweep(base.program, len(given), lambda batch: (given[batch],), shelf)
        for index, stop in enumerate(stops):
            source = stop.all_input_nodes[0].name
            for x, (value, output) in zip(given, sweep.until(stop.name, source, beyond=index % 2 == 0), strict=True):
                expected = direct(base, x, {source, stop.name})
                assert torch.allclose(value, expected[source], atol=1e-6)  # a file changes strides
                assert (output is None) == (index % 2 == 1)
                assert output is None or torch.allclose(output, expected[stop.name], atol=1e-6)
    assert index > 3


def test_weights_that_change_between_stops(network: Callable[[str], Base]) -> None:
    base = network("plain")
    nodes = {n.name for n in base.program.graph.nodes}
    assert {"conv2d", "conv2d_1", "linear"} <= nodes
    given = batches(base)
    state: dict[str, Tensor] = {}
    with Shelf() as shelf:
        sweep = Sweep(base.program, len(given), lambda batch: (given[batch],), shelf, state)
        list(sweep.until("conv2d_1", "relu"))
        state["c2.weight"] = base.program.state()["c2.weight"] * 2
        state["c1.weight"] = base.program.state()["c1.weight"] * 0  # too late: it has run
        for x, (value, _) in zip(given, sweep.until("linear", "mean"), strict=True):
            expected = direct(base, x, {"mean"}, {"c2.weight": state["c2.weight"]})["mean"]
            assert torch.equal(value, expected)


def test_values_can_be_changed(network: Callable[[str], Base]) -> None:
    base = network("residual")
    given = batches(base)
    with Shelf() as shelf:
        sweep = Sweep(base.program, len(given), lambda batch: (given[batch],), shelf)
        list(sweep.until("conv2d_1", "relu"))
        sweep.change(lambda name, value: value * 0 if name == "relu" else value)
        assert all(not value.any() for value, _ in sweep.until("conv2d_1", "relu"))


def test_a_shelf_keeps_to_its_memory_and_cleans_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("edgespa.pruning.sweep._SMALL", 8)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tensors = [torch.randn(100) for _ in range(3)]
    with Shelf(450) as shelf:
        tickets = [shelf.put(tensor) for tensor in tensors]
        assert [type(ticket).__name__ for ticket in tickets] == ["_Kept", "_Filed", "_Filed"]
        assert not list(tmp_path.iterdir())  # files without names
        assert all(torch.equal(shelf.take(t), tensor) for t, tensor in zip(tickets, tensors, strict=True))
        assert shelf.take(shelf.put([tensors[0], 3])) == [tensors[0], 3]
        shelf.put(torch.randn(200).t())
    assert not list(tmp_path.iterdir())
