"""The options that commands share: what is understood, and what the refusal says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from edgespa.cli._options import (
    PIXELS,
    InputShape,
    Numbers,
    data_options,
    json_option,
    model_options,
    output_options,
    seed_option,
)
from edgespa.config import PixelSettings
from edgespa.models.inputs import InputSize

got: dict[str, Any] = {}


@click.command()
@model_options("MODEL|TASK")
@data_options("data", "eval-data", required=("data",))
@seed_option()
@json_option()
@output_options("The task file")
def command(**values: Any) -> None:
    got.clear()
    got.update(values)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["net.py:make", "--data", "d.zip:train", "--output", "a.spa", *arguments])


def test_every_setting_of_pixels_is_an_option() -> None:
    assert tuple(PixelSettings.model_fields) == PIXELS


@pytest.mark.parametrize(
    ("words", "pixels"),
    [
        (("--resize", "crop", "--resize-to", "256"), {"resize": "crop", "resize_to": (256, 256)}),
        (("--resize-to", "292, 146"), {"resize_to": (292, 146)}),
        (("--resize", "letterbox", "--padding", "114"), {"resize": "letterbox", "padding": (114,)}),
        (("--padding", "124,116,104"), {"padding": (124, 116, 104)}),
        (("--interpolation", "bicubic", "--no-antialias"), {"interpolation": "bicubic", "antialias": False}),
        (("--antialias",), {"antialias": True}),
        (("--scale", "-1-1"), {"scale": "-1-1"}),
        (("--scale=0-255", "--channel-order", "bgr"), {"scale": "0-255", "channel_order": "bgr"}),
    ],
)
def test_pixels(words: tuple[str, ...], pixels: dict[str, Any]) -> None:
    done = run(*words)
    assert done.exit_code == 0, done.output
    said = {name: got["images"][name] for name in PIXELS if name in got["images"]}
    assert PixelSettings(**said) == PixelSettings(**pixels)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--resize", "squeeze"), "stretch"),
        (("--resize-to", "2.5"), "'2.5' is not a whole number in '2.5'; write N[,M]"),
        (("--resize-to=-1",), "'-1' is not a whole number"),
        (("--padding", "a"), "write V[,V,V]"),
        (("--interpolation", "cubic"), "bicubic"),
        (("--scale", "0..1"), "0-255"),
    ],
)
def test_pixels_that_cannot_be(words: tuple[str, ...], says: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert says in " ".join(done.output.split())


def test_defaults() -> None:
    assert run().exit_code == 0
    assert got == {
        "model": "net.py:make",
        "input_shape": None,
        "weights": None,
        "data": "d.zip:train",
        "eval_data": None,
        "images": {
            "mean": None,
            "std": None,
            "limit": None,
            "eval_limit": None,
            "labels": None,
            "class_offset": None,
            "objective": None,
            "skip_bad_files": False,
        },
        "seed": 0,
        "as_json": False,
        "output": Path("a.spa"),
        "overwrite": False,
    }


def test_values() -> None:
    shape = ["--input-shape", "1,3,32,32", "--mean", "0.5, 0,-1e-1", "--std", "1,2,.5"]
    assert run(*shape, "--limit", "100", "--seed", "7", "--json", "--overwrite").exit_code == 0
    assert got["input_shape"] == (1, 3, 32, 32)
    assert (got["images"]["mean"], got["images"]["std"]) == ((0.5, 0.0, -0.1), (1.0, 2.0, 0.5))
    assert (got["images"]["limit"], got["seed"], got["as_json"], got["overwrite"]) == (100, 7, True, True)


def test_several_inputs() -> None:
    assert run("--input-shape", "1,3,8,8", "--input-shape", "1x16:int64").exit_code == 0
    assert got["input_shape"] == (InputSize((1, 3, 8, 8)), InputSize((1, 16), "int64"))
    assert run("--input-shape", "1x16:int64").exit_code == 0
    assert got["input_shape"] == (InputSize((1, 16), "int64"),)
    assert run("--input-shape", "1x16", "--input-shape", "1x4").exit_code == 0
    assert got["input_shape"] == (InputSize((1, 16)), InputSize((1, 4)))


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--input-shape", "1x3x32xa", "'a' is not a whole number in '1x3x32xa'"),
        ("--input-shape", "1,3:float31", "'float31' in '1,3:float31' is not an element type"),
        ("--input-shape", "1,3,,32", "a size is missing in '1,3,,32'"),
        ("--input-shape", "", "a size is missing"),
        ("--input-shape", "1,3,-32,32", "'-32' is not a whole number"),
        ("--input-shape", "1,3,3.5", "'3.5' is not a whole number"),
        ("--input-shape", "1,²", "'²' is not a whole number"),
        ("--input-shape", "1,0,3", "a size of 0 in '1,0,3'"),
        ("--input-shape", "32", "'32' is one size only"),
        ("--mean", "0.5,half", "'half' is not a number in '0.5,half'"),
        ("--mean", "nan", "'nan' is not a number"),
        ("--mean", "1,", "'' is not a number"),
        ("--std", "1,0", "0 in '1,0' is not positive"),
        ("--std", "inf", "'inf' is not a number"),
        ("--limit", "0", "0 is not in the range"),
        ("--seed", "-1", "-1 is not in the range"),
    ],
)
def test_refusals(option: str, value: str, said: str) -> None:
    result = run(option, value)
    assert result.exit_code == 2
    assert f"'{option}'" in result.stderr
    assert said in result.stderr


def test_required_ones_are_required() -> None:
    assert "'--data'" in CliRunner().invoke(command, ["m", "--output", "a"]).stderr
    assert "--output" in CliRunner().invoke(command, ["m", "--data", "a"]).stderr
    assert "MODEL|TASK" in CliRunner().invoke(command, []).stderr


def test_help_lists_options_in_the_order_of_the_decorators() -> None:
    text = CliRunner().invoke(command, ["--help"]).stdout
    names = ["--input-shape", "--weights", "--data", "--eval-data", "--mean", "--std", "--limit", "--seed", "--json"]
    places = [text.index(name) for name in [*names, "--output", "--overwrite"]]
    assert places == sorted(places)


@given(st.lists(st.integers(min_value=1, max_value=10**6), min_size=2, max_size=6))
def test_every_shape_is_read_back(sizes: list[int]) -> None:
    kind = InputShape()
    assert kind.convert(",".join(map(str, sizes)), None, None) == tuple(sizes)
    assert kind.convert(f" ({', '.join(map(str, sizes))}) ", None, None) == tuple(sizes)
    assert kind.convert("x".join(map(str, sizes)), None, None) == tuple(sizes)
    assert kind.convert(",".join(map(str, sizes)) + ":int64", None, None) == InputSize(tuple(sizes), "int64")
    assert kind.convert(tuple(sizes), None, None) == tuple(sizes)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4))
def test_every_number_is_read_back(numbers: list[float]) -> None:
    assert Numbers().convert(",".join(map(repr, numbers)), None, None) == tuple(numbers)
