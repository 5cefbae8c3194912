"""Mean and std as they are typed: half of a pair, and values for pixels from 0 to 255."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from edgespa.cli import main
from edgespa.errors import ConfigError
from edgespa.pixels.normalisation import half_given, refuse_other_scales

IMAGENET = (0.485, 0.456, 0.406)
SPREAD = (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("mean", "std", "right"),
    [
        ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), "--mean 0.4851,0.4561,0.4059 --std 0.229,0.2239,0.2251"),
        ((123.675,) * 3, (1.0,), "--mean 0.485,0.485,0.485 --std 0.003922"),  # pixels less a mean, and no more
        ((127.5,), (127.5,), "--mean 0.5 --std 0.5"),
        ((0.0,), (255.0,), "--mean 0 --std 1"),
        ((128.0,), SPREAD, "--mean 0.502 --std 0.229,0.224,0.225"),
        (IMAGENET, (58.4, 57.1, 57.4), "--mean 0.485,0.456,0.406 --std 0.229,0.2239,0.2251"),
        ((-123.7,), (1.0,), "--mean -0.4851 --std 0.003922"),
    ],
)
def test_bytes_are_refused_and_the_right_ones_named(
    mean: tuple[float, ...], std: tuple[float, ...], right: str
) -> None:
    with pytest.raises(ConfigError, match=r"too large for pixels in 0\.\.1") as caught:
        refuse_other_scales(mean, std)
    assert right in str(caught.value.hint)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (IMAGENET, SPREAD),
        ((0.0,), (1.0,)),
        ((0.5,), (0.5,)),
        ((0.0,), (1 / 255,)),
        ((-1.0,), (0.25,)),
        ((1.0,), (1.0,)),
    ],
)
def test_what_can_be_meant_is_taken(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    refuse_other_scales(mean, std)
    assert half_given(mean, std) is None


@pytest.mark.parametrize(
    ("mean", "std", "scale", "says", "hint"),
    [
        (IMAGENET, SPREAD, "0-255", "ImageNet, of pixels in 0..1", "--mean 123.7,116.3,103.5 --std 58.4,57.12,57.38"),
        ((0.5,), (0.5,), "-1-1", "are those of inputs from -1 to 1", "with it they are --mean 0 --std 1"),
        ((127.5,), (127.5,), "-1-1", "too large for pixels in -1..1", "--mean 0.5 --std 0.5, without --scale"),
    ],
)
def test_those_of_another_scale_are_refused(
    mean: tuple[float, ...], std: tuple[float, ...], scale: str, says: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_other_scales(mean, std, scale)
    assert says in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("mean", "std", "scale"),
    [((103.94, 116.78, 123.68), (58.8,), "0-255"), ((0.0,), (1.0,), "0-255"), ((0.0,), (1.0,), "-1-1")],
)
def test_those_of_the_scale_are_taken(mean: tuple[float, ...], std: tuple[float, ...], scale: str) -> None:
    refuse_other_scales(mean, std, scale)


@pytest.mark.parametrize(
    ("mean", "std", "meant"),
    [
        (None, SPREAD, "--std 0.229,0.224,0.225 --mean 0.485,0.456,0.406"),
        (IMAGENET, None, "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"),
        ((123.7, 116.3, 103.5), None, "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"),
        (None, (0.353,), "--std 0.353 --mean 0.286"),
        ((0.5, 0.5, 0.5), None, "--std 0.5"),
        ((0.3,), None, "--std 1 if nothing is divided by"),
        (None, (0.3,), "--mean 0 if nothing is subtracted"),
    ],
)
def test_half_a_pair_is_a_question(mean: tuple[float, ...] | None, std: tuple[float, ...] | None, meant: str) -> None:
    assert meant in str(half_given(mean, std))


@pytest.mark.parametrize(
    "command",
    [
        ("adapt", "net.py:build", "--data", "d"),
        ("prune", "net.py:build", "--density", "0.5"),
        ("export", "net.py:build"),
        ("calibration", "make", "--data", "d"),
    ],
)
def test_every_command_asks(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, [*command, "--std", "0.229,0.224,0.225", "--output", "o.toml"])
    assert done.exit_code == 2
    assert "looks like ImageNet" in done.output
