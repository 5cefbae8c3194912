"""The opset and the IR version for a runtime."""

from __future__ import annotations

import pytest

from edgespa.errors import ConfigError
from edgespa.exporting.versions import DEFAULT, Target, target_of


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        ("1.10", Target(15, 7)),
        ("onnxruntime==1.10.0", Target(15, 7)),
        ("onnxruntime-gpu==1.12.1", Target(17, 8)),
        ("1.16", Target(19, 9)),
        ("1.19.2", Target(20, 10)),
        ("1.31.1", Target(20, 10)),
        ("2.0", Target(20, 10)),
    ],
)
def test_what_each_runtime_loads(runtime: str, expected: Target) -> None:
    assert target_of(runtime) == expected


def test_the_default_is_that_of_jetpack_5() -> None:
    assert target_of("1.19") == DEFAULT


def test_an_older_opset_can_be_asked_for_and_no_newer_one() -> None:
    assert target_of("1.19", 17) == Target(17, 10)
    assert target_of("1.19", 21) == Target(21, 10)
    with pytest.raises(ConfigError, match=r"between 13 and 15, the newest that ONNX Runtime 1\.10 loads"):
        target_of("1.10", 16)
    with pytest.raises(ConfigError, match="not between 13"):
        target_of("1.19", 12)


@pytest.mark.parametrize("wrong", ["", "newest", "1", "onnxruntime", "1.x"])
def test_what_is_no_version(wrong: str) -> None:
    with pytest.raises(ConfigError, match="is not a version"):
        target_of(wrong)


def test_a_runtime_that_is_too_old() -> None:
    with pytest.raises(ConfigError, match=r"older than 1\.8") as caught:
        target_of("1.2.0")
    assert "tflite" in str(caught.value.hint)
