"""Whatever a stranger writes, it is read or refused in words: nothing else is raised, and nothing is expanded."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgespa.data import load_data
from edgespa.data.drawn.marked import Wrong
from edgespa.data.drawn.voc import parse
from edgespa.data.drawn.yolo import parse_line
from edgespa.errors import DataError
from tests.data.annotated import SIZES, coco, document, picture, written, xml, yolo

WORDS = [
    "images",
    "annotations",
    "categories",
    "id",
    "image_id",
    "category_id",
    "bbox",
    "file_name",
    "name",
    "keypoints",
]
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    3,
    1e308,
    float("nan"),
    10**30,
    "",
    "a.jpg",
    "../x",
    [],
    {},
    [[]],
    "\u202e",
    "\ud800",
]
NUMBERS = st.sampled_from(["0", "1", ".5", "-1", "nan", "inf", "1e999", "x", "0x1", "1_0"])
ALIASES = b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nnames: *c\n"


def refusal(call: Callable[[], Any], kind: type[Exception]) -> str | None:
    """What is said where something is refused so; None where it is taken. All else that is raised is a fault."""
    try:
        call()
    except kind as error:
        return str(error)
    return None


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.data())
def test_fuzz_of_coco(drawn: st.DataObject, tmp_path: Path) -> None:
    whole = document(("a", "b", "c"))
    for _ in range(drawn.draw(st.integers(1, 3))):
        place: Any = whole
        while True:
            key = drawn.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
            inner = place[key]
            if not inner or not isinstance(inner, dict | list) or drawn.draw(st.booleans()):
                place[key] = copy.deepcopy(drawn.draw(st.sampled_from(ODD)))  # the next round may write into it
                break
            place = inner
    files = {f"{name}.jpg": picture(SIZES[name]) for name in ("a", "b", "c")}
    path = written({**files, "x.json": json.dumps(whole).encode()}, tmp_path)
    for skip in (False, True):
        assert refusal(lambda skip=skip: load_data(str(path), skip=skip, wanted="boxes"), DataError) != ""


PARTS = st.sampled_from([
    "<annotation>", "</annotation>", "<object>", "</object>", "<name>", "</name>", "<bndbox>", "</bndbox>", "<xmin>",
    "1", "</xmin>", "<size>", "</size>", "<width>", "</width>", "&lt;", "&x;", "<!DOCTYPE a>", "<![CDATA[a]]>",
    "<?x y?>", "\x00", "\ufeff", "nan", "<part>", "</part>", "é",
])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.lists(PARTS, max_size=14).map(lambda parts: "".join(parts).encode())))
def test_fuzz_of_xml(content: bytes) -> None:
    assert (refusal(lambda: parse(content, "f.xml"), Wrong) or "f.xml").startswith("f.xml")


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(NUMBERS).map(" ".join)))
def test_fuzz_of_lines(line: str) -> None:
    for points in (False, True):
        said = refusal(lambda points=points: parse_line(line, "f.txt, line 1", 1, points), Wrong)
        assert (said or "f.txt, line 1").startswith("f.txt, line 1")
    assert refusal(lambda: parse_line("1e300 .5 .5 .1 .1", "f.txt, line 1", 1), Wrong)


@pytest.mark.parametrize(
    "content", [ALIASES, b"names: {? [a, b] : c}", b"names: 3", b"- " * 5000, b"names: " + b"9" * 9999]
)
def test_fuzz_of_names(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        load_data(f"{written({**yolo(), 'data.yaml': content}, tmp_path)}:train")


def test_paths_lead_nowhere_else(tmp_path: Path) -> None:
    """What a file names is looked for among the files of the set."""
    (tmp_path / "secret.jpg").write_bytes(picture((40, 60)))
    files = coco()
    whole = json.loads(files["annotations/instances_train2017.json"])
    whole["images"][0]["file_name"] = str(tmp_path / "secret.jpg")
    with pytest.raises(DataError, match="there is no image"):
        load_data(
            f"{written({**files, 'annotations/instances_train2017.json': json.dumps(whole).encode()}, tmp_path)}:train"
        )


def test_a_thing_of_all_bytes_is_bounded(tmp_path: Path) -> None:
    """One annotation cannot be larger than what one is."""
    files = {"a.jpg": picture((40, 60)), "a.xml": xml([(0, 1, 1, 5, 5)], (40, 60)) + b" " * (1 << 24)}
    with pytest.raises(DataError, match="more than 16,777,216 bytes"):
        load_data(str(written(files, tmp_path, zipped=True)))
