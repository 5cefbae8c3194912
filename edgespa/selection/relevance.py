"""Outputs of layers with their gradients, by the loss or by layer-wise relevance propagation, from a program's graph.

Layer-wise relevance propagation (Bach et al. 2015; as a pruning criterion Yeom et al. 2021, arXiv 1912.08881, section
2.2) is computed as gradient x input of a program that is changed so that its gradients carry relevance (Montavon et al.
2019, "Layer-Wise Relevance Propagation: An Overview", section 10.3): where a rule distributes the relevance of ``z`` in
proportion to parts whose sum is ``p(z)``, the operator's result becomes ``p(z) * (z / p(z))`` with the quotient taken
as a constant. The value stays, and ``a * dL/da`` is the relevance of ``a``.

Rules:

* convolutions: z+ (alpha 1, beta 0), in proportion to the positive contributions ``max(a,0) max(w,0) + min(a,0)
  min(w,0)``, without the bias;
* linear layers and matrix products: the epsilon rule with epsilon to 0, which is plain gradient x input; the bias takes
  its share;
* norms, and activation functions that are not piecewise linear: relevance passes as it is;
* a product of two activations: half to each;
* additions, pooling, layout, ReLU: plain gradient x input, which is the epsilon rule. So are softmax and the fused
  attention operator, for which this is a simplification.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from edgespa.data.inputs import Inputs, arguments
from edgespa.graph.program import fetch
from edgespa.graph.rules.registry import named_arguments, operator_name

Objective = Callable[[Any], Tensor]
_SMALL = 1e-9
_CONVOLUTIONS = {f"conv{n}d" for n in (1, 2, 3)} | {f"conv_transpose{n}d" for n in (1, 2, 3)}
_PASSED = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"} | {
    "gelu", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "mish", "elu", "softplus",
}  # fmt: skip


def captured(
    module: fx.GraphModule,
    weights: Mapping[str, Tensor],
    inputs: Inputs,
    wanted: Collection[str],
    objective: Objective,
    *,
    relevance: bool = False,
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Run a program and differentiate a number by the results of some of its nodes.

    Args:
        module: The program, in evaluation form.
        weights: Tensors in place of the program's, by name.
        inputs: ``[N, ...]``, of several inputs all of them.
        wanted: Names of nodes.
        objective: From the program's output to a scalar.
        relevance: Run the program whose gradients carry relevance.

    Returns:
        By node its result and the gradient; None where the objective does not depend on it.
    """
    runner = _Runner(module, weights, wanted, relevance)
    with torch.enable_grad():
        number = objective(runner.run(*arguments(inputs)))
        names = list(runner.found)
        values = [runner.found[name] for name in names]
        gradients = torch.autograd.grad(number, values, allow_unused=True)
    return {name: (v.detach(), g) for name, v, g in zip(names, values, gradients, strict=True)}


def begun_at(chosen: Tensor) -> Tensor:
    """The start of a relevance: 1 at each of some outputs, in sum over them.

    Args:
        chosen: Of any shape, such as the output of each sample's class.
    """
    return (chosen / _away_from_zero(chosen).detach()).sum()


class _Runner(fx.Interpreter):
    def __init__(
        self, module: fx.GraphModule, weights: Mapping[str, Tensor], wanted: Collection[str], relevance: bool
    ) -> None:
        super().__init__(module)
        self._weights = weights
        self._wanted = set(wanted)
        self._relevance = relevance
        self.found: dict[str, Tensor] = {}

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A tensor of the program, or the one given in its place."""
        given = self._weights.get(str(target))
        return given.detach() if given is not None else fetch(self.module, str(target))

    def run_node(self, n: fx.Node) -> Any:
        """One node, by the relevance rules where they are wanted."""
        result = super().run_node(n)
        if self._relevance and isinstance(n.target, torch._ops.OpOverload):
            result = self._ruled(n, result)
        if n.name in self._wanted and isinstance(result, Tensor):
            if not result.requires_grad:
                result = result.detach().requires_grad_(True)
            self.found[n.name] = result
        return result

    def _ruled(self, n: fx.Node, result: Any) -> Any:
        name = operator_name(n)
        if name in _CONVOLUTIONS:
            return self._positive(n, result)
        arguments = named_arguments(n)
        if name in _PASSED:
            source = self.env[arguments["input"] if "input" in arguments else arguments["self"]]
            return _proportional(result, source)
        if name == "mul":
            pair = [arguments["self"], arguments["other"]]
            if all(isinstance(each, fx.Node) and each.op != "get_attr" for each in pair):
                one, other = (self.env[each] for each in pair)
                if isinstance(one, Tensor) and isinstance(other, Tensor):
                    return (one * other.detach() + one.detach() * other) * 0.5
        return result

    def _positive(self, n: fx.Node, result: Tensor) -> Tensor:
        target: Any = n.target
        given = fx.node.map_arg({**named_arguments(n), "bias": None}, lambda each: self.env[each])
        assert isinstance(given, dict)
        source, weight = given["input"], given["weight"]
        names = [argument.name for argument in target._schema.arguments]

        def of(inputs: Tensor, kernel: Tensor) -> Any:
            return target(*({**given, "input": inputs, "weight": kernel}[name] for name in names))

        parts = of(source.clamp(min=0), weight.clamp(min=0)) + of(source.clamp(max=0), weight.clamp(max=0))
        return _proportional(result, parts)


def _proportional(result: Tensor, parts: Tensor) -> Tensor:
    """The result as a constant multiple of parts; its value also where those are zero."""
    product = parts * (result / _away_from_zero(parts)).detach()
    return product + (result - product).detach()


def _away_from_zero(values: Tensor) -> Tensor:
    return torch.where(values >= 0, values.clamp(min=_SMALL), values.clamp(max=-_SMALL))
