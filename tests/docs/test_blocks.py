"""Every block of code in README and docs is run in order, in a folder of its own, or says why not."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from page_blocks import OTHERS, REASONS, ROOT, RUN, SHOWN, Block, blocks_in, blocks_of, pages
from page_files import Places
from page_runner import Reader, problem_of_toml, problems_of_shell

WRITTEN = [
    f"docs/reference/{name}.md" for name in ("cli", "errors", "python")
]  # help and docstrings have their own tests
PAGES = {page: blocks_of(page) for page in pages()}
COMMAND = re.compile(
    r"^\s*(\$ )?(edgespa [a-z]|python3? [\w/.-]+\.py|import \w+$|from \w+ import |pip install )", re.MULTILINE
)


def long(block: Block) -> bool:
    return block.marks.get("run") == "more"


def faults_of(block: Block) -> list[str]:
    """What is wrong with how a block is written, or marked."""
    faults = []
    if block.language == "indented" and COMMAND.search(block.text):
        faults.append("it is indented: put it between ```sh (or python, toml) and ```")
    elif block.language in OTHERS:
        faults += [] if "not run" in block.marks else [f"nothing here runs `{block.language}`: say why it is not run"]
    elif block.language not in (*RUN, *SHOWN, "indented"):
        faults.append(f"what is `{block.language}`? write one of {', '.join(filter(None, (*RUN, *SHOWN)))}")
    elif block.language in SHOWN and block.page not in WRITTEN and COMMAND.search(block.text):
        faults.append("it holds what a reader types: say in which language, and it is run")
    for name, words in block.marks.items():
        if name == "not run" and not words.startswith(REASONS):
            faults.append(f"'{words}' is none of the reasons: {'; '.join(REASONS)}")
        elif name == "run by":
            path = ROOT / words
            named = path.is_file() and Path(block.page).name in path.read_text(encoding="utf-8")
            faults += [] if named else [f"{words} is no test that names {Path(block.page).name}"]
        elif name == "run" and words != "more":
            faults.append(f"run: {words}? there is run: more")
    return faults


@pytest.mark.parametrize("page", PAGES)
def test_each_block_is_run_or_says_why_not(page: str) -> None:
    faults = [f"{block.place}: {fault}" for block in PAGES[page] for fault in faults_of(block)]
    assert faults == []


@pytest.mark.parametrize("page", [page for page in PAGES if any(not block.is_run for block in PAGES[page])])
def test_what_is_not_run_can_be_typed(page: str, tmp_path: Path) -> None:
    for block in PAGES[page]:
        if block.language == "sh" and not block.is_run:
            assert problems_of_shell(block.text) == [], block.place
        elif block.language == "python" and not block.is_run and block.marks.get("not run") != "a signature":
            compile(block.text, block.place, "exec")
        elif block.language == "toml" and not block.is_run:
            assert problem_of_toml(block.text, tmp_path) is None, block.place


@pytest.fixture(scope="module")
def server() -> Iterator[Callable[[], Any]]:
    """An sshd on the loopback interface, once a page needs it."""
    spec = importlib.util.spec_from_file_location("edgespa_test_sshd", ROOT / "tests" / "device" / "sshd.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    with contextlib.ExitStack() as stack:
        kept: list[Any] = []

        def get() -> Any:
            if not kept:
                kept.append(stack.enter_context(module.running_sshd()))
            return kept[0]

        yield get


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


def follow(page: str, blocks: list[Block], tmp_path: Path, shared: Path, server: Callable[[], Any]) -> None:
    folder = tmp_path / "page"
    folder.mkdir()

    def board(path: Path) -> None:
        server().profile(path)

    reader = Reader(folder, Places(page, shared, board).prepare)
    for block in blocks:
        problem = reader.follow(block)
        assert problem is None, f"{block.place}: {problem}"


@pytest.fixture
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's home folder, and what edgespa keeps below it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for kind in ("CONFIG", "DATA", "STATE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / "home" / kind.lower()))
    (tmp_path / "home").mkdir()


def until_long(blocks: list[Block]) -> list[Block]:
    """The blocks before the first that takes long."""
    run = [block for block in blocks if block.is_run]
    end = next((index for index, block in enumerate(run) if long(block)), len(run))
    return run[:end]


@pytest.mark.slow
@pytest.mark.usefixtures("_home")
@pytest.mark.parametrize("page", [page for page, blocks in PAGES.items() if until_long(blocks)])
def test_the_page_works(page: str, tmp_path: Path, shared: Path, server: Callable[[], Any]) -> None:
    follow(page, until_long(PAGES[page]), tmp_path, shared, server)


@pytest.mark.slow
@pytest.mark.more
@pytest.mark.usefixtures("_home")
@pytest.mark.parametrize("page", [page for page, blocks in PAGES.items() if any(map(long, blocks))])
def test_the_long_page_works(page: str, tmp_path: Path, shared: Path, server: Callable[[], Any]) -> None:
    follow(page, [block for block in PAGES[page] if block.is_run], tmp_path, shared, server)


ONE = "Some words.\n\n{0}\n\n```{1}\n{2}\n```\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (ONE.format("", "sh", "edgespa --version"), None),
        (ONE.format("", "", "any words"), None),
        (ONE.format("<!-- not run: needs a board -->", "sh", "x"), None),
        (ONE.format("<!-- not run: it is late -->", "sh", "x"), "none of the reasons"),
        (ONE.format("<!-- run by: tests/nothing.py -->", "sh", "x"), "no test that names page.md"),
        (ONE.format("<!-- run by: tests/docs/test_blocks.py -->", "sh", "x"), None),  # page.md, as named here
        (ONE.format("<!-- run by: tests/test_wheel.py -->", "sh", "x"), "no test that names page.md"),
        (ONE.format("<!-- run: later -->", "sh", "x"), "run: later?"),
        (ONE.format("", "bash", "x"), "what is `bash`?"),
        (ONE.format("", "text", "$ edgespa verify bundle/"), "what a reader types"),
        (ONE.format("", "", "import edgespa"), "what a reader types"),
        ("Words:\n\n    edgespa verify bundle/\n", "it is indented"),
        ("Words:\n\n    a -> b\n", None),
    ],
)
def test_a_block_that_is_neither_is_seen(text: str, fault: str | None) -> None:
    (block,) = blocks_in(text)
    found = faults_of(block)
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]


def test_a_comment_is_of_the_next_block_alone() -> None:
    text = "<!-- not run: a sketch -->\n\n```sh\na\n```\n\n```sh\nb\n```\n\n<!-- run: more -->\n\nX.\n\n```sh\nc\n```\n"
    first, second, third = blocks_in(text)
    assert (first.marks, second.marks, third.marks) == ({"not run": "a sketch"}, {}, {})
    assert [each.line for each in (first, second, third)] == [4, 8, 16]
    assert until_long([first, second, Block("page.md", 1, "sh", "", {"run": "more"}), third]) == [second]


@pytest.mark.parametrize(
    ("language", "text", "problem"),
    [
        ("sh", "edgespa --version  # which", None),
        ("sh", "edgespa verify nowhere/", "exit status 1"),
        ("sh", "edgespa verify --sideways", "No such option"),
        ("sh", "echo a > b\ntest -s b", None),
        ("sh", "false\ntrue", "exit status 1"),
        ("sh", "false | cat", "exit status 1"),
        ("sh", "edgespa nonsense \\\n  --more", "exit status 2"),
        ("python", "a = 1\nassert a", None),
        ("python", "assert not 1", "AssertionError"),
        ("python", "# lib/one.py\nraise SystemExit", None),
        ("toml", "version = 1\n[verify]\nbundle = 'b'\n", None),
        ("toml", "version = 1\n[verify]\nbundel = 'b'\n", "bundel"),
        ("toml", "version = 1\n[verify]\nbundle = b\n", "Invalid value"),
        ("toml", 'extends = "pi-4b"\n[connection]\nhost = "x"\n', None),
        ("toml", 'extends = "pi-4b"\n[connection]\nhorst = "x"\n', "horst"),
        ("toml", "[tasks.a]\ndata = 'd'\nrank = 2\n", None),
        ("toml", "[tasks.a]\ndata = 'd'\nrnak = 2\n", "rnak"),
        ("toml", "fruit = 1\n", "neither a recipe"),
    ],
)
def test_what_does_not_work_is_seen(tmp_path: Path, language: str, text: str, problem: str | None) -> None:
    (tmp_path / "page").mkdir()
    found = Reader(tmp_path / "page").follow(Block("page.md", 1, language, f"{text}\n", {}))
    assert (found is None) == (problem is None), found
    assert problem is None or problem in str(found)


def test_a_page_is_followed_in_order(tmp_path: Path) -> None:
    page = (
        "```python\n# net.py\nSIZE = 3\n```\n\n```sh\nmkdir inner\ncd inner\nexport WHO=ada\n```\n\n```sh\n"
        'test "$WHO" = ada\ntest -f ../net.py\n```\n\n```python\nsize = 4\n```\n\n```python\nassert size == 4\n```\n'
    )
    (tmp_path / "page").mkdir()
    reader = Reader(tmp_path / "page")
    assert [reader.follow(block) for block in blocks_in(page)] == [None] * 5


def test_what_is_not_run_is_parsed() -> None:
    assert problems_of_shell("edgespa verify bundle/\nedgespa prune ... --density 0.5  # more\nls") == []
    assert len(problems_of_shell("edgespa verify bundle/ --sideways\nx edgespa prune MODEL --denity 0.5")) == 2


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("edgespa verify bundle/", ["bundle"]),
        ("edgespa export x --output bundle/\nedgespa verify bundle/", []),
        ("edgespa pack bundle/ --output bundle.tar", ["bundle"]),
        ("edgespa prune net.py:make --output cut.spa", ["net.py"]),
        ("python mynet.py; ls bundle.d", []),
    ],
)
def test_what_a_block_names_is_put_there(text: str, made: list[str], tmp_path: Path) -> None:
    found = []

    class Spy(Places):
        def made(self, name: str, folder: Path) -> Path:
            found.append(name)
            return folder / name

    Spy("page.md", tmp_path, lambda _: None).prepare(text, tmp_path)
    assert found == made
