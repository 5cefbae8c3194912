"""Widths that lose least within a time, over all groups at once. Pure.

A layer's time depends on the groups on both its sides, so this is no plain knapsack (HALP, Shen et al. 2022, arXiv
2110.10811, solves one over groups that are taken as apart). For a multiplier lambda, groups are gone over until none
moves, each at the width of least ``loss + lambda * time`` where the others are; lambda is bisected. What is near the
limit is brought below it, and what time is left is filled, by moves of one group or of two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BISECTIONS = 24
_SWEEPS = 20
_MOVES = 400
_STARTS = 8
_EASE = 1e-12
_WORK = 2_000_000
"""Terms that a search looks at before it leaves out what is dear: about a minute, where groups touch dozens of them."""
_LAST_MOVES = 16

Choice = dict[str, int]
"""Of each variable (the width of a group, a block that is there or not) the place of its value."""


class Terms:
    """A sum of numbers, each of which depends on few variables.

    Args:
        sizes: Of each variable how many values it has.
        constant: What is added whatever is chosen.
    """

    def __init__(self, sizes: Mapping[str, int], constant: float = 0.0) -> None:
        self.sizes = dict(sizes)
        self._constant = constant
        self._arrays: dict[tuple[str, ...], NDArray[np.float64]] = {}
        self._of: dict[str, list[tuple[str, ...]]] = {name: [] for name in sizes}

    def add(self, names: Sequence[str], values: ArrayLike) -> None:
        """Add a term.

        Args:
            names: Of the variables that it depends on.
            values: At each combination of their values: an axis for each, of its size or of 1.
        """
        order = tuple(sorted(names))
        own = np.asarray(values, dtype=np.float64)
        own = np.broadcast_to(own, [self.sizes[name] for name in names])
        own = np.transpose(own, [names.index(name) for name in order])
        if not order:
            self._constant += float(own)
        elif order in self._arrays:
            self._arrays[order] = self._arrays[order] + own
        else:
            self._arrays[order] = own.copy()
            for name in order:
                self._of[name].append(order)

    def around(self, name: str) -> set[str]:
        """The variables that some term has together with one, and that one.

        Args:
            name: Of the variable.
        """
        return {name, *(each for names in self._of[name] for each in names)}

    def work(self, name: str) -> int:
        """What it takes to ask `along` a variable: terms, and what takes as long.

        Args:
            name: Of the variable.
        """
        return len(self._of[name])

    def total(self, choice: Mapping[str, int]) -> float:
        """The sum at a choice.

        Args:
            choice: Of each variable the place of its value.
        """
        return self._constant + sum(float(own[tuple(choice[n] for n in names)]) for names, own in self._arrays.items())

    def along(self, name: str, choice: Mapping[str, int]) -> NDArray[np.float64]:
        """The sum of the terms that depend on a variable, at each of its values, the others as chosen.

        Args:
            name: Of the variable.
            choice: Of each variable the place of its value.
        """
        found = np.zeros(self.sizes[name])
        for names in self._of[name]:
            found += self._arrays[names][tuple(slice(None) if own == name else choice[own] for own in names)]
        return found


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What a search found.

    Attributes:
        choice: Of each variable the place of its value.
        loss: Of it.
        time: Of it.
    """

    choice: Choice
    loss: float
    time: float


def knapsack(losses: Terms, times: Terms, limit: float) -> Shapes | None:
    """The choice that loses least, within a time.

    Args:
        losses: Over all variables, the last value of each the one that loses nothing.
        times: Over the same variables.
        limit: Of the time.

    Returns:
        The best that was met; None if nothing that was met is within the limit: then most likely nothing is.
    """
    search = _Search(losses, times)
    whole = search.at({name: size - 1 for name, size in losses.sizes.items()})
    if whole.time <= limit:
        return search.filled(whole, limit)
    least = fastest(losses, times)
    if least.time > limit:
        return None
    # From losses alone to time alone, by the ratio of both over all that there is.
    spread = max(least.loss - whole.loss, _EASE)
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
    starts = [least, *(search.lowered(each, limit) for each in nearest[: 1 if search.tired else None])]
    filled = (search.filled(each, limit) for each in starts if each.time <= limit)
    return search.switched(min(filled, key=lambda each: (each.loss, each.time)), limit, float(np.sqrt(low * high)))


def fastest(losses: Terms, times: Terms) -> Shapes:
    """The choice that takes least time, whatever it loses.

    Args:
        losses: As of `knapsack`.
        times: Of them.
    """
    search = _Search(losses, times)
    return search.settled(search.at(dict.fromkeys(losses.sizes, 0)), np.inf)


class _Search:
    """Moves among choices."""

    def __init__(self, losses: Terms, times: Terms) -> None:
        self.losses, self.times = losses, times
        self.names = list(losses.sizes)
        self.around = {}
        for name in self.names:
            near = losses.around(name) | times.around(name)
            self.around[name] = [each for each in self.names if each in near and each != name]
        self.hubs = [name for name in self.names if len(self.around[name]) > 2]
        self._done = 0

    @property
    def tired(self) -> bool:
        """Whether so much was looked at that only the plain moves go on."""
        return self._done > _WORK

    def at(self, choice: Choice) -> Shapes:
        return Shapes(dict(choice), self.losses.total(choice), self.times.total(choice))

    def settled(self, start: Shapes, price: float) -> Shapes:
        """From a choice to one where no variable alone is better elsewhere, nor a hub with its neighbours."""
        choice = dict(start.choice)
        for _ in range(_SWEEPS):
            moved = self._swept(choice, price, self.names)
            for hub in self.hubs:
                moved |= not self.tired and self._hub(choice, hub, price)
            if not moved or self.tired:
                break
        return self.at(choice)

    def _costs(self, name: str, choice: Choice, price: float) -> NDArray[np.float64]:
        self._done += self.times.work(name) + self.losses.work(name)
        along = self.times.along(name, choice)
        return along if np.isinf(price) else self.losses.along(name, choice) + price * along

    def _swept(self, choice: Choice, price: float, names: Sequence[str]) -> bool:
        moved = False
        for name in names:
            costs = self._costs(name, choice, price)
            place = int(np.argmin(costs))
            if costs[place] < costs[choice[name]] - _EASE:
                choice[name], moved = place, True
        return moved

    def _hub(self, choice: Choice, hub: str, price: float) -> bool:
        """Try each value of a variable that many depend on, with what is then best for these."""
        around = self.around[hub]
        best, least = dict(choice), self._value(choice, price)
        here = choice[hub]
        for place in range(self.losses.sizes[hub]):
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

    def switched(self, start: Shapes, limit: float, price: float) -> Shapes:
        """Better choices within the limit, by what is there or not: each the other way, with what is then best."""
        best = start
        for name in [name for name, size in self.losses.sizes.items() if size == 2 and self.around[name]]:
            if self.tired:
                break
            trial = {**best.choice, name: 1 - best.choice[name]}
            self._swept(trial, price, self.around[name])
            found = self.lowered(self.at(trial), limit)
            if found.time <= limit:
                found = self.filled(found, limit)
                best = found if found.loss < best.loss - _EASE else best
        return best

    def lowered(self, start: Shapes, limit: float) -> Shapes:
        """From a choice that takes too long to one that fits, by moves of one variable that lose least for the time."""
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
        """Better choices within the limit, by moves of one variable, and of one against another."""
        best = start
        for count in range(_MOVES):
            if self.tired and count >= _LAST_MOVES:
                break
            found = self._one(best, limit) or (None if self.tired else self._two(best, limit))
            if found is None:
                break
            best = found
        return best

    def _moves(self, at: Shapes) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Of each variable what each of its values adds to the loss and to the time."""
        moves = {}
        for name in self.names:
            self._done += self.times.work(name) + self.losses.work(name)
            here, lost, took = at.choice[name], self.losses.along(name, at.choice), self.times.along(name, at.choice)
            moves[name] = (lost - lost[here], took - took[here])
        return moves

    def _one(self, at: Shapes, limit: float) -> Shapes | None:
        """The move of one variable that wins most for its time."""
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
        """The move of one variable that another makes room for, or the other way round, of least loss together."""
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
