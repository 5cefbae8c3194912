"""Methods of pruning without training, and how they are asked for."""

from __future__ import annotations

import dataclasses
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from edgespa.selection.config import SelectionConfig, require_known
from edgespa.selection.criteria import CRITERIA

Activations = Literal["layer", "seq", "asym"]
Allocation = Literal["auto", "global", "uniform", "equal-error", "equal-accuracy", "knapsack"]
ALLOCATIONS: tuple[str, ...] = get_args(Allocation)


@dataclasses.dataclass(frozen=True)
class Method:
    """A way of choosing units.

    Attributes:
        name: On the command line.
        rank: What units are ordered by: a criterion on weights (its name), or ``in-change``, ``weight-norm``,
            ``act-grad``, ``forward``, ``forward-fd``, ``sampling``.
        per_layer: Ranked within each layer; else layers are ranked against each other.
        needs_data: Whether it needs images.
        needs_labels: Whether those have to have classes.
        activations: Which inputs of a reader count; for `Method.in_change`, and for new weights by default.
    """

    name: str
    rank: str
    per_layer: bool = True
    needs_data: bool = True
    needs_labels: bool = False
    activations: Activations = "asym"

    @property
    def in_change(self) -> bool:
        """Whether units are chosen by what their readers can be made to reconstruct."""
        return self.rank == "in-change"


_FREE = [name for name, criterion in CRITERIA.items() if not criterion.needs_gradient]
_ALL = (
    *(Method(name, name, per_layer=False, needs_data=False) for name in _FREE),
    Method("layer-in-change", "in-change", activations="layer"),
    Method("seq-in-change", "in-change", activations="seq"),
    Method("asym-in-change", "in-change", activations="asym"),
    Method("layer-greedy-fs", "forward"),
    Method("layer-greedy-fs-fd", "forward-fd"),
    Method("layer-sampling", "sampling"),
    Method("act-grad", "act-grad", per_layer=False, needs_labels=True),
    Method("layer-act-grad", "act-grad", needs_labels=True),
    Method("weight-norm", "weight-norm", per_layer=False, needs_data=False),
    Method("layer-weight-norm", "weight-norm", needs_data=False),
    Method("layer-random", "random", needs_data=False),
)
TABLE: dict[str, Method] = {method.name: method for method in _ALL}
METHODS = tuple(TABLE)


class PruneConfig(SelectionConfig):
    """How to prune; with the attributes of `SelectionConfig`, of which the density must be said.

    Attributes:
        method: A name in `METHODS`.
        reweight: Whether the layers that read removed channels get new weights by least squares on the calibration
            images; None for yes if there are images.
        activations: Which inputs new weights are fitted on: ``layer`` those of the original network, ``seq`` those of
            the network pruned so far, ``asym`` the same, to give the *original* outputs; None for ``asym``, and for
            the form of its own that an in-change method has.
        allocation: How the budget is shared out: ``uniform``, the same fraction of every group; ``equal-error``, the
            same relative reconstruction error; ``equal-accuracy``, the same loss of accuracy on labelled held-out
            images; ``global``, by ranking scores over all groups; ``knapsack``, the widths that lose least within the
            density, each layer's found for itself, with a latency within that, by the device's latency table (without
            a table as equal-error, or global); ``auto``: uniform for methods that rank within each layer, else global;
            with a latency the knapsack, but for methods that rank within each layer without saying what is lost.
        widen: With a latency that is asked for, and a latency table of the device that covers the network: give widths
            back as long as the table says that they cost no time.
        blocks: With the allocation knapsack and the method ``asym-in-change``: whole residual blocks may go too, where
            that loses less for the same than narrower layers; none where layers are kept whole by ``keep`` or
            ``only``, or channels are counted.
        narrow_heads: Under the same conditions: heads of attention may get narrower too, each width for itself.
        bn_reestimate: Take batch-norm statistics anew on the calibration images.
        head_width: New width of the heads of attention: a number of dimensions, or a share of those that there are
            if not above 1; see `edgespa.pruning.heads`. None leaves it to the allocation.
        spare: Fraction of the calibration images that nothing is chosen by or fitted on: those that
            `edgespa.adaptation.heal` holds out with the same seed, and tells what is lost on. Where healing follows in
            the same run, what it holds out is spared anyway.
        seed: Of everything random.
    """

    density: float = Field(gt=0, le=1)
    method: str = "l1"
    reweight: bool | None = None
    activations: Activations | None = None
    allocation: Allocation = "auto"
    widen: bool = True
    blocks: bool = True
    narrow_heads: bool = True
    bn_reestimate: bool = False
    head_width: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    spare: float = Field(default=0.0, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _known_method(self) -> Self:
        require_known("method", self.method, METHODS)
        if self.allocation == "global" and self.how.per_layer:
            raise ValueError(f"{self.method} ranks within each layer, so its allocation cannot be global")
        if self.allocation == "knapsack" and not self.has_losses:
            raise ValueError(
                f"{self.method} ranks within each layer and says nothing of what it loses, which the allocation "
                "knapsack weighs: take asym-in-change, or a method that ranks layers against each other"
            )
        if self.how.in_change and self.activations not in (None, self.how.activations):
            raise ValueError(f"{self.method} fits on {self.how.activations}: leave out activations, or take its sister")
        if self.head_width is not None and self.head_width > 1 and self.head_width != int(self.head_width):
            raise ValueError(f"a head cannot be {self.head_width:g} wide: give a whole number, or a share up to 1")
        return self

    @property
    def how(self) -> Method:
        """The method."""
        return TABLE[self.method]

    @property
    def shares(self) -> str:
        """The allocation, decided."""
        if self.allocation != "auto":
            return self.allocation
        return "uniform" if self.how.per_layer else "global"

    @property
    def fits_on(self) -> Activations:
        """Which inputs selection and new weights look at."""
        return self.how.activations if self.how.in_change else self.activations or self.how.activations

    @property
    def needs_data(self) -> bool:
        """Whether images are needed."""
        return (
            self.how.needs_data
            or self.reweight is True
            or self.head_width is not None
            or self.bn_reestimate
            or self.every_path
        )

    def for_latency(self) -> Self:
        """The same, its allocation decided for a latency that is asked for: the knapsack where the method has it."""
        if self.allocation == "auto" and self.has_losses:
            return self.model_copy(update={"allocation": "knapsack"})
        return self

    @property
    def has_losses(self) -> bool:
        """Whether the method says of every width of a layer what is lost, so that layers can be compared."""
        return self.how.in_change or not self.how.per_layer

    @property
    def every_path(self) -> bool:
        """Whether the budget is shared out by the greedy paths of all groups."""
        by_paths = self.shares in ("equal-error", "equal-accuracy")
        return by_paths or (self.shares == "knapsack" and self.how.in_change)
