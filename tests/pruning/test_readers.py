"""Readers: their rows times their weights are their output, for every operator that has some."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from edgespa.graph.groups import find_groups
from edgespa.graph.trace import trace
from edgespa.pruning.evidence import Collector, Evidence, full_matrices
from edgespa.pruning.readers import Reader, find_readers, readers_of
from edgespa.pruning.sweep import Shelf, Sweep
from edgespa.tasks.base import Base

NAMES = (
    "plain", "flatten", "residual", "concat", "depthwise", "excite", "grouped", "transposed", "grouped_transposed",
    "matmul", "attention",
)  # fmt: skip


def outputs_of(base: Base, reader: Reader) -> tuple[torch.Tensor, torch.Tensor]:
    x = base.program.example_inputs(batch=5)[0]
    with Shelf() as shelf:
        sweep = Sweep(base.program, 1, lambda _: (x,), shelf)
        source, output = next(sweep.until(reader.node, reader.source, beyond=True))
    assert output is not None
    return source, output


def check(base: Base, reader: Reader) -> None:
    source, output = outputs_of(base, reader)
    state = base.program.state()
    bias = state[reader.bias] if reader.bias else None
    matrices = full_matrices(reader, state[reader.weight], bias)
    targets = reader.targets(output)
    at = 0
    for parts in reader.rows(source):
        assert len(parts) == reader.parts
        for rows, matrix, target in zip(parts, matrices, targets, strict=True):
            wide = rows.double().T
            if bias is not None:
                wide = torch.cat([wide, torch.ones(len(wide), 1, dtype=torch.float64)], 1)
            expected = target[:, at : at + rows.shape[1]].T.double()
            assert torch.allclose(wide @ matrix, expected, atol=1e-4)
        at += parts[0].shape[1]
    assert at == targets[0].shape[1]
    plain = reader.matrices(state[reader.weight])
    assert torch.equal(reader.tensor(plain, state[reader.weight]), state[reader.weight])


@pytest.mark.parametrize("name", NAMES)
def test_rows_times_weights_are_the_output(network: Callable[[str], Base], name: str) -> None:
    base = network(name)
    readers = find_readers(base.program, base.groups)
    for reader in readers.values():
        check(base, reader)
    assert {name for name, group in base.groups.groups.items() if not readers_of(group, readers)} == set()


def test_chunks_are_bounded(network: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    base = network("plain")
    readers = find_readers(base.program, base.groups)
    monkeypatch.setattr("edgespa.pruning.readers.CHUNK_BYTES", 1)
    for reader in readers.values():
        check(base, reader)
    source, _ = outputs_of(base, next(iter(readers.values())))
    assert len(list(next(iter(readers.values())).rows(source))) == 5


def test_columns_belong_to_the_right_units(network: Callable[[str], Base]) -> None:
    base = network("flatten")
    readers = {reader.layer: reader for reader in find_readers(base.program, base.groups).values()}
    group = base.groups.groups["c1"]
    table = readers["f1"].units_table(0, group.ids)
    assert table is not None
    # 6 channels of 4 x 4 places, flattened
    assert table.tolist() == np.arange(96).reshape(6, 16).tolist()
    assert readers["f1"].channels.tolist() == np.repeat(group.ids, 16).tolist()
    assert readers["f1"].units_table(0, base.groups.groups["f1"].ids) is None


def test_depthwise_convolutions_are_no_readers(network: Callable[[str], Base]) -> None:
    base = network("depthwise")
    assert [r.layer for r in find_readers(base.program, base.groups).values()] == ["project", "fc"]


CONVOLUTIONS = {
    "1d": (lambda: nn.Conv1d(6, 4, 3, stride=2, padding=1), (2, 6, 9)),
    "2d": (lambda: nn.Conv2d(6, 4, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1)), (2, 6, 9, 8)),
    "same": (lambda: nn.Conv2d(6, 4, 4, padding="same"), (2, 6, 9, 8)),
    "valid": (lambda: nn.Conv2d(6, 4, 3, padding="valid"), (2, 6, 9, 8)),
    "3d": (lambda: nn.Conv3d(6, 4, 2, stride=2), (2, 6, 4, 6, 4)),
    "grouped": (lambda: nn.Conv2d(16, 4, 3, groups=2), (2, 16, 7, 7)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(6, 4, 3, stride=2, padding=1), (2, 6, 9)),
    "transposed 2d": (
        lambda: nn.ConvTranspose2d(6, 4, (3, 4), stride=(2, 3), padding=(1, 0), output_padding=(1, 2), dilation=(1, 2)),
        (2, 6, 5, 4),
    ),
    "transposed, cropped": (lambda: nn.ConvTranspose2d(6, 4, 2, stride=2, padding=1), (2, 6, 5, 4)),
    "transposed, grouped": (lambda: nn.ConvTranspose2d(16, 4, 3, groups=2, bias=False), (2, 16, 5, 4)),
}


def base_of(name: str) -> tuple[Base, Reader]:
    make, shape = CONVOLUTIONS[name]
    kind = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[len(shape)]
    model = nn.Sequential(kind(shape[1], shape[1], 1), nn.ReLU(), make())
    program = trace(model, (torch.randn(shape, generator=torch.Generator().manual_seed(0)),))
    base = Base("x.py:x", None, shape, "", program, find_groups(program))
    readers = list(find_readers(program, base.groups).values())
    assert [reader.layer for reader in readers] == ["2"]
    return base, readers[0]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_convolution(name: str) -> None:
    check(*base_of(name))


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_evidence_is_that_of_the_rows(name: str, asymmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgespa.pruning.readers.CHUNK_BYTES", 5000)
    base, reader = base_of(name)
    source, output = outputs_of(base, reader)
    state = base.program.state()
    bias = state[reader.bias] if reader.bias else None
    matrices = full_matrices(reader, state[reader.weight], bias)
    collector = Collector(reader, matrices, asymmetric=asymmetric, shrink=False)
    changed = source * 0.5 + 0.1  # as of a network that is being pruned
    collector.add(changed, source, output)
    rows = [torch.cat(parts, 1).double() for parts in zip(*reader.rows(changed), strict=True)]
    for own, matrix, seen, target in zip(collector.result(), matrices, rows, reader.targets(output), strict=True):
        wide = torch.cat([seen, torch.ones(1, seen.shape[1]).double()]) if bias is not None else seen
        wanted = target.double() if asymmetric else matrix.T @ wide
        assert torch.allclose(own.gram, wide @ wide.T, rtol=1e-9, atol=1e-9)
        assert torch.allclose(own.cross, wide @ wanted.T, rtol=1e-5, atol=1e-4)
        assert torch.allclose(own.energy, wanted.square().sum(1), rtol=1e-5)
        assert own.rows == seen.shape[1]
    assert (reader.slides > 0) == (name not in ("1d", "2d", "3d"))  # those have strides or dilations


def of_alive(base: Base, reader: Reader, seed: int) -> list[tuple[Evidence, Evidence, np.ndarray, np.ndarray]]:
    """Per part the evidence for everything and for some units, and the rows and outputs that are alive."""
    random = np.random.default_rng(seed)
    alive = base.groups.alive({name: random.random(len(g)) < 0.5 for name, g in base.groups.groups.items()})
    source, output = outputs_of(base, reader)
    state = base.program.state()
    matrices = full_matrices(reader, state[reader.weight], state[reader.bias] if reader.bias else None)
    results = []
    for units in (None, alive):
        collector = Collector(reader, matrices, asymmetric=True, shrink=False, alive=units)
        collector.add(source * 0.5 + 0.1, source, output)
        results.append(collector.result())
    found = []
    for part, (full, own) in enumerate(zip(*results, strict=True)):
        constant = np.ones(len(full.gram) - len(reader.columns[part]), dtype=bool)
        rows = np.flatnonzero(np.concatenate([alive[reader.columns[part]], constant]))
        found.append((full, own, rows, np.flatnonzero(alive[reader.outputs[part]])))
    return found


def check_alive(base: Base, reader: Reader, seed: int) -> None:
    for full, own, rows, outputs in of_alive(base, reader, seed):
        assert own.gram.shape == full.gram.shape
        assert own.cross.shape == full.cross.shape
        assert torch.allclose(own.gram[rows][:, rows], full.gram[rows][:, rows], rtol=1e-9)
        assert torch.allclose(own.cross[rows][:, outputs], full.cross[rows][:, outputs], rtol=1e-9, atol=1e-6)
        assert torch.allclose(own.energy[outputs], full.energy[outputs], rtol=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_evidence_for_some_units_is_a_part_of_that_for_all(name: str, seed: int) -> None:
    check_alive(*base_of(name), seed)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_and_for_readers_of_every_kind(network: Callable[[str], Base], name: str, seed: int) -> None:
    base = network(name)
    for reader in find_readers(base.program, base.groups).values():
        check_alive(base, reader, seed)


@pytest.mark.parametrize("seed", range(4))
def test_and_where_targets_are_made_from_inputs(seed: int) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    program = trace(model, (torch.randn(2, 6),))
    base = Base("x.py:x", None, (2, 6), "", program, find_groups(program))
    for reader in find_readers(program, base.groups).values():
        check_alive(base, reader, seed)


def test_of_units_that_go_nothing_is_gathered() -> None:
    ((_, own, rows, _),) = of_alive(*base_of("2d"), 0)
    gone = np.setdiff1d(np.arange(len(own.gram)), rows)
    assert len(gone) in range(1, len(own.gram) - 1)
    assert not own.gram[gone].any()
    assert not own.cross[gone].any()


def test_weights_that_are_shared_or_computed_are_left_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.tied, self.second = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(x))
            x = self.tied(torch.relu(self.tied(x)))
            return nn.functional.linear(x, self.second.weight * 2)

    program = trace(Tied(), (torch.randn(2, 6),))
    assert find_readers(program, find_groups(program)) == {}


def test_a_layer_with_a_bias_that_is_shared_is_left_alone() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(x))
            return self.one(x) + nn.functional.linear(x, self.two.weight, self.one.bias)

    program = trace(Shared(), (torch.randn(2, 6),))
    assert find_readers(program, find_groups(program)) == {}
