"""Mean and std as they are typed: what cannot be meant, and what is likely meant."""

from __future__ import annotations

from collections.abc import Sequence

from edgespa.errors import ConfigError
from edgespa.pixels.values import SCALINGS

Values = tuple[float, ...]

# Pairs that belong together, of pixels in [0, 1].
_KNOWN: tuple[tuple[str, Values, Values], ...] = (
    ("ImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("CLIP", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ("CIFAR-10", (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    ("CIFAR-10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)),
    ("MNIST", (0.1307,), (0.3081,)),
    ("Fashion-MNIST", (0.286,), (0.353,)),
    ("inputs from -1 to 1", (0.5,), (0.5,)),
)
_NEAR = 0.003
_LARGEST = 1.0


def text(values: Sequence[float]) -> str:
    """Numbers as they are typed: ``0.485,0.456,0.406``."""
    return ",".join(f"{value:.4g}" for value in values)


def half_given(mean: Values | None, std: Values | None) -> str | None:
    """What to ask where only one of the two is given; None where both or none are."""
    if (mean is None) == (std is None):
        return None
    given, name, other = (mean, "--mean", "--std") if std is None else (std, "--std", "--mean")
    assert given is not None
    unit = tuple(value / 255 for value in given) if _of_bytes(given) else given
    for what, known_mean, known_std in _KNOWN:
        mine, partner = (known_mean, known_std) if std is None else (known_std, known_mean)
        if _same(unit, mine):
            shown = f"{name} {text(mine)} {other} {text(partner)}"
            return f"{name} without {other}: {text(given)} looks like {what}, which is {shown}"
    neutral = "--std 1" if std is None else "--mean 0"
    return f"{name} without {other}: give both, with {neutral} if nothing is {_MEANING[other]}"


def refuse_other_scales(
    mean: Values, std: Values, scale: str = "0-1", names: tuple[str, str, str] = ("--mean", "--std", "--scale")
) -> None:
    """Refuse values that are meant for pixels of another scale.

    Args:
        mean: Subtracted from pixels of that scale.
        std: Divided by.
        scale: ``0-1``, ``-1-1`` or ``0-255``.
        names: Of the three, for the message.

    Raises:
        ConfigError: The hint has them for that scale.
    """
    if scale != "0-1":
        _refuse_fractions(mean, std, scale, names)
    if scale == "0-255":
        return
    wrong = [f"{name} {text(values)}" for name, values in zip(names[:2], (mean, std), strict=True) if _of_bytes(values)]
    if not wrong:
        return
    # A std of 1 beside a mean of bytes means bytes too; one below 1 was divided already.
    std_too = _of_bytes(std) or (_of_bytes(mean) and max(std) >= 1)
    right = tuple(v / 255 for v in mean) if _of_bytes(mean) else mean, tuple(v / 255 for v in std) if std_too else std
    unit = scale == "0-1"
    raise ConfigError(
        f"{' and '.join(wrong)}: too large for pixels in {'0..1' if unit else '-1..1'}, which mean and std are for",
        f"pixels are divided by 255 first; divided by 255 they are {names[0]} {text(right[0])} {names[1]} "
        f"{text(right[1])}" + ("" if unit else f", without {names[2]}"),
    )


def _refuse_fractions(mean: Values, std: Values, scale: str, names: tuple[str, str, str]) -> None:
    """Refuse a pair that belongs together for pixels in [0, 1] where those are of another scale."""
    by, less = SCALINGS[scale]
    for what, known_mean, known_std in _KNOWN:
        if _same(mean, known_mean) and _same(std, known_std):
            right = text([255 / by * v - less for v in mean]), text([255 / by * v for v in std])
            raise ConfigError(
                f"{names[0]} {text(mean)} and {names[1]} {text(std)} are those of {what}, of pixels in 0..1",
                f"leave out {names[2]} {scale}; with it they are {names[0]} {right[0]} {names[1]} {right[1]}",
            )


_MEANING = {"--mean": "subtracted", "--std": "divided by"}


def _of_bytes(values: Values) -> bool:
    return any(abs(value) > _LARGEST for value in values)


def _same(one: Values, other: Values) -> bool:
    width = max(len(one), len(other))
    one, other = (values * width if len(values) == 1 else values for values in (one, other))
    return len(one) == len(other) and all(abs(a - b) < _NEAR for a, b in zip(one, other, strict=True))
