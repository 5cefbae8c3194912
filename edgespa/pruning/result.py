"""What pruning leaves: a task with kept units, new weights, the figures of the fit, and the proof."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from edgespa.config import Preprocess
from edgespa.graph.groups import Kept
from edgespa.graph.program import Program
from edgespa.graph.proof import prove
from edgespa.graph.surgery import compact, slice_tensors
from edgespa.pruning.config import PruneConfig
from edgespa.pruning.front import Progress
from edgespa.pruning.images import Images
from edgespa.pruning.norms import reestimate
from edgespa.pruning.survey import Network
from edgespa.selection import reconstruct
from edgespa.tasks.task import Task, make_header

PROOF_IMAGES = 4
CURVE_POINTS = 33
_DIGITS = 6


def make_task(
    network: Network,
    config: PruneConfig,
    result: Progress,
    whole: Mapping[str, str],
    folder: Path,
    preprocess: Preprocess | None,
    images: Images | None,
) -> Task:
    """Compact, prove that masked = compacted with the new weights, and describe it all.

    Args:
        network: The network.
        config: How it was pruned.
        result: Masks and new tensors.
        whole: Groups that stayed whole, with the reason.
        folder: Where the task file will lie.
        preprocess: Recorded if known.
        images: Calibration images.

    Raises:
        GraphError: If the compacted program does not equal the masked one.
    """
    base = network.base
    kept: Kept = {**base.groups.all_kept(), **result.kept}
    alive = base.groups.alive(kept)
    changed = {
        name: tensor for name, tensor in result.changed.items() if _differs(tensor, base.program, name, network, alive)
    }
    program = base.program.with_state(changed) if changed else base.program
    compacted = compact(program, base.groups, kept)
    inputs = base.program.example_inputs()
    if images is not None:
        inputs = images.first(PROOF_IMAGES)
    proof = prove(program, base.groups, kept, compacted, inputs)
    proof.require()
    tensors = {**changed, **slice_tensors(changed, base.groups, alive)}
    if config.bn_reestimate and images is not None:
        tensors.update(reestimate(compacted, images))
    metrics = {"masked_compacted_error": max(proof.output_error, proof.inner_error)}
    if result.errors:
        metrics["largest_reconstruction_error"] = max(result.errors.values())
        metrics["mean_reconstruction_error"] = float(np.mean(list(result.errors.values())))
    header = make_header(
        base,
        kept,
        folder,
        stored_parameters=sum(tensor.numel() for tensor in tensors.values()),
        preprocess=preprocess,
        metrics=metrics,
        provenance={
            "method": "prune",
            "config": config.model_dump(mode="json"),
            "torch": torch.__version__,
            **_account(network, config, result, whole, images),
        },
    )
    return Task(header, kept, tensors=tensors)


def _differs(tensor: Tensor, program: Program, name: str, network: Network, alive: np.ndarray) -> bool:
    """Whether a tensor is new on what is kept, and not only zero where units are gone."""
    old = dict(program.tensors())[name].detach()
    one, other = (slice_tensors({name: each}, network.base.groups, alive).get(name, each) for each in (tensor, old))
    return not torch.equal(one, other)


def _account(
    network: Network, config: PruneConfig, result: Progress, whole: Mapping[str, str], images: Images | None
) -> dict[str, JsonValue]:
    """How well every reader is reconstructed, and what the greedy curves say about other sizes."""
    account: dict[str, Any] = {}
    if images is not None:
        account["calibration"] = {"data": images.name, "images": images.count}
    if whole:
        account["whole"] = dict(whole)
    if result.errors:
        account["reconstruction_error"] = {name: _rounded(error) for name, error in result.errors.items()}
    if result.paths:
        counts = {name: int(result.kept[name].sum()) for name in result.paths if name in result.kept}
        account["curves"] = {name: _curve(path, counts.get(name)) for name, path in result.paths.items()}
    plain: dict[str, JsonValue] = json.loads(json.dumps(account))
    return plain


def _curve(path: reconstruct.Path, kept: int | None) -> dict[str, Any]:
    """A greedy curve at `CURVE_POINTS` sizes and the chosen one: what greedy reaches, what no choice can go below."""
    last = len(path.errors) - 1
    sizes = {round(last * step / (CURVE_POINTS - 1)) for step in range(CURVE_POINTS)}
    points = sorted(sizes | ({kept} if kept is not None else set()))
    return {
        "kept": kept,
        "units": points,
        "error": [_rounded(path.errors[size]) for size in points],
        "least_error": [_rounded(path.least_errors[size]) for size in points],
        "submodularity_ratio": _rounded(path.ratio),
    }


def _rounded(value: float) -> float:
    return float(f"{float(value):.{_DIGITS}g}")
