"""Ranges of activations that a training with levels ends with, and that its int8 files have: found once, then fixed.

They are found as those of files are, on training images, with the weights at their levels: each way of
`edgespa.quantisation.ranges` is tried, and the one is kept with which the outputs come nearest to what they are without
levels for activations. From then on the weights are trained with these very ranges.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from edgespa.graph.program import Program
from edgespa.quantisation.fake import coarse_weights, on_levels, sites_of, with_levels, without_levels
from edgespa.quantisation.ranges import METHODS, Observed, Range, find_ranges

log = logging.getLogger(__name__)

IMAGES = 256
"""At most so many training images, in whole batches."""


@torch.no_grad()
def trained_ranges(program: Program, batches: Sequence[tuple[Tensor, ...]]) -> dict[str, Range]:
    """Ranges for the sites of a program, by their names.

    Args:
        program: Merged, in evaluation form, with levels for activations or without.
        batches: Inputs of some runs, as the program takes them.

    Returns:
        By the names of `edgespa.quantisation.fake.sites_of`; of sites that hold infinities, none.
    """
    state = program.state()
    plain = without_levels(program).with_state({name: on_levels(state[name]) for name in coarse_weights(program)})
    met = _Met(plain.module, sites_of(plain))
    wanted = [_numbers(met.run(*inputs)) for inputs in batches]
    observed = {site: each for site, each in met.observed.items() if each.finite and each.values}
    best: dict[str, Range] = {}
    least = float("inf")
    for method in METHODS:
        ranges = find_ranges(observed, method)
        coarse = with_levels(plain, ranges)
        error = sum(_off(_numbers(coarse(*inputs)), own) for inputs, own in zip(batches, wanted, strict=True))
        log.debug("ranges by %s: error %.4g", method, error)
        if not best or error < least:
            best, least = ranges, error
    return best


class _Met(fx.Interpreter):
    """Sees what the sites of a program hold as it runs."""

    def __init__(self, module: fx.GraphModule, sites: Mapping[str, fx.Node]) -> None:
        super().__init__(module)
        names: dict[str, list[str]] = {}
        for site, node in sites.items():
            names.setdefault(node.name, []).append(site)
        self._names = names
        self.observed: dict[str, Observed] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        sites = self._names.get(n.name, ())
        if sites and isinstance(result, Tensor) and result.numel():
            first = self.observed.setdefault(sites[0], Observed.of(spread=False))
            for sample in result.float().cpu():
                first.add(sample.numpy())
            for site in sites[1:]:
                self.observed[site] = first
        return result


def _numbers(outputs: Any) -> list[Tensor]:
    return [
        each.float() for each in pytree.tree_leaves(outputs) if isinstance(each, Tensor) and each.is_floating_point()
    ]


def _off(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Relative squared error, of all outputs together: each counts by what it varies."""
    return sum(
        float((own - other).square().sum() / (other - other.mean(0)).square().sum().clamp(min=1e-12))
        for own, other in zip(ours, theirs, strict=True)
    )
