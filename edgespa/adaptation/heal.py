"""Healing: a network that was cut is trained to compute again what it did before, without labels.

Every inner value of the cut network (what its residual blocks give; elsewhere what its layers read) is drawn towards
the original's at the units that are left, and so are its outputs, for the same images, shifted, mirrored and mixed: see
`edgespa.graph.inner` and `edgespa.objectives.match`. It is an adaptation whose structure stays as it is and whose last
step counts: chosen by agreement on a few hundred images, another step was worse in ten of twelve trials.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from edgespa.adaptation.augment import AUGMENTATIONS
from edgespa.adaptation.config import AdaptConfig, Setting
from edgespa.adaptation.held_out import parted
from edgespa.adaptation.learn import adapt, evaluated, require_same_outputs
from edgespa.adaptation.original import Original
from edgespa.adaptation.run import Progress
from edgespa.adaptation.start import is_adapted
from edgespa.adaptation.tracking import Trackers
from edgespa.adapters.kinds import FULL, method_names
from edgespa.adapters.renorm import has_norms
from edgespa.config import Preprocess, Strict
from edgespa.data import ImageData
from edgespa.data.tensors import prepare_for
from edgespa.distributed.processes import Precision, Processes
from edgespa.errors import ConfigError, DataError
from edgespa.objectives.match import Match
from edgespa.objectives.taught import taught
from edgespa.selection.config import require_known
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

log = logging.getLogger(__name__)

METHOD = "heal"
BEFORE = "unhealed"
"""Of the metrics of the network as it was."""
VALIDATION_IMAGES = "validation_images"
OF_IMAGES = ("flip", "crop", "mix")
FIRST_LR, FIRST_LR_WITHOUT_NORMS = 3e-3, 1e-4
"""Of whole weights: an adapter has its own. At ten times the second the loss of a MobileNetV2 whose norms are folded
rises from the first step."""
WARM_UP, CLIP, MOMENTUM, LOOKS = 0.1, 10.0, 0.05, 8
FEWEST = 4


class HealConfig(Strict):
    """How to heal.

    Attributes:
        adapter: An adapter kind, or ``full`` to train and store all weights.
        rank: Upper bound of the adapters' inner size.
        kernel: Where a convolution's adapter acts: its ``centre`` tap or the ``full`` kernel.
        adapter_settings: Other options of the kind.
        steps: Training steps, to whole passes over the images.
        batch_size: Images at a time, or all there are.
        lr: Peak learning rate of AdamW; None for the adapter's own, or a lower one where a few training steps show that
            the network does not bear that.
        weight_decay: Of AdamW, on matrices.
        augment: Changes of the images; those that are not asked for are not made of inputs that are no images.
        norms: ``add`` puts batch norms behind the convolutions that have none, for a network whose norms were folded
            into its weights: they begin as the identity, and bear higher learning rates; ``keep`` does not.
        freeze_norms: Leave weights, biases and statistics of norms as they are.
        quantise: ``int8``: train with weights and activations at the levels of int8 files, towards the original.
        mixed_precision: Of the forward and backward passes.
        store: Type of the adapter factors in the task file.
        validation: Fraction of the images that is held out: what is lost is told on them.
        seed: Of everything random.
    """

    adapter: str = FULL
    rank: int = Field(default=8, ge=1)
    kernel: str = "centre"
    adapter_settings: dict[str, Setting] = Field(default_factory=dict)
    steps: int = Field(default=1000, ge=0)
    batch_size: int = Field(default=64, ge=2)
    lr: float | None = Field(default=None, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    augment: tuple[str, ...] = OF_IMAGES
    norms: Literal["keep", "add"] = "keep"
    freeze_norms: bool = False
    quantise: Literal["int8"] | None = None
    mixed_precision: Precision | None = None
    store: Literal["fp32", "fp16", "int8"] = "fp32"
    validation: float = Field(default=0.1, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        require_known("adapter", self.adapter, method_names())
        for name in self.augment:
            require_known("augmentation", name, AUGMENTATIONS)
        self.adapting(2, images=False)  # refuses settings that the kind does not have
        return self

    def adapting(self, count: int, *, images: bool, adapted: bool = False, normed: bool = True) -> AdaptConfig:
        """The adaptation that it is.

        Args:
            count: Samples that are trained on.
            images: They are images, which can be augmented.
            normed: The network has norms.
            adapted: The task has adapters of its own, which are gone on with.
        """
        size = max(2, min(self.batch_size, count))
        said = {name for name in _OF_ADAPTERS if name in self.model_fields_set or not adapted}
        own = {name: getattr(self, name) for name in (*_SHARED, *said)}
        augment = self.augment if images or "augment" in self.model_fields_set else ()
        first = FIRST_LR if normed or self.norms == "add" else FIRST_LR_WITHOUT_NORMS
        config = AdaptConfig.model_validate(
            {
                **own,
                "augment": augment,
                "batch_size": size,
                "objective": Match.name,
                "head": "keep",
                "first_lr": first if self.adapter == FULL and not adapted else None,
                "warm_up": WARM_UP,
                "clip": CLIP,
                "norm_momentum": MOMENTUM,
                "take": "last",
                "looks": LOOKS,
                "quantise_share": 1.0,
            }
        )
        epochs = max(1, round(self.steps / max(1, count // size))) if self.steps else 0
        return config.model_copy(update={"epochs": epochs})


_OF_ADAPTERS = ("adapter", "rank", "kernel", "adapter_settings")
_SHARED = ("quantise", "lr", "weight_decay", "norms", "freeze_norms", "mixed_precision", "store", "validation", "seed")


def original_of(task: Task, base: Base, before: Task | None = None, name: str = "") -> Original:
    """What a task is healed towards.

    Args:
        task: The task.
        base: Its base.
        before: It as it was before it was cut, for one that was learned.
        name: Of that, for the record.

    Raises:
        ConfigError: It was learned, and nobody says what it was before.
        BaseMismatchError: What it was before is of another base.
    """
    if before is not None:
        base.require_digest(before.header.digest)
        return Original.of_task(name, before, base)
    learns = task.header.provenance.get("learns")
    if is_adapted(task) and learns != Match.name:
        raise ConfigError(
            "the task was learned, so the base cannot say what it is to become again",
            "name the task as it was before it was cut (--original TASK.spa)",
        )
    return Original.of_base(base)


def heal(
    base: Base,
    data: ImageData,
    preprocess: Preprocess | None,
    config: HealConfig,
    folder: Path,
    start: Task,
    original: Original,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    log_file: Path | None = None,
    trackers: Trackers | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Task:
    """Train a cut network towards what it was; units and blocks stay as they are.

    Args:
        base: Of the task.
        data: Samples; no labels are read. A part is held out, and the distance to the original told on it.
        preprocess: How an image becomes an input; None where the data are tensors of a model that takes no image.
        config: How.
        folder: Where the task file will lie.
        start: The task.
        original: From `original_of`.
        checkpoint: See `edgespa.adaptation.learn.adapt`, as all that follows.
        resume: Likewise.
        log_file: Likewise.
        trackers: Likewise.
        progress: Likewise.
        processes: Likewise.
        facts: Likewise.

    Returns:
        The healed task. Its metrics have the relative error of the outputs on what is held out, before and after, and
        of a network that gives a list of scores how often the largest is at the same place.

    Raises:
        DataError: There are fewer than `FEWEST` samples.
        ConfigError: Outputs differ from the original's, or a value is out of range.
        AdapterError: If the loss or a trained value is not a number.
    """
    if len(data) < FEWEST:
        raise DataError(
            f"{data.name}: {len(data)} samples are too few to heal with and to hold some out",
            f"give at least {FEWEST}; a few hundred are enough for most networks",
        )
    processes = processes or Processes.start(config.mixed_precision)
    data = data.unanswered().of_kind(Match.name)
    train, held_out = parted(data, None, config.validation, config.seed)
    how = config.adapting(
        len(train),
        images=preprocess is not None and not data.preprocessed,
        adapted=is_adapted(start),
        normed=has_norms(base.program),
    )
    if _pruned_on(start, data):
        log.warning(
            "%s: pruning chose and fitted by all of these images, so what is told on those that are held out is better "
            "than on new ones: prune --spare %g leaves them out",
            data.name,
            config.validation,
        )
    require_same_outputs(start.fit(base), original.program, original.measured)
    told = taught(prepare_for(base.program, held_out, preprocess), original.measured, original.program)
    before = evaluated(start.program(base), told, processes, objective=original.measured)
    task = adapt(
        base,
        data,
        preprocess,
        how,
        folder,
        checkpoint=checkpoint,
        resume=resume,
        start=start,
        log_file=log_file,
        trackers=trackers,
        progress=progress,
        processes=processes,
        facts=facts,
        towards=original,
    )
    task = _described(task, start, original, config)
    after = evaluated(task.program(base), told, processes, objective=original.measured)
    metrics = {**before.named(f"{BEFORE}_validation"), **after.named("validation")}
    if did_harm(metrics):
        log.warning(
            "healing did harm: the outputs are %.3g off on %d samples that were held out, and were %.3g off; give more "
            "images or a lower learning rate (--lr %.1g), or keep the task as it was",
            after.value,
            len(held_out),
            before.value,
            float(str(task.header.provenance["lr"])) / 3,
        )
    return task.with_metrics(**metrics, **{VALIDATION_IMAGES: float(len(held_out))})


def _pruned_on(start: Task, data: ImageData) -> bool:
    """Whether a task was pruned on all of the images, as far as it says."""
    told = start.header.provenance.get("calibration")
    if start.header.provenance.get("method") != "prune" or not isinstance(told, Mapping):
        return False
    return told.get("data") == data.name and told.get("images") == len(data)


def is_healed(task: Task) -> bool:
    """Whether the last thing that was done with a task is that it was healed."""
    return task.header.provenance.get("method") == METHOD


def did_harm(metrics: Mapping[str, float]) -> bool:
    """Whether a healed network is farther from the original, on what was held out, than it was before.

    Where reconstruction has left next to nothing to heal, training can only move away.

    Args:
        metrics: Of the healed task.
    """
    before, after = (metrics.get(f"{kind}validation_error") for kind in (f"{BEFORE}_", ""))
    return before is not None and after is not None and not after <= before


def unhealed(metrics: Mapping[str, float]) -> dict[str, float]:
    """What was measured of a network before it was healed, under the names that it has of any other.

    Args:
        metrics: Of the healed task.
    """
    before = {name.removeprefix(f"{BEFORE}_"): value for name, value in metrics.items() if name.startswith(BEFORE)}
    return {**before, **{name: value for name, value in metrics.items() if name == VALIDATION_IMAGES}}


def _described(task: Task, start: Task, original: Original, config: HealConfig) -> Task:
    """The task with what stays as it was: its head, its classes; and how it came about."""
    own = start.header
    provenance = {
        **task.header.provenance, "method": METHOD, "towards": original.name, "config": config.model_dump(mode="json"),
    }  # fmt: skip
    header = task.header.model_copy(update={"outputs": own.outputs, "classes": own.classes, "provenance": provenance})
    return dataclasses.replace(task, header=header)
