"""``edgespa search`` as it is typed: spaces, settings, budgets, and recipes in place of a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import edgespa as es
from edgespa.api.search_results import SearchResult
from edgespa.cli import main
from edgespa.trials.record import Search, Trial

LINE = ["search", "net.py:build", "--data", "d.npz", "--validation-data", "v.npz", "-o", "found"]
BESIDE = ["--validation-data", "v.npz", "-o", "found"]


def made() -> SearchResult:
    trial = Trial(
        number=0, wave=0, digest="0" * 16, recipe={"rank": 4, "adapter": "lora"}, state="complete", stage="file",
        quality=0.91, size_bytes=2048, latency_ms=2.0, measured_ms=1.5, front=1, folder="front/0000000000000000",
    )  # fmt: skip
    record = Search(
        model="net.py:build", data="d", validation="v", device="local", goals=("quality", "latency"), sampler="grid",
        bracket=2, identity="0" * 16, space={"rank": [4, 8]}, trials=(trial,), done=True, notes=("a note",),
        measure={"name": "accuracy", "title": "accuracy", "percent": True},
        importance={"quality": {"rank": 0.75, "adapter": 0.25}},
    )  # fmt: skip
    return SearchResult(Path("found"), record)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Result, dict[str, Any]]]:
    """What a line prints, and the keywords that it calls `edgespa.search` with, the model among them."""
    monkeypatch.chdir(tmp_path)
    called: dict[str, Any] = {}

    def search(model: str, **keywords: Any) -> SearchResult:
        called.clear()
        called.update({"model": model, **keywords})
        return made()

    monkeypatch.setattr(es, "search", search)

    def run(*words: str) -> tuple[Result, dict[str, Any]]:
        called.clear()
        found = CliRunner().invoke(main, list(words))
        return found, dict(called)

    return run


def test_what_is_said_is_passed_on_and_nothing_else(typed: Any) -> None:
    result, called = typed(*LINE)
    assert result.exit_code == 0, result.output
    assert {name: each for name, each in called.items() if each is not None and name != "skip_bad_files"} == {
        "model": "net.py:build", "data": "d.npz", "validation_data": "v.npz", "output": Path("found"),
    }  # fmt: skip
    more = ["--space", "rank=4,8", "--space", "round-to=8", "--set", "lr=0.01", "--set", "budget=macs"]
    more += ["--budget", "latency_ms=2.5", "--budget", "size_bytes=1000", "--timeout", "60", "--goal", "bytes"]
    _, called = typed(*LINE, *more, "--epochs", "3", "--augment", "flip,crop", "--jobs", "2", "--tensorboard", "runs")
    assert (called["tensorboard"], called.get("mlflow")) == (Path("runs"), None)
    assert called["space"] == {"rank": "4,8", "round_to": 8}
    assert (called["lr"], called["budget"], called["epochs"]) == (0.01, "macs", 3)
    assert (called["latency_ms"], called["size_bytes"], called["timeout_s"]) == (2.5, 1000, 60)
    assert type(called["size_bytes"]) is int
    assert (called["goals"], called["augment"], called["jobs"]) == (("bytes",), ("flip", "crop"), 2)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--budget", "20"], "'20' is neither latency_ms=20 nor size_bytes=100000"),
        (["--budget", "latency_ms=fast"], "'fast' is not a number of milliseconds"),
        (["--budget", "latency_ms=0"], "'0' is not a number of milliseconds"),
        (["--budget", "size_bytes=1.5"], "'1.5' is not a whole number of bytes"),
        (["--space", "rank"], "is not KEY=VALUE"),
        (["--space", "rank=1", "--space", "rank=2"], "--space rank is said twice"),
        (["--set", "round-to=1", "--set", "round_to=2"], "--set round_to is said twice"),
        (["--set", "objective=a.py:B"], "say it with its own option, --objective"),
        (["--set", "batch-size=3"], "say it with its own option, --batch-size"),
        (["--set", "eval_limit=3"], "say it with its own option, --eval-limit"),
        (["--trials", "0"], "0 is not in the range"),
    ],
)
def test_mistakes_are_of_use(typed: Any, more: list[str], words: str) -> None:
    result, called = typed(*LINE, *more)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert called == {}


def test_the_result_fits_a_screen_and_is_json(typed: Any) -> None:
    result, _ = typed(*LINE)
    assert "91.00%" in result.stdout
    assert "rank=4 lora" in result.stdout
    assert "quality hangs on rank 75%, adapter 25%" in result.stdout
    assert max(map(len, result.output.splitlines())) <= 80
    told = json.loads(typed(*LINE, "--json")[0].stdout)
    assert (told["folder"], told["trials"][0]["measured_ms"]) == ("found", 1.5)


def test_a_search_that_is_ended_says_how_it_goes_on(typed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_: Any, **__: Any) -> None:
        Path("found").mkdir()
        Path("found/search.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(es, "search", ended)
    result, _ = typed(*LINE)
    assert result.exit_code == 130
    assert "found keeps what is done: the same command goes on, and repeats nothing" in result.stderr


def test_a_recipe_that_searches(typed: Any, tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    (folder / "d.npz").write_bytes(b"")
    (folder / "r.toml").write_text(
        'version = 1\n[search]\nmodel = "torchvision:alexnet"\ndata = "d.npz"\nvalidation-data = "elsewhere:x"\n'
        'epochs = 4\nbudget = "latency_ms=2"\noutput = "found"\n[search.space]\nrank = [4, 8]\ndensity = "0.3..1"\n'
        "[search.set]\nlr = 0.01\n"
    )
    result, called = typed("search", "sub/r.toml", "--trust")
    assert result.exit_code == 0, result.output
    assert called["space"] == {"rank": "4,8", "density": "0.3..1"}
    assert called["data"] == str(folder / "d.npz")  # begins at the recipe's folder
    assert (called["validation_data"], called["output"]) == ("elsewhere:x", Path("sub/found"))
    assert (called["model"], called["epochs"], called["latency_ms"]) == ("torchvision:alexnet", 4, 2)
    assert called["lr"] == 0.01
    _, called = typed("search", "--epochs", "9", "sub/r.toml", "--trust", "-o", "other", "--trials", "5")
    assert (called["epochs"], called["output"], called["trials"]) == (9, Path("other"), 5)  # what is typed counts
    assert called["space"] == {"rank": "4,8", "density": "0.3..1"}
    _, called = typed("search", "sub/r.toml", "--trust", "--space", "rank=2,3", "--set", "lr=0.5")
    assert called["space"] == {"rank": "2,3", "density": "0.3..1"}
    assert called["lr"] == 0.5


ADAPTS = """version = 1
[learn]
command = "adapt"
model = "torchvision:alexnet"
data = "d.npz"
density = 0.4
rank = 8
epochs = 7
lr = 0.02
label-smoothing = 0.1
validation = 0.2
output = "task.spa"
log = "log.jsonl"
"""


def test_a_recipe_that_adapts(typed: Any) -> None:
    Path("r.toml").write_text(ADAPTS)
    result, called = typed("search", "r.toml", *BESIDE, "--trust")
    assert result.exit_code == 0, result.output
    assert (called["model"], called["data"], called["epochs"]) == ("torchvision:alexnet", "d.npz", 7)
    assert (called["lr"], called["label_smoothing"], called["validation"]) == (0.02, 0.1, 0.2)
    assert not {"density", "rank", "log_file", "space"} & set(called)  # what varies gives way
    assert called["output"] == Path("found")
    _, called = typed("search", "r.toml", *BESIDE, "--trust", "--space", "lr=0.01,0.02", "--set", "rank=2")
    assert called["space"] == {"lr": "0.01,0.02"}
    assert called["density"] == 0.4
    assert called["rank"] == 2
    beside = [*BESIDE, "--trust", "--space", "lr=1,2", "--set", "density=0.7"]
    assert typed("search", "r.toml", *beside)[1]["density"] == 0.7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version = 1\n[export]\nmodel = 'x'\n", "nothing in it is to be searched for"),
        (ADAPTS + "[adapt]\nmodel = 'x'\n", "several steps are meant: learn, adapt"),
        (ADAPTS.replace("epochs", "epoks"), "epoks"),
        (ADAPTS + "distill = 'base'\n", "learn.distill: a search has no such setting"),
        ("version = 1\n[search]\nmodl = 'x'\n", "edgespa search has no such option"),
        ("version = 1\n[search]\nspace = 3\n", "is not KEY=VALUE"),
        ("version = 1\n[search]\n[search.space]\nrank = {low = 2, high = 4}\n", "is not a text or a number"),
        ("version = 2\n", "this edgespa reads 1"),
    ],
)
def test_what_is_no_recipe_of_a_search(typed: Any, text: str, words: str) -> None:
    Path("r.toml").write_text(text)
    result, called = typed("search", "r.toml", *BESIDE, "--data", "d")
    assert result.exit_code != 0
    assert words in " ".join(result.stderr.split())
    assert called == {}
    assert "no such file" in typed("search", "other.toml", *BESIDE)[0].stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('model = "evil.py:build"', "search.model"),
        ('data = "evil.py:data"', "search.data"),
        ('device = "pi-4b"', "is connected to, as you"),
        ('ray = "10.0.0.1:6379"', "runs code as you"),
        ('objective = "evil.py:Thing"', "search.objective"),
        ('output = "/somewhere/else"', "is neither below"),
    ],
)
def test_a_recipe_of_somebody_else_runs_nothing(typed: Any, line: str, words: str) -> None:
    Path("evil.py").write_text("raise SystemExit('it ran')")
    said = {"model": '"net.pt2"', "data": '"d.npz"', "validation-data": '"v.npz"', "output": '"found"'}
    key, _, value = line.partition(" = ")
    rows = "\n".join(f"{name} = {each}" for name, each in {**said, key: value}.items())
    Path("r.toml").write_text(f"version = 1\n[search]\n{rows}\n")
    result, called = typed("search", "r.toml")
    assert result.exit_code == 1
    assert words in result.stderr
    assert called == {}
    mine = value.strip('"')
    beside = [mine] if key == "model" else [f"--{key}", mine]
    if key != "model":  # what is typed is the user's word
        assert typed("search", "r.toml", *beside)[0].exit_code == 0
