"""docs/reference/errors.md: what the source says is there, whichever way the source says it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typed import run

import edgespa as es
from edgespa import errors

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        yield importlib.import_module("error_messages")
    sys.modules.pop("error_messages", None)


def found_in(reader: ModuleType, tmp_path: Path, text: str) -> list[tuple[str, str, str]]:
    """What is read of one more file in a package of its own."""
    for name in ("device/link/complaints.py", "device/link/refusals.py", "device/endings.py", "cli/_failures.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        tables = "_COMPLAINTS = ()\n_WORDS = ()\n_KINDS = {}\n_SIGNALS = {}\n_OS_HINTS = {}\n"
        (tmp_path / name).write_text(tables)
    (tmp_path / "errors.py").write_text(Path(errors.__file__).read_text(encoding="utf-8"))
    (tmp_path / "one.py").write_text(text)
    return [(each.kind, each.message, each.hint) for each in reader.Source(tmp_path).said()]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("raise DataError(f'{a}: no {b!r} in it', 'give ' 'more')", [("DataError", "…: no … in it", "give more")]),
        ("raise errors.DataError('nothing ' + 'there')", [("DataError", "nothing there", "")]),
        ("HINT = f'see {x}'\nraise GraphError('a layer', hint=HINT)", [("GraphError", "a layer", "see …")]),
        (
            "def f():\n    what = 'first' if x else 'second'\n    return DataError(f'the {what} image')",
            [("DataError", "the first image", ""), ("DataError", "the second image", "")],
        ),
        (
            "def _wrong(what, hint=None):\n    return DataError(f'file: {what}', hint)\n"
            "def g():\n    raise _wrong('line 1', 'mend it')\ndef h():\n    raise _wrong(f'row {n}')",
            [("DataError", "file: line 1", "mend it"), ("DataError", "file: row …", "")],
        ),
        (
            "def f(error: type[EdgespaError]):\n    raise error('no such thing', near(x) or 'check it')",
            [("EdgespaError", "no such thing", "check it")],
        ),
        (
            "class A:\n    @field_validator('a')\n    def check(cls, a):\n        raise ValueError('at least 1')",
            [("ConfigError", "…: at least 1", "")],
        ),
        ("raise OutputExistsError(path)", [("OutputExistsError", "… exists already", "name another file, or pass")]),
        (
            "raise MissingExtraError('timm', 'timm')",
            [("MissingExtraError", "timm is not installed", "install it with: …")],
        ),
        ("raise RefusedError('full', 'no space', 'free some')", [("RefusedError", "no space", "free some")]),
        ("raise ModelError(f'after {n + 1} steps: {error}')", [("ModelError", "after … steps: …", "")]),
        ("raise ModelError(str(error))", []),
        ("raise ValueError('not of the tree')", []),
    ],
)
def test_a_message_is_read(reader: ModuleType, tmp_path: Path, text: str, wanted: list[tuple[str, str, str]]) -> None:
    found = found_in(reader, tmp_path, text)
    assert len(found) == len(wanted)
    for each, (kind, message, hint) in zip(found, wanted, strict=True):
        assert each[:2] == (kind, message)
        assert each[2].startswith(hint)
        assert bool(each[2]) == bool(hint)


def test_nothing_of_the_package_is_run(reader: ModuleType, tmp_path: Path) -> None:
    assert found_in(reader, tmp_path, "raise SystemExit('it ran')") == []


def test_every_class_of_the_tree_stands_there() -> None:
    kinds = [name for name, each in vars(errors).items() if inspect.isclass(each) and issubclass(each, Exception)]
    for name in kinds:
        assert re.search(rf"── {name} ", PAGE) or name == "EdgespaError"
        assert f"## {name}\n" in PAGE or name == "EdgespaError"


def test_most_that_is_raised_is_found() -> None:
    """As many messages as there are calls of these classes, but for those that only hand on what others said."""
    calls = 0
    for path in (ROOT / "edgespa").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            calls += name.endswith("Error") and hasattr(errors, name)
    assert calls > 600
    assert PAGE.count("\n- `") > 0.95 * calls


@pytest.mark.parametrize(
    "line",
    [
        ["inspect", "nowhere.py:make", "--input-shape", "1,3,8,8"],
        ["export", "nowhere.spa", "--output", "b"],
        ["verify", "nowhere"],
        ["devices", "check", "toaster"],
        ["prune", "nowhere.pt2", "--density", "0.5", "--output", "x.spa"],
        ["unpack", "nowhere.tar", "--output", "b"],
        ["run", "nowhere.toml"],
        ["adapt", "nowhere.py:make", "--input-shape", "1,3,8,8", "--data", "no", "--output", "x.spa"],
    ],
)
def test_what_a_user_meets_is_on_the_page(line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = run(*line, code=1).stderr.splitlines()[0].removeprefix("Error: ")
    patterns = [each for each in re.findall(r"^- ``?(.+?)``?\\?$", PAGE, re.MULTILINE) if re.search(r"[a-z]{3}", each)]
    whole = [each for each in patterns if re.fullmatch(re.escape(each).replace("…", ".+"), first)]
    assert whole, first


def test_messages_are_those_that_python_gives() -> None:
    with pytest.raises(es.EdgespaError) as caught:
        es.verify("nowhere")
    assert type(caught.value).__name__ in PAGE
    assert caught.value.hint
