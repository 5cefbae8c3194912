"""Boxes learned by the losses of torchvision's and transformers' own detectors, called and not written again."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgespa.bundle.decoding import Decoding
from edgespa.data.boxes import Objects
from edgespa.errors import ConfigError, DataError
from edgespa.models.detectors import BOXES, CENTERNESS, LOGITS, Detector
from edgespa.objectives.base import require_same_shape, shapes_of
from edgespa.objectives.boxes import Boxes
from edgespa.pixels.boxes import anchors_of

if TYPE_CHECKING:
    from edgespa.data import Prepared

_MODULES = {"ssd": "SSD", "retinanet": "RetinaNet", "fcos": "FCOS"}


class Detection(Boxes):
    """torchvision's SSD, SSDLite, RetinaNet or FCOS, or transformers' DETR and YOLOS; which one it is told by `bound`.

    The losses are summed as torchvision's reference training does. That of RetinaNet is a mean over pictures; those of
    SSD and FCOS are sums over anchors, divided by the number of those with an object. Objects that are ignored are left
    out, so what lies there is background to the loss. Beside other batches, one without any object counts as one anchor
    of FCOS; of SSD it has no loss. The loss of DETR is divided by several things, so that of batches put together is
    only near that of one: they count by their pictures.

    Args:
        detector: What there is to know of the network; None before that is known.
    """

    name = "detection"

    def __init__(self, detector: Detector | None = None) -> None:
        self._detector = detector

    def bound(self, detector: Detector | None) -> Detection:
        """See `edgespa.objectives.base.Objective.bound`."""
        return Detection(detector)

    @property
    def detector(self) -> Detector:
        """What there is to know of the network.

        Raises:
            ConfigError: It is no detector that is known here.
        """
        if self._detector is None:
            raise ConfigError(
                "the network is not one of torchvision's detectors, whose outputs and losses are known here, nor a "
                "DETR or YOLOS of transformers",
                "give a torchvision SSD, SSDLite, RetinaNet or FCOS; or an objective of your own with the loss of your "
                "network: --objective file.py:factory",
            )
        return self._detector

    @property
    def decoding(self) -> Decoding:
        """See `edgespa.objectives.boxes.Boxes.decoding`."""
        return self.detector.decoding

    def take(self, output: Any, data: Prepared | None = None, *, own: bool = False) -> Any:
        """See `Objective.take`: the outputs by name."""
        if data is None:
            return output
        known, names = self.detector, set(self._names)
        if self._read is None and not (isinstance(output, Mapping) and names <= set(output)):
            raise DataError(
                f"the network gives {shapes_of(output)}, not {' and '.join(sorted(names))}", "give the detector itself"
            )
        if known.classes != len(data.classes):
            raise DataError(
                f"the network tells {known.classes} classes apart, and {data.name} has {len(data.classes)}: they "
                "cannot be compared",
                "give data of the network's own classes, or train it for these: edgespa adapt",
            )
        return super().take(output, data, own=own)

    def loss(
        self,
        outputs: Mapping[str, Tensor],
        targets: Sequence[Objects],
        weights: Tensor | None = None,
        smoothing: float = 0.0,
    ) -> Tensor:
        """See `Objective.loss`."""
        known = self.detector
        if known.family in ("detr", "queries"):
            return self._of_queries(outputs, targets)
        anchors = self._anchors(targets, outputs[LOGITS])
        wanted = self._as_theirs(targets)
        losses: Mapping[str, Tensor]
        if known.family == "ssd":
            stand_in = SimpleNamespace(box_coder=self._coder(), neg_to_pos_ratio=known.negatives)
            losses = _kind("ssd").compute_loss(stand_in, wanted, outputs, anchors, self._matched(wanted, anchors))
        elif known.family == "retinanet":
            losses = self._of_retinanet(wanted, outputs, anchors, self._matched(wanted, anchors))
        else:
            head = SimpleNamespace(box_coder=self._coder())
            losses = _module("fcos").FCOSHead.compute_loss(
                head, wanted, outputs, anchors, self._matched(wanted, anchors)
            )
        return torch.stack([each.reshape(()) for each in losses.values()]).sum()

    def mass(self, targets: Sequence[Objects], weights: Tensor | None = None) -> float:
        """See `Objective.mass`: pictures of RetinaNet and DETR, anchors with an object of the others."""
        if self.detector.family in ("retinanet", "detr", "queries"):
            return float(len(targets))
        wanted = self._as_theirs(targets)
        found = self._matched(wanted, self._anchors(targets, torch.zeros(0)))
        paired = sum(int((each >= 0).sum()) for each in found)
        return float(max(1, paired) if self.detector.family == "fcos" else paired)

    def distance(self, outputs: Mapping[str, Tensor], wanted: Mapping[str, Tensor], temperature: float) -> Tensor:
        """See `Objective.distance`: of classes and boxes, each anchor by how sure the teacher is of an object there.

        Classes as in Hinton et al. 2015 (softmax, or each class yes or no), boxes as the absolute difference of deltas;
        both are sums over anchors, divided by the sum of the teacher's certainties, as a loss is by its objects.
        """
        for name in outputs:
            require_same_shape(outputs[name], wanted[name])
        scores, places = self._names
        background = self.detector.decoding.background
        if background is not None:
            sure = wanted[scores].softmax(-1)
            sure = (sure[..., 1:] if background == "first" else sure[..., :-1]).amax(-1)
            soft = torch.log_softmax(wanted[scores] / temperature, -1)
            ours = torch.log_softmax(outputs[scores] / temperature, -1)
            apart = nn.functional.kl_div(ours, soft, reduction="none", log_target=True).sum(-1)
        else:
            sure = wanted[scores].sigmoid().amax(-1)
            apart = _yes_or_no(outputs[scores], wanted[scores], temperature).sum(-1)
        total = apart.sum() * temperature**2
        total = total + ((outputs[places] - wanted[places]).abs().sum(-1) * sure).sum()
        if CENTERNESS in outputs:
            apart = _yes_or_no(outputs[CENTERNESS], wanted[CENTERNESS], temperature)[..., 0]
            total = total + (apart * sure).sum() * temperature**2
        return total / sure.sum().clamp(min=1e-6)

    @property
    def _names(self) -> tuple[str, str]:
        """Of the outputs that say classes and boxes."""
        return ("logits", "pred_boxes") if self.detector.family in ("detr", "queries") else (LOGITS, BOXES)

    def _of_queries(self, outputs: Mapping[str, Tensor], targets: Sequence[Objects]) -> Tensor:
        """The loss of DETR (Carion et al. 2020, arXiv 2005.12872, section 3.1), without auxiliary ones."""
        known = self.detector
        if known.family != "detr":
            raise ConfigError(
                "the loss of this detector is of more than what it answers, so it is not trained here",
                "give a DETR or YOLOS of transformers, or an objective of your own: --objective file.py:factory",
            )
        height, width = known.decoding.size
        labels = []
        for each in self._as_theirs(targets):
            boxes = each["boxes"] / each["boxes"].new_tensor([width, height, width, height])
            places = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
            labels.append({"class_labels": each["labels"], "boxes": places})
        config = SimpleNamespace(num_labels=known.classes, auxiliary_loss=False, **dict(known.costs))
        loss = importlib.import_module("transformers.loss.loss_for_object_detection").ForObjectDetectionLoss
        scores, boxes = (outputs[name] for name in self._names)
        found: Tensor = loss(scores, labels, scores.device, boxes, config)[0]
        return found

    def _anchors(self, targets: Sequence[Objects], like: Tensor) -> list[Tensor]:
        grids = self.detector.decoding.anchors
        own = anchors_of([grid.model_dump() for grid in grids], sum(grid.count for grid in grids))
        device = targets[0].boxes.device if len(targets) else like.device
        return [torch.from_numpy(own).to(device)] * len(targets)

    def _as_theirs(self, targets: Sequence[Objects]) -> list[dict[str, Tensor]]:
        first = int(self.detector.decoding.background == "first")
        counted = [each.chosen(~each.ignored) for each in targets]
        return [{"boxes": each.boxes, "labels": each.labels + first} for each in counted]

    def _matched(self, wanted: list[dict[str, Tensor]], anchors: list[Tensor]) -> list[Tensor]:
        """Of each anchor the object that it is to find, below 0 for none: what their ``compute_loss`` begins with."""
        known = self.detector
        head = SimpleNamespace(compute_loss=lambda _targets, _outputs, _anchors, matched: matched)
        found: list[Tensor]
        if known.family == "fcos":
            stand_in = SimpleNamespace(head=head, center_sampling_radius=known.radius)
            counts = [grid.count for grid in known.decoding.anchors]
            found = _kind("fcos").compute_loss(stand_in, wanted, {}, anchors, counts)
            return found
        own = importlib.import_module("torchvision.models.detection._utils")
        if known.family == "ssd":
            matcher = own.SSDMatcher(known.high)
        else:
            matcher = own.Matcher(known.high, known.low, allow_low_quality_matches=known.low_quality)
        found = _kind("retinanet").compute_loss(
            SimpleNamespace(head=head, proposal_matcher=matcher), wanted, {}, anchors
        )
        return found

    def _of_retinanet(
        self,
        wanted: list[dict[str, Tensor]],
        outputs: Mapping[str, Tensor],
        anchors: list[Tensor],
        matched: list[Tensor],
    ) -> dict[str, Tensor]:
        own = _module("retinanet")
        between = importlib.import_module("torchvision.models.detection._utils").Matcher.BETWEEN_THRESHOLDS
        classes = SimpleNamespace(BETWEEN_THRESHOLDS=between)
        boxes = SimpleNamespace(box_coder=self._coder(), _loss_type=self.detector.box_loss)
        return {
            LOGITS: own.RetinaNetClassificationHead.compute_loss(classes, wanted, outputs, matched),
            BOXES: own.RetinaNetRegressionHead.compute_loss(boxes, wanted, outputs, anchors, matched),
        }

    def _coder(self) -> Any:
        own = importlib.import_module("torchvision.models.detection._utils")
        if self.detector.family == "fcos":
            return own.BoxLinearCoder(normalize_by_size=True)
        how = self.detector.decoding
        return own.BoxCoder(how.weights, how.largest)


def _yes_or_no(outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """The divergence of a yes or no from a teacher's; 0 where they are the same."""
    yes = torch.sigmoid(wanted / temperature)
    cross = nn.functional.binary_cross_entropy_with_logits(outputs / temperature, yes, reduction="none")
    own = nn.functional.binary_cross_entropy_with_logits(wanted / temperature, yes, reduction="none")
    return cross - own


def _module(family: str) -> Any:
    return importlib.import_module(f"torchvision.models.detection.{family}")


def _kind(family: str) -> Any:
    return getattr(_module(family), _MODULES[family])
