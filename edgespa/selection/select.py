"""Selection: the units to keep under a budget, by global ranking, with alignment and protected groups."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from edgespa.errors import BudgetError, ConfigError
from edgespa.graph.cost import CostModel
from edgespa.graph.groups import Group, Groups, Kept
from edgespa.selection.criteria import Scores

Quantity = Literal["channels", "parameters", "macs"]
QUANTITIES: tuple[str, ...] = get_args(Quantity)
ROUND_TO = 16
"""The widest block of the runtimes that are known: what fits it fits 8 and 4 too."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """What is to remain.

    Attributes:
        density: Fraction of the unpruned network, in (0, 1].
        of: Fraction of what: ``channels`` (removable output channels), ``parameters`` or ``macs``.
    """

    density: float
    of: str = "channels"

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ConfigError(f"density must be in (0, 1], got {self.density:g}")
        if self.of not in QUANTITIES:
            raise ConfigError(f"unknown budget '{self.of}'", f"choose one of: {', '.join(QUANTITIES)}")


@dataclasses.dataclass(frozen=True)
class Constraints:
    """What a selection has to respect.

    Attributes:
        round_to: Channel counts are kept at multiples of this, halved until it is at most half of the group, so that
            narrow groups can shrink; below one such step at halves of it. 1 switches alignment off.
        min_width: Least number of channels of a group.
        keep: Patterns (as of shells) of tensor or module names whose groups stay whole.
        only: If given, all groups stay whole but those that match.
    """

    round_to: int = ROUND_TO
    min_width: int = 1
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.round_to < 1 or self.min_width < 1:
            raise ConfigError("round_to and min_width must be at least 1")


Choose = Callable[[Groups, Mapping[str, Scores], Kept, float], Kept]
"""From groups, scores, the units that are there and a density of the schedule to those that stay."""


def select(
    groups: Groups,
    scores: Mapping[str, Scores],
    budget: Budget,
    constraints: Constraints,
    cost: CostModel,
    kept: Kept | None = None,
    whole: Collection[str] = (),
) -> Kept:
    """Keep the units with the highest scores, over all groups at once, until the budget is met.

    The result's density is the largest not above the budget that global ranking reaches: one unit (or one alignment
    step of one group) more would exceed it.

    Args:
        groups: Channel groups.
        scores: Per group one score per unit; NaN for units that are gone.
        budget: What may remain.
        constraints: Alignment, minimum widths, protected groups.
        cost: Costs of the program, for budgets in parameters and MACs.
        kept: Units that are still there; all by default. What is gone stays gone.
        whole: Groups that lose nothing, besides those that the constraints protect.

    Raises:
        BudgetError: If even the smallest selection is above the budget; it says the closest one.
        ConfigError: If a pattern matches nothing.
    """
    current = kept if kept is not None else groups.all_kept()
    free = [name for name in free_groups(groups, constraints) if name not in whole]
    plans = {name: _Plan(groups.groups[name], constraints, int(current[name].sum())) for name in free}
    order = {name: _ranking(scores[name], current[name]) for name in free}
    pooled = np.sort(np.concatenate([scores[name][current[name]] for name in free])) if free else np.zeros(0)

    def at(threshold_rank: int) -> Kept:
        """Keep what lies above the given rank of the pooled scores, rounded per group."""
        chosen = {name: mask.copy() for name, mask in current.items()}
        limit = pooled[threshold_rank - 1] if threshold_rank else -math.inf
        for name in free:
            above = int((scores[name][current[name]] > limit).sum())
            chosen[name] = _top(order[name], plans[name].nearest(above), len(current[name]))
        return chosen

    density = _measure(groups, budget.of, cost)
    low, high = 0, len(pooled)
    if density(at(low)) <= budget.density + 1e-9:
        return at(low)
    smallest = density(at(high))
    if smallest > budget.density + 1e-9:
        least = math.ceil(smallest * 1e4) / 1e4  # rounded up, so that it can be asked for
        raise BudgetError(
            f"{budget.of} density {budget.density:g} cannot be reached: the least is {least:g}",
            "ask for that, or lower --round-to or --min-width, or keep fewer layers whole",
        )
    while high - low > 1:
        middle = (low + high) // 2
        if density(at(middle)) <= budget.density + 1e-9:
            high = middle
        else:
            low = middle
    return _refill(at(high), budget.density, density, scores, order, plans)


def align_units(group: Group, round_to: int) -> int:
    """Units per alignment step: channels of a slot at multiples of ``round_to``, halved as `halved` does."""
    slot = group.writers[0] if group.writers else next(iter(group.slots))
    per_unit = len(group.slots[slot][0])
    return halved(round_to // math.gcd(round_to, per_unit), len(group))


def halved(step: int, count: int) -> int:
    """A step that a group of so many can take: halved until it is at most half of the group, and at least 1.

    A quarter of the group, as one would have it for more choice, is often no part of a runtime's block: a group of 24
    in sixes (18, 12, 6) is padded to 32 and 16 by ONNX Runtime, and takes longer than the whole of it.
    """
    while step > 1 and 2 * step > count:
        step //= 2
    return step


def allowed_widths(group: Group, constraints: Constraints, available: int | None = None) -> tuple[int, ...]:
    """The numbers of units that a selection may keep of a group: steps, below one step its halves, and the whole.

    Args:
        group: The group.
        constraints: Alignment and minimum width.
        available: Units that are still there; all by default.
    """
    return tuple(_Plan(group, constraints, len(group) if available is None else available).widths)


class _Plan:
    """The widths that a group may take: multiples of the alignment step, and below one step its halves."""

    def __init__(self, group: Group, constraints: Constraints, available: int) -> None:
        step = align_units(group, constraints.round_to)
        slot = group.writers[0] if group.writers else next(iter(group.slots))
        least = max(1, math.ceil(constraints.min_width / len(group.slots[slot][0])))
        narrow = [step >> shift for shift in range(1, step.bit_length()) if least <= step >> shift < available]
        wide = [width for width in range(step, available, step) if width >= least]
        self.widths = sorted({*narrow, *wide, available})

    def nearest(self, count: int) -> int:
        """The allowed width nearest to a number of units, the wider one of two."""
        return min(self.widths, key=lambda width: (abs(width - count), -width))

    def wider(self, count: int) -> int | None:
        """The next allowed width."""
        return next((width for width in self.widths if width > count), None)


def _ranking(scores: Scores, kept: np.ndarray) -> np.ndarray:
    """Units that are there, best first; ties in the order of their indices."""
    there = np.flatnonzero(kept)
    return there[np.argsort(-scores[there], kind="stable")]


def _top(order: np.ndarray, count: int, size: int) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[order[:count]] = True
    return mask


def _refill(
    below: Kept,
    target: float,
    density: Callable[[Kept], float],
    scores: Mapping[str, Scores],
    order: Mapping[str, np.ndarray],
    plans: Mapping[str, _Plan],
) -> Kept:
    """Give back what alignment took too much: the best units first, one step of one group at a time, if it fits."""
    result = dict(below)
    open_groups = set(order)
    while open_groups:
        best = max(open_groups, key=lambda name: (_next_score(result[name], scores[name], order[name]), name))
        count = int(result[best].sum())
        width = plans[best].wider(count)
        if width is None:
            open_groups.discard(best)
            continue
        trial = {**result, best: _top(order[best], width, len(result[best]))}
        if density(trial) <= target + 1e-9:
            result = trial
        else:
            open_groups.discard(best)
    return result


def _next_score(mask: np.ndarray, scores: Scores, order: np.ndarray) -> float:
    count = int(mask.sum())
    return float(scores[order[count]]) if count < len(order) else -math.inf


def _measure(groups: Groups, of: str, cost: CostModel) -> Callable[[Kept], float]:
    if of == "channels":
        return groups.channel_density
    whole = cost.cost()
    if of == "macs":
        return lambda kept: cost.cost(kept).macs / max(whole.macs, 1)
    return lambda kept: cost.cost(kept).parameters / max(whole.parameters, 1)


def free_groups(groups: Groups, constraints: Constraints) -> list[str]:
    """Names of the groups that the constraints' patterns leave free.

    Raises:
        ConfigError: If a pattern matches nothing.
    """
    names = {name: {name, *(slot.tensor for slot in group.slots)} for name, group in groups.groups.items()}
    for pattern in (*constraints.keep, *constraints.only):
        if not any(_matches(pattern, own) for own in names.values()):
            raise ConfigError(
                f"pattern '{pattern}' matches no layer that can be pruned",
                "see the names with: edgespa inspect MODEL",
            )
    free = []
    for name, own in names.items():
        kept_whole = any(_matches(pattern, own) for pattern in constraints.keep)
        wanted = not constraints.only or any(_matches(pattern, own) for pattern in constraints.only)
        if wanted and not kept_whole:
            free.append(name)
    return free


def _matches(pattern: str, names: set[str] | Sequence[str]) -> bool:
    """Whether a shell pattern matches a tensor name, the module that holds it, or a module above that."""
    for name in names:
        parts = name.split(".")
        if any(fnmatch.fnmatchcase(".".join(parts[: n + 1]), pattern) for n in range(len(parts))):
            return True
    return False
