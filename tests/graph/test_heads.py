"""Heads of attention as rows of weights, and programs with narrower ones."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from attention_networks import BOTH, HEADS, NONE, VALUES, network
from torch import nn

from edgespa.errors import GraphError
from edgespa.graph.head_widths import find_widths, kept_of, narrowed, with_scales
from edgespa.graph.heads import Attention, find_attentions
from edgespa.graph.program import Program
from edgespa.graph.proof import prove
from edgespa.graph.trace import trace


@functools.cache
def program_of(make: Callable[[], nn.Module]) -> Program:
    """Not to be changed."""
    return trace(network(make), (torch.randn(2, 3, 16, 16),))


@pytest.mark.parametrize("name", [*BOTH, *VALUES, *NONE])
def test_every_attention_is_found(name: str) -> None:
    program = program_of({**BOTH, **VALUES, **NONE}[name])
    found = find_attentions(program)
    assert len(found) == 2
    for attention in found:
        assert ("query-key" in attention.why_not) == (name not in BOTH)
        assert "value-output" not in attention.why_not
        assert attention.value is not None
        assert attention.output is not None
        assert attention.output.rows.shape == attention.value.rows.shape
        assert attention.value.rows.shape[1] == attention.value_width
        if attention.query is not None and attention.key is not None:
            assert attention.query.rows.shape == attention.key.rows.shape
            assert len({tuple(rows) for rows in attention.query.rows.tolist()}) == len(attention.query.rows)
    words = {"rotated": "positions that are rotated in", "fused, normed": "a norm"}
    if name in words:
        assert words[name] in found[0].why_not["query-key"]


def test_rows_by_hand() -> None:
    one, _ = find_attentions(program_of(BOTH["fused"]))
    assert one.query is not None
    assert one.key is not None
    assert one.value is not None
    assert one.output is not None
    assert one.query.rows.tolist() == [list(range(8 * head, 8 * head + 8)) for head in range(HEADS)]
    assert one.key.rows.tolist() == [list(range(24 + 8 * head, 32 + 8 * head)) for head in range(HEADS)]
    assert one.value.rows.tolist() == [list(range(48 + 8 * head, 56 + 8 * head)) for head in range(HEADS)]
    assert one.output.rows.tolist() == one.query.rows.tolist()
    assert (one.query.weight, one.query.bias) == ("layers.0.qkv.weight", "layers.0.qkv.bias")
    shared, _ = find_attentions(program_of(BOTH["shared keys"]))
    assert shared.key is not None
    assert [rows[0] for rows in shared.key.rows.tolist()] == [0, 0, 8, 8]


def test_attention_in_the_batch_has_the_rows_of_attention_beside_it() -> None:
    one, other = (find_attentions(program_of(BOTH[name]))[0] for name in ("torch", "torch, with weights"))

    def rows(attention: Attention) -> list[list[list[int]]]:
        sides = (attention.query, attention.key, attention.value, attention.output)
        return [side.rows.tolist() for side in sides if side is not None]

    assert len(rows(one)) == 4
    assert rows(one) == rows(other)


@pytest.mark.law(6)
@pytest.mark.parametrize("name", [*BOTH, *VALUES])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_narrower_is_masked(name: str, size: int) -> None:
    """Masked = compacted, for dimensions of heads: at the outputs and at every inner activation."""
    program = with_scales(program_of({**BOTH, **VALUES}[name]))
    groups, widths, why = find_widths(program, find_attentions(program))
    assert bool(why) == (name in VALUES)
    sizes = {width.group: size for width in widths}
    small = narrowed(program, sizes)
    proof = prove(program, groups, kept_of(groups, sizes), small, program.example_inputs())
    assert proof.output_error < 1e-5
    assert proof.inner_error < 1e-5
    assert small.parameter_count() < program.parameter_count()
    for attention in find_attentions(small):
        assert attention.value_width == size
        assert attention.width == (size if name in BOTH else 8)
    assert not torch.equal(small(*program.example_inputs()), program(*program.example_inputs()))


def test_the_proof_sees_a_wrong_dimension() -> None:
    program = with_scales(program_of(BOTH["apart"]))
    groups, widths, _ = find_widths(program, find_attentions(program))
    sizes = {width.group: 3 for width in widths}
    kept = {name: mask[::-1].copy() for name, mask in kept_of(groups, sizes).items()}
    assert prove(program, groups, kept, narrowed(program, sizes), program.example_inputs()).output_error > 1e-3


@pytest.mark.law(4)
@pytest.mark.parametrize("name", BOTH)
def test_saying_the_scale_changes_nothing(name: str) -> None:
    program = program_of(BOTH[name])
    inputs = program.example_inputs()
    torch.testing.assert_close(with_scales(program)(*inputs), program(*inputs), rtol=1e-6, atol=1e-6)


def test_one_weight_of_one_width_with_a_norm_stays_as_it_is() -> None:
    program = program_of(NONE["fused, normed"])
    _, widths, why = find_widths(program, find_attentions(program))
    assert widths == ()
    assert len(why) == 4


def test_a_weight_of_two_layers_stays_as_it_is() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = BOTH["fused"]()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    program = program_of(Twice)
    assert "is used more than once" in find_attentions(program)[0].why_not["query-key"]
    assert find_widths(program, find_attentions(program))[1] == ()


def test_networks_without_attention_have_none_and_widths_are_checked() -> None:
    plain = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), (torch.randn(2, 3, 8, 8),))
    assert find_attentions(plain) == ()
    program = program_of(BOTH["fused"])
    _, (width, _), _ = find_widths(program, find_attentions(program))
    with pytest.raises(GraphError, match="would lose all"):
        narrowed(program, {width.group: 0})
