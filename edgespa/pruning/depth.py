"""Depth pruning: score every block of a task by how far the classes are apart there, and cut what comes after.

Han, Tang: Straightforward Layer-wise Pruning for More Efficient Visual Adaptation, 2024,
https://arxiv.org/abs/2407.14330. A block's features are its raw output: the class token where the head reads that,
else the mean over all positions. All blocks see the same images, in one pass (the published code draws new ones for
each).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from edgespa.config import Strict
from edgespa.data import ImageData, Prepared
from edgespa.data.inputs import Inputs, arguments
from edgespa.errors import ConfigError, DataError, GraphError
from edgespa.graph.blocks import Block
from edgespa.graph.inner import watched
from edgespa.graph.program import Program
from edgespa.graph.streams import channel_dim, reads_class_token
from edgespa.selection.config import require_known
from edgespa.selection.depth import (
    DEFAULT_METRIC,
    METRICS,
    Features,
    embedding,
    kept_depth,
    require_separable,
    separation,
)

Report = Callable[[float, float | None, str], None]
BATCH = 64


class DepthConfig(Strict):
    """How to prune blocks.

    Attributes:
        alpha: Threshold as a fraction of the last block's score; the paper's 0.3.
        metric: A name in `edgespa.selection.depth.METRICS`.
        keep_depth: Blocks to keep, instead of what the scores say: one number for every stage, or one per stage.
        score_images: Images to score on: a seeded, class-balanced part. 1,000 are what the paper's tasks have.
        seed: Of that part and of t-SNE.
    """

    alpha: float = Field(default=0.3, gt=0, le=1)
    metric: str = DEFAULT_METRIC
    keep_depth: tuple[int, ...] = ()
    score_images: int = Field(default=1000, ge=8)
    seed: int = Field(default=0, ge=0)

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        require_known("metric", value, tuple(METRICS))
        return value

    @field_validator("keep_depth")
    @classmethod
    def _some_blocks(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(number < 1 for number in value):
            raise ValueError("at least one block of each stage has to be kept")
        return value


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """What the images say about a block.

    Attributes:
        block: The block.
        score: How far the classes are apart in its output; more is better.
        points: The 2-D embedding of its features, ``[N, 2]``; None for a metric that needs none.
    """

    block: Block
    score: float
    points: Features | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
    """Which blocks go, and why.

    Attributes:
        blocks: All blocks of the program.
        kept: Names of those that stay.
        removed: Names of those that go, in the order of the program.
        thresholds: Per stage the least score that counts as apart; empty if nothing was scored.
        whole: Stages that stay whole although the rule was to be applied, with the reason.
        scored: One entry per block, or none.
        labels: Class of each image that was scored on.
        feature: What the features are: ``class token`` or ``mean``.
    """

    blocks: tuple[Block, ...]
    removed: tuple[str, ...]
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    whole: Mapping[str, str] = dataclasses.field(default_factory=dict)
    scored: tuple[Scored, ...] = ()
    labels: NDArray[np.int64] | None = None
    feature: str = ""

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the blocks that stay."""
        return tuple(block.name for block in self.blocks if block.name not in self.removed)

    def account(self) -> dict[str, Any]:
        """As plain values, for the task file."""
        return {
            "removed": list(self.removed),
            "stages": {
                stage: {
                    "blocks": len(own),
                    "kept": sum(block.name not in self.removed for block in own),
                    **({"threshold": self.thresholds[stage]} if stage in self.thresholds else {}),
                    **({"whole": self.whole[stage]} if stage in self.whole else {}),
                }
                for stage, own in stages_of(self.blocks).items()
            },
            "scores": {each.block.name: round(each.score, 6) for each in self.scored},
            "images": 0 if self.labels is None else len(self.labels),
            "feature": self.feature,
        }


def stages_of(blocks: Sequence[Block]) -> dict[str, list[Block]]:
    """The blocks of each stage, in the order of the program."""
    stages: dict[str, list[Block]] = {}
    for block in blocks:
        stages.setdefault(block.stage, []).append(block)
    return stages


def require_blocks(blocks: Sequence[Block], spec: str) -> None:
    """Refuse a network in which there is nothing to remove.

    Raises:
        GraphError: With what was looked for.
    """
    if not any(block.removable for block in blocks):
        raise GraphError(
            f"{spec} has no residual block that could be removed"
            + (f": {blocks[0].name}: {blocks[0].reason}" if blocks else ""),
            "see what was found with: edgespa inspect MODEL; remove channels instead, with another --method",
        )


def require_classes(data: ImageData | Prepared) -> None:
    """Refuse images that are not each of one class: no block can be scored on them.

    Raises:
        DataError: With what is learned of them, and what can be done for that.
    """
    if data.kind == "classes" and data.answered and not bool((data.labels < 0).any()):
        return
    what = "has no classes" if data.kind == "classes" else f"is {data.kind} data"
    raise DataError(
        f"the method sls scores blocks by how far images of different classes are apart, and {data.name} {what}",
        "it fits one objective, classes; for any other say the depth yourself, --keep-depth N, or remove channels with "
        "another --method; images of classes lie in a folder for each class",
    )


def given_depth(blocks: Sequence[Block], depth: Sequence[int]) -> tuple[str, ...]:
    """The blocks that go if the first ones of every stage stay.

    Args:
        blocks: All blocks.
        depth: One number for every stage, or one per stage.

    Raises:
        ConfigError: If there are as many numbers as neither, a stage has fewer blocks, or one cannot be removed.
    """
    stages = stages_of(blocks)
    if len(depth) not in (1, len(stages)):
        known = ", ".join(f"{stage} ({len(own)} blocks)" for stage, own in stages.items())
        raise ConfigError(f"{len(depth)} depths are given for {len(stages)} stages", f"the stages are: {known}")
    wanted = [*depth] * len(stages) if len(depth) == 1 else [*depth]
    removed = []
    for (stage, own), count in zip(stages.items(), wanted, strict=True):
        if len(depth) > 1 and count > len(own):
            raise ConfigError(f"the stage {stage} has {len(own)} blocks, not {count}", "keep as many or fewer")
        removed += [block for block in own[count:] if block.removable]
    if not removed:
        longest = max(len(own) for own in stages.values())
        raise ConfigError(
            f"a depth of {','.join(map(str, depth))} removes nothing: the longest stage has {longest} blocks",
            f"give a --keep-depth below {longest}" if longest > 1 else "remove channels instead, with another --method",
        )
    return tuple(block.name for block in removed)


def decide(
    program: Program,
    blocks: tuple[Block, ...],
    data: Prepared,
    config: DepthConfig,
    progress: Report | None = None,
    *,
    given: tuple[str, ...] | None = None,
) -> Decision:
    """Score all blocks and apply the rule in every stage.

    The threshold of a stage is ``alpha`` times the score of the stage's own last block; for a network of one stage that
    is the paper's rule. A stage before the last one, at whose end the classes are not apart yet, stays whole. Blocks
    that cannot be removed stay, wherever they are.

    Args:
        program: The task's program with its adapters merged.
        blocks: Its blocks.
        data: Labelled images.
        config: How.
        progress: Told ``(done, total, text)``.
        given: Names of the blocks that go, instead of what the rule says.

    Raises:
        ConfigError: If the classes are not apart at the network's last block.
        DataError: If the images have no classes, or not enough of them.
    """
    require_classes(data)
    labels = data.labels.numpy().astype(np.int64)
    require_separable(labels, data.name)
    metric = METRICS[config.metric]
    token = reads_class_token(program, blocks[-1])
    steps = data.num_batches(BATCH) + len(blocks)

    def tell(done: int, text: str) -> None:
        if progress is not None:
            progress(done, steps, text)

    found = features(program, blocks, data, token, lambda done: tell(done, "features"))
    scored = []
    for number, block in enumerate(blocks, 1):
        points = embedding(found[block.name], config.seed) if metric.embeds else None
        own = found[block.name] if points is None else points
        scored.append(Scored(block, separation(own, labels, metric), points))
        tell(steps - len(blocks) + number, f"{block.name}: {scored[-1].score:.3f}")
    scores = {each.block.name: each.score for each in scored}
    removed, thresholds, whole = (given, {}, {}) if given is not None else _by_rule(blocks, scores, config.alpha)
    feature = "class token" if token else "mean"
    return Decision(blocks, removed, thresholds, whole, tuple(scored), labels, feature)


def with_points(decision: Decision, program: Program, data: Prepared, config: DepthConfig) -> Decision:
    """The decision with a 2-D embedding of every block, for a plot, where the metric needed none."""
    if decision.scored and decision.scored[0].points is not None:
        return decision
    found = features(program, decision.blocks, data, decision.feature == "class token")
    scored = [dataclasses.replace(e, points=embedding(found[e.block.name], config.seed)) for e in decision.scored]
    return dataclasses.replace(decision, scored=tuple(scored))


def _by_rule(
    blocks: Sequence[Block], scores: Mapping[str, float], alpha: float
) -> tuple[tuple[str, ...], dict[str, float], dict[str, str]]:
    """Names that go, the threshold of each stage, and the stages that stay whole."""
    removed: list[str] = []
    thresholds: dict[str, float] = {}
    whole: dict[str, str] = {}
    for stage, own in stages_of(blocks).items():
        last = scores[own[-1].name]
        if own[-1] is not blocks[-1] and last <= 0:
            whole[stage] = f"its classes are not apart yet (score {last:.3f})"
            continue
        count = kept_depth([scores[block.name] for block in own], alpha)
        thresholds[stage] = alpha * last
        removed += [block.name for block in own[count:] if block.removable]
    return tuple(removed), thresholds, whole


@torch.no_grad()
def features(
    program: Program,
    blocks: Sequence[Block],
    data: Prepared,
    token: bool,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Features]:
    """The output of every block on the same images, in one pass.

    Args:
        program: The program.
        blocks: Its blocks.
        data: Images.
        token: Take the class token; else the mean over all positions.
        progress: Told how many batches are done.

    Returns:
        Per block ``[N, C]`` in float32.

    Raises:
        DataError: If an output is not finite.
    """
    watching = watched(program, [block.exit for block in blocks], alone=True)
    dims = [channel_dim(program, block) for block in blocks]
    rows: dict[str, list[Tensor]] = {block.name: [] for block in blocks}
    for done, (images, _) in enumerate(data.batches(BATCH), 1):
        for block, dim, value in zip(blocks, dims, _run(watching, images), strict=True):
            rows[block.name].append(_pooled(value, dim, token))
        if progress is not None:
            progress(done)
    found = {name: torch.cat(parts).float().numpy() for name, parts in rows.items()}
    for name, array in found.items():
        if not np.isfinite(array).all():
            raise DataError(f"the output of {name} is not finite on {data.name}", "check --mean and --std")
    return found


def _run(watching: Program, inputs: Inputs) -> Sequence[Tensor]:
    """Outputs for a batch; one image at a time where the program takes a fixed batch."""
    if watching.dynamic_batch:
        values: Sequence[Tensor] = watching(*arguments(inputs))
        return values
    (images,) = arguments(inputs)
    size = int(watching.inputs[0].shape[0])
    if len(images) % size:
        images = torch.cat([images, images[-1:].expand(size - len(images) % size, *images.shape[1:])])
    parts = [watching(part) for part in torch.split(images, size)]
    return [torch.cat(columns) for columns in zip(*parts, strict=True)]


def _pooled(value: Tensor, dim: int, token: bool) -> Tensor:
    """``[N, C]``: token 0, or the mean over all dimensions but the batch and the channels."""
    if token:
        return value[:, 0]
    others = [each for each in range(1, value.dim()) if each != dim % value.dim()]
    return value.mean(others) if others else value
