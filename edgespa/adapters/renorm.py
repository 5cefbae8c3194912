"""Batch norms put back behind the convolutions of a network that has none, such as one whose norms were folded.

Without norms the activations of a network fade, layer by layer, as channels go, and the learning rates that adapters
need make it diverge. An inserted norm starts as the identity: `calibrate` gives it the mean and the variance that its
input has, as statistics and as bias and weight alike. A task stores its four vectors; on export it goes into the
convolution again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, fx

from edgespa.adapters.insertion import INSERTED, add_buffer, add_parameter, finish, is_inserted, read
from edgespa.graph.program import Program, fetch, shape_of
from edgespa.graph.rules.registry import operator_name

EPS = 1e-5
MOMENTUM = 0.1

_KEY = "norm"
_BATCH_NORM = torch.ops.aten.batch_norm.default
_CONVOLUTIONS = {f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in (1, 2, 3)}


def has_norms(program: Program) -> bool:
    """Whether any operator of the program is a norm."""
    return any("norm" in operator_name(node) for node in program.graph.nodes)


def with_norms(program: Program) -> Program:
    """The program with a batch norm behind each convolution that no norm follows, as the identity.

    Args:
        program: In evaluation form.
    """
    result = program.copy()
    graph = result.graph
    found = [node for node in graph.nodes if operator_name(node) in _CONVOLUTIONS and not _is_normed(node)]
    for index, node in enumerate(found):
        value = node.meta["val"]
        like = {"dtype": value.dtype, "device": value.device}
        channels, key = shape_of(value)[1], f"{_KEY}.{index}"
        add_parameter(result.module, f"{key}.weight", torch.full((channels,), math.sqrt(1 + EPS), **like))
        add_parameter(result.module, f"{key}.bias", torch.zeros(channels, **like))
        add_buffer(result.module, f"{key}.running_mean", torch.zeros(channels, **like))
        add_buffer(result.module, f"{key}.running_var", torch.ones(channels, **like))
        with graph.inserting_after(node):
            norm = graph.call_function(_BATCH_NORM)
        node.replace_all_uses_with(norm)
        with graph.inserting_before(norm):
            tensors = [read(graph, f"{key}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        norm.args = (node, *tensors, False, MOMENTUM, EPS, False)
        norm.meta["nn_module_stack"] = node.meta.get("nn_module_stack")  # a part of the block: see graph/regions.py
    return finish(result)


def with_momentum(program: Program, momentum: float) -> Program:
    """The program with another share of a batch in the running statistics of its batch norms.

    Args:
        program: Not changed.
        momentum: The share, in (0, 1].
    """
    result = program.copy()
    for node in result.graph.nodes:
        if node.target is _BATCH_NORM:
            node.args = (*node.args[:6], momentum, *node.args[7:])
    result.module.recompile()
    return result


def inserted_norms(program: Program) -> tuple[fx.Node, ...]:
    """The nodes of the norms that `with_norms` has put in."""
    found = [node for node in program.graph.nodes if node.target is _BATCH_NORM and isinstance(node.args[1], fx.Node)]
    return tuple(node for node in found if is_inserted(str(node.args[1].target)))


def behind_norms(program: Program, names: Sequence[str]) -> list[str]:
    """Where what some nodes give is found: at the norm that `with_norms` has put behind one.

    Args:
        program: Perhaps with such norms.
        names: Of nodes.
    """
    norms = {node.args[0].name: node.name for node in inserted_norms(program) if isinstance(node.args[0], fx.Node)}
    return [norms.get(name, name) for name in names]


def merged_tensors(names: Iterable[str]) -> frozenset[str]:
    """Those of some tensors that export merges into convolutions: of norms that `with_norms` has put in."""
    return frozenset(name for name in names if name.startswith(f"{INSERTED}.{_KEY}."))


def count_norms(tensors: Iterable[str]) -> int:
    """How many norms `with_norms` has put into a program, from the names of a task's tensors."""
    return sum(name.endswith(".running_var") for name in merged_tensors(tensors))


@torch.no_grad()
def calibrate(program: Program, weights: Mapping[str, Tensor], batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Give each inserted norm the statistics of its input, with which it is the identity.

    The variance is the biased one over all batches. A norm whose input is constant gets that constant as its bias.

    Args:
        program: In evaluation form, with fresh norms; changed in place.
        weights: In place of those of the program, by name.
        batches: All inputs of a run, in one type, at least one.
    """
    watch = _Watch(program, weights)
    for batch in batches:
        watch.run(*batch)
    for node, (count, total, squares) in watch.sums.items():
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        names = [str(item.target) for item in node.args[1:5] if isinstance(item, fx.Node)]
        weight, bias, running_mean, running_var = (fetch(program.module, name) for name in names)
        running_mean.copy_(mean)
        running_var.copy_(variance)
        weight.copy_((variance + EPS).sqrt())
        bias.copy_(mean)


class _Watch(fx.Interpreter):
    """Runs a program and sums what inserted norms read, over all but the channels, in float64."""

    def __init__(self, program: Program, weights: Mapping[str, Tensor]) -> None:
        super().__init__(program.module)
        self._weights = weights
        self._norms = set(inserted_norms(program))
        self.sums: dict[fx.Node, tuple[int, Tensor, Tensor]] = {}

    def fetch_attr(self, target: str) -> object:
        return self._weights[target] if target in self._weights else super().fetch_attr(target)

    def run_node(self, n: fx.Node) -> object:
        if n in self._norms:
            value, *_ = self.fetch_args_kwargs_from_env(n)[0]
            flat = value.transpose(0, 1).flatten(1).double()
            count, total, squares = self.sums.get(n, (0, torch.zeros(1), torch.zeros(1)))
            self.sums[n] = count + flat.shape[1], total + flat.sum(1), squares + flat.square().sum(1)
        return super().run_node(n)


def _is_normed(node: fx.Node) -> bool:
    return any("norm" in operator_name(user) for user in node.users)
