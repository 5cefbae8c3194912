"""Types of option values that name parts which can be added by entry points, and their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

CRITERIA = (
    "taylor", "jacobian", "taylor-activation", "gradient", "lrp", "l1", "l2", "bn-scale", "geometric-median", "random",
)  # fmt: skip


OBJECTIVES = (
    "classes", "multi-label", "regression", "segmentation", "detection", "heatmaps", "image", "embedding", "match",
)  # fmt: skip
LATENCY = "latency_ms"


class Named(click.ParamType[str]):
    """One of the words that come with edgespa, or the name of an entry point; those are only looked up if need be.

    Args:
        group: Of entry points.
        known: What comes with edgespa.
        own: Code of the user's may be named too: ``file.py:factory``.
    """

    name = "name"

    def __init__(self, group: str, known: tuple[str, ...], *, own: bool = False) -> None:
        self.group = group
        self.known = known
        self.own = own

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What the help shows.

        Args:
            param: Not used.
            ctx: Not used.
        """
        return f"[{'|'.join((*self.known, *(['FILE.py:NAME'] if self.own else [])))}]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """What a shell may complete.

        Args:
            ctx: Not used.
            param: Not used.
            incomplete: What is typed.
        """
        from edgespa.cli._completing import words

        return words(self.known, incomplete)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check.

        Args:
            value: As typed.
            param: The option, for the message.
            ctx: For the message.

        Raises:
            click.BadParameter: It says what there is.
        """
        text = str(value)
        if text not in self.known and not (self.own and ":" in text):
            from importlib.metadata import entry_points

            others = sorted(point.name for point in entry_points(group=self.group))
            if text not in others:
                self.fail(f"'{text}' is not one of {', '.join((*self.known, *others))}", param, ctx)
        return text


class Setting(click.ParamType[tuple[str, Any]]):
    """``alpha=16`` -> ``("alpha", 16)``: a whole number, a number, or a word."""

    name = "setting"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What the help shows.

        Args:
            param: Not used.
            ctx: Not used.
        """
        return "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Parse.

        Args:
            value: As typed, or a pair already.
            param: The option, for the message.
            ctx: For the message.

        Raises:
            click.BadParameter: There is no ``=`` in it.
        """
        if not isinstance(value, str):
            return tuple(value)
        key, sign, text = value.partition("=")
        if not sign or not key.strip() or not text.strip():
            self.fail(f"'{value}' is not KEY=VALUE; write for example alpha=16", param, ctx)
        return key.strip(), _number(text.strip())


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class BudgetOf(click.ParamType[tuple[str, float | None]]):
    """``macs`` -> ``("macs", None)``; ``latency_ms=12`` -> ``("latency_ms", 12.0)``.

    Args:
        known: What a density can be a fraction of.
    """

    name = "budget"

    def __init__(self, known: tuple[str, ...]) -> None:
        self.known = known

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What the help shows.

        Args:
            param: Not used.
            ctx: Not used.
        """
        return f"[{'|'.join(self.known)}|{LATENCY}=X]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """What a shell may complete.

        Args:
            ctx: Not used.
            param: Not used.
            incomplete: What is typed.
        """
        from edgespa.cli._completing import words

        return words((*self.known, f"{LATENCY}="), incomplete)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float | None]:
        """Parse.

        Args:
            value: As typed, or a pair already.
            param: The option, for the message.
            ctx: For the message.

        Raises:
            click.BadParameter: It is neither.
        """
        if not isinstance(value, str):
            return (value[0], value[1])
        if value in self.known:
            return value, None
        key, sign, text = value.partition("=")
        if key.strip() != LATENCY or not sign:
            self.fail(f"'{value}' is not one of {', '.join(self.known)}, nor {LATENCY}=12", param, ctx)
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            self.fail(f"'{text}' is not a number of milliseconds in '{value}'; write {LATENCY}=12", param, ctx)
        return LATENCY, number


class Words(click.ParamType[tuple[str, ...]]):
    """``flip,crop`` -> ``("flip", "crop")``: each one of some words.

    Args:
        known: What they may be.
    """

    name = "words"

    def __init__(self, known: tuple[str, ...]) -> None:
        self.known = known

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What the help shows.

        Args:
            param: Not used.
            ctx: Not used.
        """
        return "WORD,..."

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """What a shell may complete.

        Args:
            ctx: Not used.
            param: Not used.
            incomplete: What is typed.
        """
        from edgespa.cli._completing import joined

        return joined(self.known, incomplete)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Parse.

        Args:
            value: As typed, or a tuple already.
            param: The option, for the message.
            ctx: For the message.

        Raises:
            click.BadParameter: A word is not known.
        """
        words = tuple(value) if not isinstance(value, str) else tuple(w.strip() for w in value.split(",") if w.strip())
        for word in words:
            if word not in self.known:
                self.fail(f"'{word}' is not one of {', '.join(self.known)}", param, ctx)
        return words


class _Bound(NamedTuple):
    """What a number may be, in words; one for examples; and the test, of finite numbers."""

    words: str
    example: int
    holds: Callable[[float], bool]


_BOUNDS: Mapping[str, _Bound] = MappingProxyType(
    {
        LATENCY: _Bound("a number of milliseconds", 20, lambda number: number > 0),
        "size_bytes": _Bound("a whole number of bytes", 100_000, lambda number: number > 0 and number == int(number)),
        "speedup": _Bound("a number above 1", 2, lambda number: number > 1),
    }
)


class Bound(click.ParamType[tuple[str, float]]):
    """``latency_ms=12`` -> ``("latency_ms", 12.0)``; ``speedup=2``, also ``2x``, -> ``("speedup", 2.0)``.

    Args:
        one: Of the keys of `_BOUNDS`.
        other: Likewise.
    """

    name = "bound"

    def __init__(self, one: str, other: str) -> None:
        self.known = (one, other)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What the help shows.

        Args:
            param: Not used.
            ctx: Not used.
        """
        return f"[{'|'.join(f'{each}=X' for each in self.known)}]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """What a shell may complete.

        Args:
            ctx: Not used.
            param: Not used.
            incomplete: What is typed.
        """
        from edgespa.cli._completing import words

        return words(tuple(f"{each}=" for each in self.known), incomplete)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """Parse.

        Args:
            value: As typed, or a pair already.
            param: The option, for the message.
            ctx: For the message.

        Raises:
            click.BadParameter: It is neither.
        """
        if not isinstance(value, str):
            return (value[0], value[1])
        key, sign, text = (each.strip() for each in value.partition("="))
        if key not in self.known or not sign:
            one, other = (f"{each}={_BOUNDS[each].example}" for each in self.known)
            self.fail(f"'{value}' is neither {one} nor {other}", param, ctx)
        bound = _BOUNDS[key]
        number = _number(text.removesuffix("x") if key == "speedup" else text)
        if isinstance(number, str) or not abs(number) < float("inf") or not bound.holds(number):
            self.fail(f"'{text}' is not {bound.words} in '{value}'; write {key}={bound.example}", param, ctx)
        return key, float(number)
