"""torchvision's one-stage detectors, taken apart: the network that is traced, and what its outputs mean.

Their ``forward`` takes lists of images, chooses by the numbers it finds, and returns boxes: no graph of fixed size.
What is traced instead is their backbone and their heads on a batch that is resized and normalised, with the outputs of
the heads as they are; all else is plain data, a `Detector`. torchvision is not imported: a model of it has done so.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgespa.bundle.decoding import Columns, Decoding, Grid
from edgespa.config import PixelSettings
from edgespa.errors import ModelError
from edgespa.models.recorded import Recorded
from edgespa.pixels.boxes import anchors_of

Family = Literal["ssd", "retinanet", "fcos", "detr", "queries"]
LOGITS, BOXES, CENTERNESS = "cls_logits", "bbox_regression", "bbox_ctrness"
"""The outputs, as the libraries' heads call them; `RawDetector` gives them in this order."""
_CLASSES: dict[Family, str] = {"ssd": "SSD", "retinanet": "RetinaNet", "fcos": "FCOS"}
_PRIOR = 0.01
_ANCHORS_NEAR = 1e-2
"""Of the largest difference in pixels between its own anchors and those that are described here."""
_RESIZED = (
    "resized until their shorter side was {0}, or their longer one {1}, and given to the network in batches as large "
    "as the largest"
)


@dataclasses.dataclass(frozen=True)
class Detector:
    """What there is to know of a one-stage detector besides its program.

    Attributes:
        family: Whose loss and whose anchors it has.
        classes: How many it tells apart, without a background.
        decoding: From its outputs to boxes.
        high: Overlap of an object and an anchor that makes them a pair; see torchvision's ``Matcher``.
        low: Below it an anchor is background; between both it does not count.
        low_quality: Each object has a pair, however little they overlap.
        negatives: Of SSD: anchors without an object that count, for each with one.
        radius: Of FCOS: how far from the middle of an object, in strides.
        box_loss: Of RetinaNet: which loss boxes have.
        costs: Of DETR: what its matcher and its loss are weighed by, by name.
        head: Names of the tensors that write the outputs.
    """

    family: Family
    classes: int
    decoding: Decoding
    high: float = 0.5
    low: float = 0.5
    low_quality: bool = True
    negatives: float = 3.0
    radius: float = 1.5
    box_loss: str = "l1"
    costs: tuple[tuple[str, float], ...] = ()
    head: tuple[str, ...] = ()

    @property
    def background(self) -> bool:
        """Whether one of its columns is none of the classes."""
        return self.decoding.background is not None


class RawDetector(nn.Module):
    """A detector's backbone and heads.

    Args:
        model: The detector; its tensors keep their names.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.head = model.head

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images [N, 3, H, W] to outputs [N, anchors, columns] by name."""
        features = self.backbone(images)
        found = self.head([features] if isinstance(features, Tensor) else list(features.values()))
        return {name: found[name] for name in (LOGITS, BOXES, CENTERNESS) if name in found}


@dataclasses.dataclass(frozen=True)
class TakenApart:
    """A detector of torchvision.

    Attributes:
        model: The detector itself.
        family: What it is.
        network: What is traced.
        recorded: How an image becomes an input.
    """

    model: Any
    family: Family
    network: RawDetector
    recorded: Recorded

    def detector(self, height: int, width: int) -> Detector:
        """What there is to know of it, for inputs of a size.

        Args:
            height: In pixels.
            width: Likewise.

        Raises:
            ModelError: It has parts of its own that cannot be described here.
        """
        model, family = self.model, self.family
        with _worded(model), torch.no_grad():
            features = model.backbone(torch.zeros(1, 3, height, width, dtype=next(model.parameters()).dtype))
            found = [features] if isinstance(features, Tensor) else list(features.values())
            columns = model.head(found)[LOGITS].shape[-1]
            grids = _grids(model.anchor_generator, family, found, height, width)
            _require_same(model.anchor_generator, grids, found, height, width)
            matcher, coder = getattr(model, "proposal_matcher", None), model.box_coder
            if family == "fcos" and not coder.normalize_by_size:
                raise ValueError("distances that are not in sizes of the anchors")
            head = getattr(model.head, "regression_head", None)
            return Detector(
                family,
                int(columns) - (family == "ssd"),
                _decoding(model, family, grids, (height, width)),
                high=float(getattr(matcher, "high_threshold", 0.5)),
                low=float(getattr(matcher, "low_threshold", 0.5)),
                low_quality=bool(getattr(matcher, "allow_low_quality_matches", True)),
                negatives=float(getattr(model, "neg_to_pos_ratio", 3.0)),
                radius=float(getattr(model, "center_sampling_radius", 1.5)),
                box_loss=str(getattr(head, "_loss_type", "l1")),
                head=tuple(_head_names(self.network)),
            )

    def with_classes(self, count: int, seed: int = 0) -> TakenApart:
        """The same with a fresh layer for each output of class scores.

        Args:
            count: Classes, without a background.
            seed: Of the fresh weights, which are drawn as the library draws them.

        Raises:
            ModelError: Its head is not the library's own.
        """
        model = copy.deepcopy(self.model)
        head = getattr(model.head, "classification_head", None)
        layers = _last_layers(head)
        if head is None or not layers or not (hasattr(head, "num_columns") or hasattr(head, "num_classes")):
            raise ModelError(
                f"the head of this {type(model).__name__} is not torchvision's own, so it gets no other classes here",
                "build it for the classes of the data",
            )
        columns = count + (self.family == "ssd")
        before = int(getattr(head, "num_columns", None) or head.num_classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for owner, name, old in layers:
                new = nn.Conv2d(
                    old.in_channels,
                    old.out_channels // before * columns,
                    old.kernel_size,  # type: ignore[arg-type]
                    old.stride,  # type: ignore[arg-type]
                    old.padding,  # type: ignore[arg-type]
                    bias=old.bias is not None,
                    dtype=old.weight.dtype,
                )
                _initialise(new, self.family, lite=isinstance(owner, nn.Sequential))
                setattr(owner, name, new)
        for name in ("num_columns", "num_classes"):
            if hasattr(head, name):
                setattr(head, name, columns)
        return dataclasses.replace(self, model=model, network=RawDetector(model).eval())


def taken_apart(model: nn.Module, spec: str) -> TakenApart | None:
    """A detector of torchvision, or None for any other model.

    Args:
        model: As it comes, in evaluation form.
        spec: How it was named, for messages.

    Raises:
        ModelError: It is a detector of two stages.
    """
    staged = _kind("generalized_rcnn", "GeneralizedRCNN")
    if staged is not None and isinstance(model, staged):
        raise ModelError(
            f"{spec} is a {type(model).__name__}, a detector of two stages: how much its second one computes depends "
            "on what the first one finds, which is no graph of fixed size",
            "give a detector of one stage: SSD, SSDLite, RetinaNet, FCOS, or a network with raw outputs of your own; "
            "or its backbone alone",
        )
    for family, name in _CLASSES.items():
        kind = _kind(family, name)
        # One whose forward was written anew does what its author wants.
        if kind is not None and isinstance(model, kind) and type(model).forward is kind.forward:
            return TakenApart(model, family, RawDetector(model).eval(), _recorded(model))
    return None


def _kind(module: str, name: str) -> Any:
    """A class of torchvision, if anything has imported it."""
    return getattr(sys.modules.get(f"torchvision.models.detection.{module}"), name, None)


@contextlib.contextmanager
def _worded(model: nn.Module) -> Iterator[None]:
    try:
        yield
    except (AttributeError, TypeError, ValueError, RuntimeError, LookupError) as error:
        raise ModelError(
            f"this {type(model).__name__} cannot be described: {type(error).__name__}: {error}",
            "give one with the anchors, the coder and the heads of torchvision, at a size that it takes; or write a "
            "module that returns its raw outputs, with an objective of your own",
        ) from error


def _recorded(model: Any) -> Recorded:
    """How its own transform makes inputs of images; between pixels it resizes without antialiasing, once normalised."""
    transform = model.transform
    mean = tuple(float(value) for value in transform.image_mean)
    std = tuple(float(value) for value in transform.image_std)
    plain: dict[str, Any] = {"interpolation": "bilinear", "antialias": False}
    if transform.fixed_size is not None:
        width, height = (int(side) for side in transform.fixed_size)
        return Recorded((3, height, width), mean, std, PixelSettings(**plain))
    padding = tuple(min(255, max(0, round(255 * value))) for value in mean)  # 0 once it is normalised
    settings = PixelSettings(resize="letterbox", padding=padding, **plain)
    return Recorded(None, mean, std, settings, _RESIZED.format(transform.min_size[-1], transform.max_size))


def _grids(generator: Any, family: Family, features: list[Tensor], height: int, width: int) -> tuple[Grid, ...]:
    """The anchors of each map of features."""
    sizes = [tuple(int(side) for side in each.shape[-2:]) for each in features]
    grids = []
    for level, (rows, columns) in enumerate(sizes):
        if family == "ssd":
            pairs = generator._wh_pairs[level]
            half = (pairs.clamp(0, 1) if generator.clip else pairs).double() * torch.tensor([width, height]) / 2
            cells = torch.cat([-half, half], 1)
            step = generator.steps[level] if generator.steps is not None else None
            stride = (height / rows, width / columns) if step is None else (float(step), float(step))
            offset = (0.5, 0.5)
        else:
            cells = generator.cell_anchors[level]
            stride, offset = (float(height // rows), float(width // columns)), (0.0, 0.0)
        corners = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in cells.tolist())
        grids.append(Grid(rows=rows, columns=columns, stride=stride, offset=offset, cells=corners))
    return tuple(grids)


def _require_same(generator: Any, grids: tuple[Grid, ...], features: list[Tensor], height: int, width: int) -> None:
    """Refuse a generator of the user's own: what it makes is not what is described."""
    images = SimpleNamespace(tensors=torch.zeros(1, 3, height, width), image_sizes=[(height, width)])
    (own,) = generator(images, features)
    here = anchors_of([grid.model_dump() for grid in grids], len(own))
    if float(np.abs(here - own.double().numpy()).max(initial=0.0)) > _ANCHORS_NEAR:
        raise ValueError("anchors that lie otherwise than in rows and columns")


def _decoding(model: Any, family: Family, grids: tuple[Grid, ...], size: tuple[int, int]) -> Decoding:
    coder = model.box_coder
    x, y, width, height = (1.0,) * 4 if family == "fcos" else (float(weight) for weight in coder.weights)
    return Decoding(
        size=size,
        scores=Columns(output=0),
        activation="softmax" if family == "ssd" else "sigmoid",
        background="first" if family == "ssd" else None,
        boxes=Columns(output=1),
        coding="distances" if family == "fcos" else "deltas",
        weights=(x, y, width, height),
        largest=float(getattr(coder, "bbox_xform_clip", math.log(1000 / 16))),
        anchors=grids,
        centerness=Columns(output=2) if family == "fcos" else None,
        threshold=float(model.score_thresh),
        candidates=int(model.topk_candidates),
        pool="class" if family == "ssd" else "grid",
        overlap=float(model.nms_thresh),
        most=int(model.detections_per_img),
    )


def _last_layers(head: Any) -> list[tuple[Any, str, nn.Conv2d]]:
    """The convolutions that write a head's output: what holds each, and under which name."""
    if isinstance(getattr(head, "module_list", None), nn.ModuleList):  # one for each map of features
        found = []
        for name, block in head.module_list.named_children():
            owner, key, layer = head.module_list, name, block
            if isinstance(block, nn.Sequential):
                owner, key, layer = block, str(len(block) - 1), block[-1]
            found.append((owner, key, layer))
    else:
        names = ("cls_logits", "bbox_reg", "bbox_ctrness")
        found = [(head, name, getattr(head, name)) for name in names if hasattr(head, name)]
    return found if all(isinstance(layer, nn.Conv2d) and layer.groups == 1 for _, _, layer in found) else []


def _head_names(network: RawDetector) -> Iterator[str]:
    parts = [getattr(network.head, f"{each}_head", None) for each in ("classification", "regression")]
    written = {id(tensor) for part in parts for *_, layer in _last_layers(part) for tensor in layer.parameters()}
    yield from (name for name, tensor in network.named_parameters() if id(tensor) in written)


def _initialise(layer: nn.Conv2d, family: Family, *, lite: bool) -> None:
    """As torchvision's heads are: SSD Glorot, SSDLite and the others normal; a prior of 0.01 where classes are free."""
    if family != "ssd":
        nn.init.normal_(layer.weight, std=0.01)
    elif lite:
        nn.init.normal_(layer.weight, std=0.03)
    else:
        nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, 0.0 if family == "ssd" else -math.log((1 - _PRIOR) / _PRIOR))
