"""How to adapt."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from edgespa.adaptation.augment import AUGMENTATIONS
from edgespa.adapters.kinds import FULL, default_lr, kind_named, method_names, options_of
from edgespa.adapters.renorm import has_norms
from edgespa.distributed.processes import Precision
from edgespa.errors import ConfigError
from edgespa.graph.program import Program
from edgespa.selection.config import SelectionConfig, require_known
from edgespa.selection.criteria import criterion_names
from edgespa.selection.schedule import SCHEDULES, WARM_UP

Setting = bool | int | float | str


class AdaptConfig(SelectionConfig):
    """How to adapt; with the attributes of `SelectionConfig`.

    Attributes:
        objective: What is learned, where it was named and not told by the data.
        adapter: An adapter kind, or ``full`` for fine-pruning.
        rank: Upper bound of the adapters' inner size.
        kernel: Where a convolution's adapter acts: its ``centre`` tap or the ``full`` kernel.
        adapter_settings: Other options of the kind, such as ``alpha``.
        criterion: How units are scored.
        schedule: How the density falls.
        prune_steps: Number of pruning steps of the linear and the cubic schedule.
        prune_fraction: What each step of the stepwise schedule takes of the unpruned network.
        prune_from: Fraction of the training after which pruning begins, so that the adapters know the task by then.
        prune_until: Fraction of the training after which the final density holds.
        recovery_epochs: Epochs after each pruning step, the last one too; then `prune_until` does not count. None
            spreads the steps evenly.
        lr_restart: Begin the learning-rate schedule anew at each pruning step.
        group_sparsity: Strength of a penalty that pulls units which hold little towards zero before they are removed,
            see `edgespa.selection.sparsity`; it grows until the last pruning step. 0 for none.
        quantise: ``int8``: in the last part of the training weights and activations are at the levels of int8
            files, see `edgespa.quantisation.fake`; what is held out is then looked at so.
        quantise_share: That part.
        epochs: Passes over the training part.
        batch_size: Images at a time; of fewer images than that, if nobody says it, a quarter.
        accumulate: Batches that are one in a training step.
        head: ``keep`` the base's last layer, start a ``new`` one, or decide (``auto``): a new one if the base's outputs
            are another number than the classes, or if on the training data they are worse than a guess.
        lr: Peak learning rate of AdamW; None for that of the task that is gone on with, else for the adapter's own, or
            for a lower one where a few training steps show that the network does not bear that.
        weight_decay: Of AdamW, on matrices.
        label_smoothing: Share of each label that is spread over all classes.
        class_weights: Weights of the classes in the loss: ``none``, ``balanced`` by their number of images, or one
            number per class, by name or in the order of the classes; see `edgespa.objectives.class_weights`.
        augment: Changes of the training images, see `edgespa.adaptation.augment`.
        distill_weight: Share of the teacher in the loss, if there is one.
        distill_temperature: Softens the teacher's and the student's outputs.
        norms: ``add`` puts batch norms behind the convolutions that have none, for a network whose norms were folded
            into its weights; ``keep`` does not; ``auto`` does where the network has no norm at all and channels go.
        freeze_norms: Leave weights, biases and statistics of norms as in the base.
        mixed_precision: Of the forward and backward passes; None for what accelerate was told, else full precision.
        store: Type of the adapter factors in the task file.
        validation: Fraction of the training data that the best epoch is chosen on.
        hold_out: That fraction at ``random``, or in a ``block``: of each class images that follow each other, so that
            neighbours of one video are not on both sides.
        seed: Of everything random.
        first_lr: The rate that the search for one begins with; None for the adapter's own.
        warm_up: Share of the training in which the learning rate rises.
        clip: The longest that a gradient may be.
        norm_momentum: Share of a batch in the running statistics of batch norms; None for the network's own.
        take: The epoch that is the result: the ``best`` on what is held out, or the ``last``.
        looks: How often what is held out is looked at, if not after each epoch; after the last one always.
    """

    objective: str | None = None
    adapter: str = "splora"
    rank: int = Field(default=8, ge=1)
    kernel: str = "centre"
    adapter_settings: dict[str, Setting] = Field(default_factory=dict)
    criterion: str = "taylor"
    schedule: str = "cubic"
    prune_steps: int = Field(default=10, ge=1)
    prune_fraction: float = Field(default=0.05, gt=0, le=1)
    prune_from: float = Field(default=0.1, ge=0, lt=1)
    prune_until: float = Field(default=0.5, gt=0, le=1)
    recovery_epochs: float | None = Field(default=None, gt=0)
    lr_restart: bool = False
    group_sparsity: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    quantise: Literal["int8"] | None = None
    quantise_share: float = Field(default=0.3, gt=0, le=1)
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=2)
    accumulate: int = Field(default=1, ge=1)
    head: Literal["auto", "keep", "new"] = "auto"
    lr: float | None = Field(default=None, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] | dict[str, float] | tuple[float, ...] = "none"
    augment: tuple[str, ...] = ()
    distill_weight: float = Field(default=0.5, gt=0, le=1)
    distill_temperature: float = Field(default=2.0, gt=0)
    norms: Literal["auto", "keep", "add"] = "auto"
    freeze_norms: bool = False
    mixed_precision: Precision | None = None
    store: Literal["fp32", "fp16", "int8"] = "fp32"
    validation: float = Field(default=0.1, gt=0, lt=1)
    hold_out: Literal["random", "block"] = "random"
    seed: int = Field(default=0, ge=0)
    first_lr: float | None = Field(default=None, gt=0)
    warm_up: float = Field(default=WARM_UP, ge=0, lt=1)
    clip: float | None = Field(default=None, gt=0)
    norm_momentum: float | None = Field(default=None, gt=0, le=1)
    take: Literal["best", "last"] = "best"
    looks: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        require_known("adapter", self.adapter, method_names())
        require_known("criterion", self.criterion, criterion_names())
        require_known("schedule", self.schedule, SCHEDULES)
        for name in self.augment:
            require_known("augmentation", name, tuple(AUGMENTATIONS))
        if self.recovery_epochs is None and self.prune_until <= self.prune_from:
            raise ValueError("prune_until must be after prune_from")
        _ = self.adapter_options  # refuses settings that the kind does not have
        return self

    def looks_after(self, epoch: int) -> bool:
        """Whether what is held out is looked at after an epoch.

        Args:
            epoch: From 1.
        """
        every = 1 if self.looks is None else -(-self.epochs // self.looks)
        return epoch % every == 0 or epoch >= self.epochs

    @property
    def adapter_options(self) -> dict[str, Any]:
        """Options of the adapter kind: its settings, with the rank and the kernel where it has those."""
        if self.adapter == FULL:
            return options_of(FULL, self.adapter_settings)
        known = kind_named(self.adapter).defaults
        common = {key: value for key, value in (("rank", self.rank), ("kernel", self.kernel)) if key in known}
        return options_of(self.adapter, {**common, **self.adapter_settings})

    def adds_norms(self, program: Program) -> bool:
        """Whether batch norms are put into a program.

        Raises:
            ConfigError: If they are, and are not to be trained.
        """
        if self.norms == "add" and self.freeze_norms:
            raise ConfigError("norms that are added have to be trained", "leave out --freeze-norms, or --norms add")
        if self.norms == "auto":
            return self.density < 1 and not self.freeze_norms and not has_norms(program)
        return self.norms == "add"

    @property
    def peak_lr(self) -> float:
        """The learning rate that is asked for, or the adapter's own, which training may find too high."""
        return self.lr or self.first_lr or default_lr(self.adapter)
