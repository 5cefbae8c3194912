"""Ranges that a task was trained with, for the activations of its files: found by the weights of the layers around."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgespa.exporting.corrections import placed
from edgespa.exporting.lowering import with_heads, without_batch_norms
from edgespa.graph.program import Program, fetch
from edgespa.quantisation.fake import INPUT, OUTPUT
from edgespa.quantisation.ranges import Range
from edgespa.quantisation.walk import layers_of

TRAINED = "training"
"""How the ranges of a file were found, in place of a way of finding them on calibration images."""


def ranges_in_file(program: Program, quantiser: Any, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Trained ranges by the names that activations have in a file.

    What nobody trained, as of layers that share their weights, has none.

    Args:
        program: That the file was made of.
        quantiser: Of the fp32 file.
        ranges: By the names of `edgespa.quantisation.fake.sites_of`.
    """
    if not ranges:
        return {}
    headed = with_heads(program)
    merged = without_batch_norms(headed, convolutions=True)
    called = {node.name: name for name, node in layers_of(headed).items()}  # a merged weight has a name of its own
    weights = {called[node.name]: fetch(merged.module, name).detach() for name, node in layers_of(merged).items()}
    names = list(weights)
    sites: dict[str, dict[str, str]] = {OUTPUT: {}, INPUT: {}}
    for layer, (place, _) in placed(quantiser.weights(), list(weights.values())).items():
        source, target = quantiser.around(layer)
        sites[OUTPUT][target] = f"{names[place]}/{OUTPUT}"
        sites[INPUT][source] = f"{names[place]}/{INPUT}"
    # What a layer reads goes before what another gives: between them may be what leaves values as they are.
    return {name: ranges[site] for side in (OUTPUT, INPUT) for name, site in sites[side].items() if site in ranges}
