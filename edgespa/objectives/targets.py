"""What data say is right for each image, and whether a program's outputs are answers to that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgespa.data import Kind, Prepared
from edgespa.errors import DataError
from edgespa.graph.program import Program
from edgespa.models.interface import output_tensors


def has_answers(data: Prepared) -> bool:
    """Whether it is known of every image what is right: its class, or its targets, whatever numbers those are."""
    return data.kind != "classes" or bool((data.labels >= 0).all())


def scores(output: Any, data: Prepared, *, own: bool = False) -> Tensor:
    """A program's answers to some images of a data set: one number per class, or per column of targets.

    Args:
        output: What the program gives; of several tensors the first counts.
        data: The data.
        own: The classes have to be the program's own: as many as it tells apart. Else it may know more of them.

    Returns:
        ``[N, K]``.

    Raises:
        DataError: If it is anything else; the message says what was found.
    """
    found = output_tensors(output)
    wanted = len(data.classes)
    flat = bool(found) and found[0].dim() == 2
    if flat and (found[0].shape[1] == wanted or (data.kind == "classes" and not own and found[0].shape[1] > wanted)):
        return found[0]
    what = "classes" if data.kind == "classes" else f"columns of {data.kind} targets"
    others = f"give data of the network's own {what}, or leave them out"
    none = "leave labelled data out: outputs other than [N, K], such as boxes and maps, have no accuracy here"
    raise DataError(
        f"the network gives {shapes_of(output)}, and {data.name} has {wanted} {what}: they cannot be compared",
        others if flat else none,
    )


def shapes_of(output: Any) -> str:
    """The shapes of what a program gives, in words: ``[N, 10]``, or several of them."""
    sizes = [["N", *map(str, each.shape[1:])] if each.dim() else [] for each in output_tensors(output)]
    return ", ".join(f"[{', '.join(each)}]" for each in sizes) or "no tensor"


@torch.no_grad()
def require_scores(program: Program, data: Prepared) -> None:
    """Refuse a program whose outputs are no `scores` of the data, before anything long begins.

    Raises:
        DataError: As `scores`, also if it tells apart more classes than the data have.
    """
    scores(program(*program.example_inputs()), data, own=True)


def plain_loss(kind: Kind, outputs: Tensor, labels: Tensor, *, reduction: str = "mean") -> Tensor:
    """The loss of a kind of data: cross-entropy, for multi-label data the binary one, for regression the squared error.

    Args:
        kind: Of the data.
        outputs: Logits or numbers ``[N, K]``.
        labels: Class indices ``[N]``, or targets ``[N, K]``.
        reduction: ``mean`` or ``sum``, over images and columns.
    """
    if kind == "regression":
        return nn.functional.mse_loss(outputs, labels, reduction=reduction)
    if kind == "multi-label":
        return nn.functional.binary_cross_entropy_with_logits(outputs, labels, reduction=reduction)
    return nn.functional.cross_entropy(outputs, labels, reduction=reduction)
