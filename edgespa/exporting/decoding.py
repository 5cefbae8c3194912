"""A detector that reads its boxes off by itself: candidates, overlaps and suppression as operators of fixed size.

No size depends on what is seen, so converters take it: the best `CANDIDATES` scores of all places and classes, their
overlaps as a square, and of those that overlap all but the surest suppressed by `ROUNDS` steps towards the fixed point
``kept[j] = no i < j is kept and suppresses j``. A step settles those whose suppressors are settled, so what greedy
suppression gives is reached as soon as no chain of boxes, each suppressing the next, is longer.

The outputs are those of TensorFlow Lite's ``Detection_PostProcess``, in its order, for which the detectors of MediaPipe
and of TensorFlow Lite's Task Library are made; but a box begins with x, which the metadata of a TFLite file say.

Deviations from `edgespa.pixels.boxes.detections`: the candidates are the best of the image, not of each class or each
level; there are at most `CANDIDATES` of them, so at most so many boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from edgespa.bundle.decoding import Columns, Decoding
from edgespa.errors import ConfigError
from edgespa.graph.program import Program
from edgespa.graph.trace import from_exported
from edgespa.models.interface import output_shapes
from edgespa.pixels.boxes import anchors_of
from edgespa.system.quiet import quiet

CANDIDATES = 256
ROUNDS = 16
NAMES = ("boxes", "classes", "scores", "count")
"""Of the outputs: [N, K, 4] x1, y1, x2, y2 where the input is 1 x 1, [N, K], [N, K], and how many of K there are, [N].

All are float32, and what is behind the count is 0. Classes and count are integers up to the last operator, so that int8
files, too, give whole numbers: readers cut off what is behind the point.
"""


def with_decoding(program: Program, how: Decoding) -> tuple[Program, Decoding]:
    """A program that gives boxes, and how its outputs are read then.

    Args:
        program: With plain outputs, in float32; its batch is free or fixed.
        how: How its outputs are read.

    Raises:
        ConfigError: If they are not what is described.
    """
    shapes = output_shapes(program)
    if problem := how.problem([["batch", *(0 if size is None else size for size in shape[1:])] for shape in shapes]):
        raise ConfigError(problem, "leave out --decode in-graph")
    columns = shapes[how.scores.output][1 if how.scores.rows else 2]
    places = shapes[how.boxes.output][2 if how.boxes.rows else 1]
    assert columns is not None
    assert places is not None
    classes = (how.scores.count or columns - how.scores.first) - (how.background is not None)
    count = min(CANDIDATES, places * (1 if how.only_best else classes))
    most = min(how.most, count)
    copy = program.copy()
    copy.module._forward_pre_hooks.clear()  # they ask for the sizes at the export
    module = _InGraph(copy.module, how, places, classes, count, most)
    free = {0: torch.export.Dim.AUTO} if program.dynamic_batch else None
    with quiet("torch.export"):
        exported = torch.export.export(module, program.example_inputs(2), dynamic_shapes=(free,) if free else None)
    read = Decoding(
        size=how.size,
        scores=Columns(output=NAMES.index("scores")),
        boxes=Columns(output=NAMES.index("boxes")),
        unit="input",
        classes=Columns(output=NAMES.index("classes")),
        clip=False,
        threshold=how.threshold,
        candidates=most,
        overlap=None,
        most=most,
    )
    return from_exported(exported), read


class _InGraph(nn.Module):
    """A network and its decoding.

    Args:
        network: With plain outputs.
        how: How they are read.
        places: Rows of the outputs.
        classes: Columns of scores, without a background.
        count: Candidates.
        most: Boxes.
    """

    limits: Tensor
    weights: Tensor
    last: Tensor
    last_kept: Tensor
    earlier: Tensor
    middles: Tensor
    sides: Tensor

    def __init__(
        self, network: fx.GraphModule, how: Decoding, places: int, classes: int, count: int, most: int
    ) -> None:
        super().__init__()
        self.network = network
        self._how, self._classes, self._count, self._most = how, classes, count, most
        height, width = how.size
        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        self.register_buffer("limits", limits)
        self.register_buffer("weights", torch.tensor(how.weights, dtype=torch.float32))
        entries = places * (1 if how.only_best else classes)
        # What is below the threshold comes last, each in its place: the same of all runtimes, and far apart.
        self.register_buffer("last", -1.0 - torch.arange(entries, dtype=torch.float32))
        self.register_buffer("last_kept", -1.0 - torch.arange(count, dtype=torch.float32))
        self.register_buffer("earlier", torch.ones(count, count).triu(1))
        anchors = torch.zeros(0, 4)
        if how.anchors:
            anchors = torch.from_numpy(anchors_of([grid.model_dump() for grid in how.anchors], places))
        self.register_buffer("middles", (anchors[:, :2] + anchors[:, 2:]) / 2)
        self.register_buffer("sides", anchors[:, 2:] - anchors[:, :2])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        given = self.network(images)
        outputs = (given,) if isinstance(given, Tensor) else tuple(given)
        scores, own = self._scores(outputs)
        corners = self._corners(outputs)
        ranked = torch.where(scores > self._how.threshold, scores, self.last)
        best, index = ranked.topk(self._count, 1)
        if own is None:
            place = torch.div(index, self._classes, rounding_mode="floor")
            classes = index - place * self._classes
        else:
            place = index
            classes = own.gather(1, index)
        boxes = corners.gather(1, place[:, :, None].expand(-1, -1, 4))
        kept = (best > 0).float()
        if self._how.overlap is not None:
            kept = kept * self._suppressed(boxes, classes, self._how.overlap)
        final, order = torch.where(kept > 0.5, best, self.last_kept).topk(self._most, 1)
        there = (final > 0).int()
        boxes = boxes.gather(1, order[:, :, None].expand(-1, -1, 4)) / self.limits * there.float()[:, :, None]
        return boxes, (classes.gather(1, order) * there).float(), final.clamp(min=0), there.sum(1).float()

    def _scores(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        """Scores [N, entries], and the class of each place where only the best of each counts."""
        how = self._how
        raw = _columns(outputs, how.scores)
        if how.activation == "softmax":
            raw = raw.softmax(-1)
        elif how.activation == "sigmoid":
            raw = raw.sigmoid()
        if how.background is not None:
            raw = raw[:, :, 1:] if how.background == "first" else raw[:, :, :-1]
        if how.centerness is not None:
            raw = (raw * _columns(outputs, how.centerness).sigmoid()).sqrt()
        if how.only_best or how.classes is not None:
            best, index = raw.max(-1)
            own = index if how.classes is None else _columns(outputs, how.classes)[:, :, 0].round().int()
            return best, own
        return raw.flatten(1), None

    def _corners(self, outputs: tuple[Tensor, ...]) -> Tensor:
        how = self._how
        raw = _columns(outputs, how.boxes)
        first, second = raw[:, :, :2], raw[:, :, 2:]
        if how.coding == "deltas":
            middles = first / self.weights[:2] * self.sides + self.middles
            half = (second / self.weights[2:]).clamp(max=how.largest).exp() * self.sides / 2
            found = torch.cat([middles - half, middles + half], 2)
        elif how.coding == "distances":
            found = torch.cat([self.middles - first * self.sides, self.middles + second * self.sides], 2)
        else:
            found = raw * self.limits if how.unit == "input" else raw
            if how.coding == "centres":
                first, half = found[:, :, :2], found[:, :, 2:] / 2
                found = torch.cat([first - half, first + half], 2)
        return torch.minimum(found.clamp(min=0), self.limits) if how.clip else found

    def _suppressed(self, boxes: Tensor, classes: Tensor, overlap: float) -> Tensor:
        """1 for each candidate that stays, [N, K]."""
        upper = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
        lower = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
        sides = (lower - upper).clamp(min=0)
        shared = sides[..., 0] * sides[..., 1]
        area = (boxes[:, :, 2] - boxes[:, :, 0]) * (boxes[:, :, 3] - boxes[:, :, 1])
        union = area[:, :, None] + area[:, None, :] - shared
        over = (shared > overlap * union) & (union > 0)  # boxes of no size overlap with nothing
        same = classes[:, :, None] == classes[:, None, :]
        suppresses = (over & same).float() * self.earlier
        kept = torch.ones_like(boxes[:, :, 0])
        for _ in range(ROUNDS):
            kept = (torch.matmul(kept[:, None, :], suppresses)[:, 0, :] < 0.5).float()
        return kept


def _columns(outputs: tuple[Tensor, ...], part: Columns) -> Tensor:
    """Some columns of an output, [N, A, columns]."""
    table = outputs[part.output]
    table = table[:, :, None] if table.dim() == 2 else table.transpose(1, 2) if part.rows else table
    return table[:, :, part.first : None if part.count is None else part.first + part.count]
