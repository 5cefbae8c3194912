"""Findings in files: what is written is read again, and what somebody else wrote is taken only if it is such a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgespa.errors import ConfigError
from edgespa.findings.dataset import DataSet, Health
from edgespa.findings.evaluation import Column, Confusion, Details, OfClass, Subject, Wrong
from edgespa.findings.stored import MAX_BYTES, file_name


def details() -> Details:
    return Details(
        model="task.spa",
        kind="classes",
        data="pets:test",
        count=3,
        measures=(Column(name="accuracy", title="accuracy", percent=True),),
        columns=(Column(name="recall", title="recall", percent=True),),
        class_names=("cat", "dog"),
        subjects=(
            Subject(
                name="onnx-int8",
                runtime="onnxruntime 1.0",
                values={"accuracy": 2 / 3},
                classes=(
                    OfClass(index=0, count=2, said=1, figures={"recall": 0.5}),
                    OfClass(index=1, count=1, said=2, figures={"recall": None}),
                ),
                confusions=(Confusion(right=0, said=1, count=1),),
                wrong=(Wrong(file="cat/1.jpg", index=0, right=0, said=1, confidence=0.9, confidence_right=0.1),),
                wrong_count=1,
            ),
        ),
    )


@pytest.mark.parametrize("found", [details(), Health(sets=(DataSet(name="d", kind="classes", count=2, usable=2),))])
def test_what_is_written_is_read_again(found: Details | Health, tmp_path: Path) -> None:
    found.write(tmp_path / "f.json")
    assert type(found).read(tmp_path / "f.json") == found


def changed(**changes: Any) -> dict[str, Any]:
    return {**details().model_dump(mode="json"), **changes}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("[1]", "holds no edgespa evaluation"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        (changed(format="edgespa data"), "holds no edgespa evaluation"),
        (changed(format_version=2), "version 2"),
        (changed(more=1), "more: is not known"),
        (changed(count=-1), "count"),
        (changed(count=1 << 60), "beyond"),
        (changed(class_names=["cat"]), "the class 1, and there are 1"),
        (changed(subjects=[]), "subjects"),
        (changed(model="x" * 501), "model"),
        (json.dumps(changed()).replace("0.9", "NaN"), "not finite"),
    ],
)
def test_what_is_none_is_refused(values: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    with pytest.raises(ConfigError, match=words):
        Details.read(path)


def test_what_has_no_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    with path.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(ConfigError, match="larger than 32 MiB"):
        Details.read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        Details.read(Path("/dev/zero"))
    with pytest.raises(ConfigError, match="cannot be read"):
        Details.read(tmp_path / "absent.json")


def test_names_of_files_are_shown_with_their_end() -> None:
    assert file_name("a/b.jpg") == "a/b.jpg"
    assert file_name("a\nb.jpg") == "a?b.jpg"
    long = file_name("x" * 900 + "/b.jpg")
    assert len(long) == 400
    assert long.endswith("/b.jpg")
