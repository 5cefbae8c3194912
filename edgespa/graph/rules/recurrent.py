"""Recurrent layers: a hidden unit is one row of every gate, one column of the recurrent weight and one output channel.

A removed unit's state is zero at every step: with zero weights and biases the candidate is ``tanh(0)``, so an LSTM's
cell ``f * c + i * 0`` and a GRU's state ``(1 - z) * 0 + z * h`` stay at the zero they begin with.
"""

from __future__ import annotations

import numpy as np

from edgespa.graph.labels import Block, Labels, Value
from edgespa.graph.rules.contraction import contract, place
from edgespa.graph.rules.layout import unknown
from edgespa.graph.rules.registry import Call, rule

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_CELLS = {f"{kind}_cell": gates for kind, gates in _GATES.items()}


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(call: Call) -> Value | list[Value]:
    """``input [.., in]``, ``params`` of each layer and direction: ``w_ih [gates * h, in], w_hh [gates * h, h], b, b``.

    The results are the outputs ``[.., directions * h]`` and the last states ``[layers * directions, batch, h]``. The
    states have one width, so the units at one place of all layers and directions are one unit.
    """
    params = call.list_of("params") if "params" in call.arguments else []
    layers, directions = int(call.number("num_layers", 1)), 1 + bool(call.number("bidirectional"))
    each = 4 if call.number("has_biases") else 2
    if not params or len(params) != layers * directions * each:
        return unknown(call, "packed sequences or projections")
    hidden = params[1].shape[1]
    unit = call.labels.fresh(hidden)
    x = call.labels.pin(call.value("input"), range(2), "steps and batch of a recurrent layer")
    states = call.list_of("hx") if call.name == "lstm" else [call.value("hx")]
    for state in states:
        _tie(call, call.labels.pin(state, range(2), "layers and batch of a state"), 2, unit)
    dead = _dead(states)
    output = np.tile(unit, directions)
    for layer in range(layers):
        for direction in range(directions):
            start = (layer * directions + direction) * each
            into, recurrent_weight, *biases = params[start : start + each]
            gates = np.tile(unit, _GATES[call.name])
            for rows in (into, recurrent_weight, *biases):
                _tie(call, rows, 0, gates)
            _tie(call, recurrent_weight, 1, unit)
            inner, outer = len(x.shape) - 1, len(x.shape)
            operands = [place(x, tuple(range(outer)), outer + 1), place(into, (outer, inner), outer + 1)]
            contract(call, operands, (inner,))
        x = Value((*x.shape[:-1], len(output)), (Block((len(x.shape) - 1,), output),), dead)
    return [x, *(Value(shape, (Block((len(shape) - 1,), unit),), dead) for shape in call.shapes[1:])]


@rule(*_CELLS)
def cell(call: Call) -> Value | list[Value]:
    """One step of one layer: ``input [N, in]``, ``hx`` (an LSTM's: two) ``[N, h]``, ``w_ih``, ``w_hh``, two biases."""
    into, recurrent_weight = call.value("w_ih"), call.value("w_hh")
    unit = call.labels.fresh(recurrent_weight.shape[1])
    gates = np.tile(unit, _CELLS[call.name])
    states = call.list_of("hx") if call.name == "lstm_cell" else [call.value("hx")]
    last = len(states[0].shape) - 1
    for state in states:
        _tie(call, call.labels.pin(state, range(last), "batch of a state"), last, unit)
    for rows in (into, recurrent_weight, call.maybe("b_ih"), call.maybe("b_hh")):
        if rows is not None:
            _tie(call, rows, 0, gates)
    _tie(call, recurrent_weight, 1, unit)
    x = call.value("input")
    inner, outer = len(x.shape) - 1, len(x.shape)
    contract(call, [place(x, tuple(range(outer)), outer + 1), place(into, (outer, inner), outer + 1)], (inner,))
    results = [Value(shape, (Block((last,), unit),), _dead(states)) for shape in call.shapes]
    return results if call.name == "lstm_cell" else results[0]


def _dead(states: list[Value]) -> float | None:
    """What a removed unit holds after a step: zero if it began as zero, else whatever the gates leave of it."""
    return 0.0 if all(state.dead == 0.0 for state in states) else None


def _tie(call: Call, value: Value, dim: int, labels: Labels) -> None:
    """Tie one dimension of a value to labels; where it has none they are fixed."""
    own = call.labels.axis(value, dim, f"operand of {call.name}")
    if own is None:
        call.labels.fix(labels, f"combined ({call.name}) with {value.why}")
    else:
        call.labels.unite(own, labels)
