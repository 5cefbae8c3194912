"""The space of a search: each setting that may vary, with its choices or its range.

A dimension is written as a list of choices, ``[4, 8, 16]``; as a text, ``"4,8,16"`` for choices, ``"0.3..1"`` for a
range, ``"0.3..1:0.05"`` for one in steps, ``"1e-4..1e-2:log"`` for one whose logarithm is even; or as a table,
``{low = 0.3, high = 1.0, step = 0.05}``.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from edgespa.errors import ConfigError
from edgespa.models.imports import nearest
from edgespa.system.bounds import shown

Value = bool | int | float | str
MOST_CHOICES = 1000
_RANGE_KEYS = ("low", "high", "step", "log")
_FORMS = "write choices, rank=4,8,16, or a range, density=0.3..1:0.05 or lr=1e-4..1e-2:log"


@dataclasses.dataclass(frozen=True)
class Choices:
    """One of some values.

    Attributes:
        values: They; each once.
    """

    values: tuple[Value, ...]

    def grid(self, name: str) -> tuple[Value, ...]:
        """All of them."""
        return self.values

    def ends(self) -> tuple[Value, ...]:
        """Values that are tried for being allowed."""
        return self.values

    def nearest(self, value: Any) -> Value:
        """That value, if it is one of them; else the first."""
        return next((each for each in self.values if type(each) is type(value) and each == value), self.values[0])

    def part(self, share: float) -> Value:
        """The value that lies so far between the first, 0, and the last, 1."""
        return self.values[round(share * (len(self.values) - 1))]

    def plain(self) -> Any:
        """As JSON and TOML have it."""
        return list(self.values)

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


@dataclasses.dataclass(frozen=True)
class Range:
    """A number between two.

    Attributes:
        low: The least.
        high: The greatest.
        step: From value to value; None for any.
        log: Its logarithm is even.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return all(isinstance(each, int) for each in (self.low, self.high, self.step or 1))

    def grid(self, name: str) -> tuple[Value, ...]:
        """All its values.

        Raises:
            ConfigError: They are not to be counted.
        """
        step = self.step or (1 if self.whole and not self.log else None)
        if step is None:
            raise ConfigError(
                f"space.{name}: a grid has no place for any number between {self.low:g} and {self.high:g}",
                f"give it a step, {name}={self.low:g}..{self.high:g}:STEP, choices, or another sampler",
            )
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        if count > MOST_CHOICES:
            raise ConfigError(f"space.{name}: {count:,} values", f"give a larger step; at most {MOST_CHOICES:,}")
        return tuple(_tidy(self.low + step * index) for index in range(count))

    def ends(self) -> tuple[Value, ...]:
        """Values that are tried for being allowed."""
        return (self.low, self.high)

    def nearest(self, value: Any) -> Value:
        """The value that is nearest to a number; the middle for anything else."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return self.part(0.5)
        inside = min(max(value, self.low), self.high)
        return self._stepped(inside)

    def part(self, share: float) -> Value:
        """The value that lies so far between the ends."""
        if self.log:
            return self._stepped(self.low * (self.high / self.low) ** share)
        return self._stepped(self.low + share * (self.high - self.low))

    def _stepped(self, value: float) -> Value:
        step = self.step or (1 if self.whole else None)
        if step is None:
            return float(f"{value:.6g}")
        most = math.floor((self.high - self.low) / step + 1e-9)
        found = _tidy(self.low + step * min(most, round((value - self.low) / step)))
        return int(found) if self.whole else found

    def plain(self) -> Any:
        """As JSON and TOML have it."""
        found: dict[str, Any] = {"low": self.low, "high": self.high}
        return found | ({"step": self.step} if self.step else {}) | ({"log": True} if self.log else {})

    def __str__(self) -> str:
        more = f":{self.step:g}" if self.step else ":log" if self.log else ""
        return f"{self.low:g}..{self.high:g}{more}"


Dimension = Choices | Range


def _tidy(value: float) -> float:
    """A step of a range without the noise of its sums: 0.30000000000000004 is 0.3."""
    return value if isinstance(value, int) else float(f"{value:.10g}")


@dataclasses.dataclass(frozen=True)
class Space:
    """What may vary.

    Attributes:
        dimensions: By the name of the setting, in the order of the alphabet: what is drawn does not hang on the order
            in which somebody wrote them.
    """

    dimensions: Mapping[str, Dimension]

    @classmethod
    def parse(cls, given: Mapping[str, Any], known: Sequence[str]) -> Space:
        """From what was typed, or written into a table.

        Args:
            given: By name; ``-`` is as good as ``_``.
            known: Settings that may vary.

        Raises:
            ConfigError: A name is not known, which names the nearest; or a value is no dimension.
        """
        found: dict[str, Dimension] = {}
        for key, value in given.items():
            name = str(key).replace("-", "_")
            if name not in known:
                near = nearest(name, known, 1)
                told = f"did you mean '{near[0]}'?" if near else f"what may vary: {', '.join(sorted(known))}"
                raise ConfigError(f"space.{shown(str(key))[1:-1]} is not known", told)
            if name in found:
                raise ConfigError(f"space.{name} is said twice", "leave one of them out")
            found[name] = dimension_of(name, value)
        return cls(MappingProxyType(dict(sorted(found.items()))))

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: each.plain() for name, each in self.dimensions.items()}

    @property
    def size(self) -> int | None:
        """How many points it has; None where that has no end."""
        try:
            return math.prod(len(each.grid(name)) for name, each in self.dimensions.items())
        except ConfigError:
            return None

    def grid(self) -> Iterator[dict[str, Value]]:
        """All points, the last dimension first.

        Raises:
            ConfigError: A range has no step.
        """
        axes = [each.grid(name) for name, each in self.dimensions.items()]
        for point in itertools.product(*axes):
            yield dict(zip(self.dimensions, point, strict=True))


def dimension_of(name: str, value: Any) -> Dimension:
    """A dimension, however it is said; see the module.

    Args:
        name: For messages.
        value: A list, a text, a table, or one value.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(value, Mapping):
        return _table(name, value)
    if isinstance(value, str):
        value = _range(name, value) if ".." in value else [_scalar(each.strip()) for each in value.split(",")]
    if isinstance(value, Range):
        return value
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values or len(values) > MOST_CHOICES:
        raise ConfigError(f"space.{name}: {len(values)} choices", f"give 1 to {MOST_CHOICES}; {_FORMS}")
    for each in values:
        finite = isinstance(each, bool | int | str) or (isinstance(each, float) and math.isfinite(each))
        if not finite or each == "":
            raise ConfigError(f"space.{name}: {shown(str(each))} is no choice", _FORMS)
    if len({json.dumps(each) for each in values}) < len(values):
        raise ConfigError(f"space.{name}: a choice is there twice", "leave one of them out")
    return Choices(tuple(values))


def _range(name: str, text: str) -> Range:
    span, colon, more = text.partition(":")
    low, _, high = span.partition("..")
    given: dict[str, Any] = {"low": _scalar(low.strip()), "high": _scalar(high.strip())}
    if more.strip() == "log":
        given["log"] = True
    elif colon:
        given["step"] = _scalar(more.strip())
    return _table(name, given)


def _table(name: str, given: Mapping[str, Any]) -> Range:
    for key in given:
        if key not in _RANGE_KEYS:
            near = nearest(str(key), _RANGE_KEYS, 1)
            told = f"did you mean '{near[0]}'?" if near else f"a range has {', '.join(_RANGE_KEYS)}"
            raise ConfigError(f"space.{name}.{shown(str(key))[1:-1]} is not known", told)
    for key in ("low", "high", *(["step"] if "step" in given else [])):
        each = given.get(key)
        if isinstance(each, bool) or not isinstance(each, int | float) or not math.isfinite(each):
            said = "is missing" if each is None else f"is {shown(str(each))}, and no number"
            raise ConfigError(f"space.{name}: {key} {said}", _FORMS)
    low, high, step, log = given["low"], given["high"], given.get("step"), given.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"space.{name}: log is {shown(str(log))}", "write true or false")
    if not low < high:
        raise ConfigError(f"space.{name}: from {low:g} to {high:g} there is nothing", "write the smaller one first")
    if step is not None and (step <= 0 or log or step > high - low):
        why = "with log there are no steps" if log else f"a step of {step:g} between {low:g} and {high:g}"
        raise ConfigError(f"space.{name}: {why}", "leave it out, or make it smaller than the range")
    if log and low <= 0:
        raise ConfigError(f"space.{name}: {low:g} has no logarithm", "begin above 0, or leave out log")
    if not all(isinstance(each, int) for each in (low, high, step or 1)):
        low, high, step = float(low), float(high), None if step is None else float(step)
    return Range(low, high, step, log)


def _scalar(text: str) -> Value:
    """What a word of a list stands for: a number if it is one."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
