"""Widths that lose least within a time, over all groups at once. Pure.

A layer's time depends on the groups on both its sides, so this is no plain knapsack (HALP, Shen et al. 2022, arXiv
2110.10811, solves one over groups that are taken as apart). For a multiplier lambda, groups are gone over until none
moves, each at the width of least ``loss + lambda * time`` where the others are; lambda is bisected. What is near the
limit is brought below it, and what time is left is filled, by moves of one group or of two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_BISECTIONS = 24
_SWEEPS = 20
_MOVES = 400
_STARTS = 8
_EASE = 1e-12

Choice = dict[str, int]
"""Of each group the place of its width among those that it may have."""


class Times(Protocol):
    """Time over widths, see `edgespa.latency.along.Along`."""

    @property
    def neighbours(self) -> Mapping[str, Sequence[str]]:
        """Of each group those that some layer touches together with it."""
        ...

    def total(self, choice: Mapping[str, int]) -> float:
        """Of everything, at a choice."""
        ...

    def along(self, name: str, choice: Mapping[str, int]) -> NDArray[np.float64]:
        """Of the layers that touch a group, at each of its widths, the other groups as chosen."""
        ...


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What a search found.

    Attributes:
        choice: Of each group the place of its width.
        loss: The sum of losses.
        time: Of it.
    """

    choice: Choice
    loss: float
    time: float


def knapsack(losses: Mapping[str, NDArray[np.float64]], times: Times, limit: float) -> Shapes | None:
    """The widths whose losses sum up to least, within a time.

    Args:
        losses: Of each group what each of its widths loses, widths ascending; at least one.
        times: Of them.
        limit: Of the time.

    Returns:
        The best that was met; None if nothing that was met is within the limit: then most likely nothing is.
    """
    search = _Search(losses, times)
    whole = search.at({name: len(own) - 1 for name, own in losses.items()})
    if whole.time <= limit:
        return search.filled(whole, limit)
    least = fastest(losses, times)
    if least.time > limit:
        return None
    # From losses alone to time alone, by the ratio of both over all that there is.
    spread = max(sum(float(np.ptp(own)) for own in losses.values()), _EASE)
    scale = spread / max(abs(whole.time - least.time), _EASE)
    low, high = scale * 1e-4, scale * 1e4
    met, from_wide, from_narrow = [least], whole, least
    for _ in range(_BISECTIONS):
        middle = float(np.sqrt(low * high))
        wide, narrow = search.settled(from_wide, middle), search.settled(from_narrow, middle)
        met += [wide, narrow]
        found = min(wide, narrow, key=lambda each: each.loss + middle * each.time)
        if found.time <= limit:
            high, from_narrow = middle, found
        else:
            low, from_wide = middle, found
    # The nearest on both sides of the limit: from below there is time left, from above some has to go.
    distinct = {tuple(each.choice.values()): each for each in met}.values()
    nearest = sorted(distinct, key=lambda each: abs(each.time - limit))[:_STARTS]
    starts = [least, *(search.lowered(each, limit) for each in nearest)]
    return min(
        (search.filled(each, limit) for each in starts if each.time <= limit), key=lambda each: (each.loss, each.time)
    )


def fastest(losses: Mapping[str, NDArray[np.float64]], times: Times) -> Shapes:
    """The widths that take least time, whatever they lose.

    Args:
        losses: As of `knapsack`.
        times: Of them.
    """
    search = _Search(losses, times)
    return search.settled(search.at({name: 0 for name in losses}), np.inf)


class _Search:
    """Moves among choices."""

    def __init__(self, losses: Mapping[str, NDArray[np.float64]], times: Times) -> None:
        self.losses, self.times = losses, times
        self.hubs = [name for name in losses if len(times.neighbours.get(name, ())) > 2]

    def at(self, choice: Choice) -> Shapes:
        loss = sum(float(own[choice[name]]) for name, own in self.losses.items())
        return Shapes(dict(choice), loss, self.times.total(choice))

    def settled(self, start: Shapes, price: float) -> Shapes:
        """From a choice to one where no group alone is better elsewhere, nor a hub together with its neighbours."""
        choice = dict(start.choice)
        for _ in range(_SWEEPS):
            moved = self._swept(choice, price, self.losses)
            for hub in self.hubs:
                moved |= self._hub(choice, hub, price)
            if not moved:
                break
        return self.at(choice)

    def _costs(self, name: str, choice: Choice, price: float) -> NDArray[np.float64]:
        along = self.times.along(name, choice)
        return along if np.isinf(price) else self.losses[name] + price * along

    def _swept(self, choice: Choice, price: float, names: Sequence[str] | Mapping[str, object]) -> bool:
        moved = False
        for name in names:
            costs = self._costs(name, choice, price)
            place = int(np.argmin(costs))
            if costs[place] < costs[choice[name]] - _EASE:
                choice[name], moved = place, True
        return moved

    def _hub(self, choice: Choice, hub: str, price: float) -> bool:
        """Try each width of a group that many touch, with what is then best for these."""
        around = self.times.neighbours[hub]
        best, least = dict(choice), self._value(choice, price)
        here = choice[hub]
        for place in range(len(self.losses[hub])):
            if place == here:
                continue
            trial = {**choice, hub: place}
            self._swept(trial, price, around)
            value = self._value(trial, price)
            if value < least - _EASE:
                best, least = trial, value
        moved = best[hub] != here
        choice.update(best)
        return moved

    def _value(self, choice: Choice, price: float) -> float:
        found = self.at(choice)
        return found.time if np.isinf(price) else found.loss + price * found.time

    def lowered(self, start: Shapes, limit: float) -> Shapes:
        """From a choice that takes too long to one that fits, by moves of one group that lose least for the time."""
        at = start
        for _ in range(_MOVES):
            if at.time <= limit:
                break
            best = None
            for name, (loss, time) in self._moves(at).items():
                price = np.where(time < -_EASE, loss / np.minimum(-time, at.time - limit).clip(min=_EASE), np.inf)
                place = int(np.argmin(price))
                if np.isfinite(price[place]) and (best is None or price[place] < best[0]):
                    best = (float(price[place]), name, place)
            if best is None:
                break
            at = self.at({**at.choice, best[1]: best[2]})
        return at

    def filled(self, start: Shapes, limit: float) -> Shapes:
        """Better choices within the limit, by moves of one group, and of one against another."""
        best = start
        for _ in range(_MOVES):
            found = self._one(best, limit) or self._two(best, limit)
            if found is None:
                break
            best = found
        return best

    def _moves(self, at: Shapes) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Of each group what each of its widths adds to the loss and to the time."""
        moves = {}
        for name, own in self.losses.items():
            here, along = at.choice[name], self.times.along(name, at.choice)
            moves[name] = (own - own[here], along - along[here])
        return moves

    def _one(self, at: Shapes, limit: float) -> Shapes | None:
        """The move of one group that wins most for its time."""
        room, best = limit - at.time, None
        for name, (loss, time) in self._moves(at).items():
            gain = np.where((time <= room) & (loss < -_EASE), -loss / np.maximum(time, _EASE), 0.0)
            place = int(np.argmax(gain))
            if gain[place] > 0 and (best is None or gain[place] > best[0]):
                best = (float(gain[place]), name, place)
        if best is None:
            return None
        found = self.at({**at.choice, best[1]: best[2]})
        return found if found.time <= limit and found.loss < at.loss else None

    def _two(self, at: Shapes, limit: float) -> Shapes | None:
        """The move of one group that another makes room for, or the other way round, of least loss together."""
        moves, room = self._moves(at), limit - at.time
        pairs: list[tuple[float, str, int, str, int]] = []
        gains = {name: [p for p in range(len(loss)) if loss[p] < -_EASE] for name, (loss, _) in moves.items()}
        for name, places in gains.items():
            for place in places:
                won, took = moves[name][0][place], moves[name][1][place]
                for other, (loss, time) in moves.items():
                    if other == name:
                        continue
                    sums = np.where(took + time <= room + _EASE, won + loss, np.inf)
                    spot = int(np.argmin(sums))
                    if sums[spot] < -_EASE:
                        pairs.append((float(sums[spot]), name, place, other, spot))
        for _, name, place, other, spot in sorted(pairs)[:8]:  # those that touch each other may take longer than said
            found = self.at({**at.choice, name: place, other: spot})
            if found.time <= limit and found.loss < at.loss - _EASE:
                return found
        return None
