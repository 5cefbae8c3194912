"""``edgespa sweep`` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import edgespa as es
from edgespa.api.sweep_results import SweepResult, Swept
from edgespa.cli import main
from edgespa.objectives.measures import ACCURACY

LINE = ["sweep", "tasks.toml", "-o", "fleet"]


def made(**changes: Any) -> SweepResult:
    row = Swept(
        "fruit", "made", "new", Path("fleet/tasks/fruit.spa"), 2048, Path("fleet/bundles/fruit"), 0.91, ACCURACY,
        "test", ({"name": "onnx-fp32", "size_bytes": 40960, "quality": 0.91},),
        {"pi-4b": {"ms": 1.234, "variant": "onnx-fp32", "runtime": None, "clean": True}}, 12.5,
    )  # fmt: skip
    other = Swept("tools", "failed", "data changed", error="data 'x': not there", hint="check the path")
    base = Swept("base", "unchanged", bundle=Path("fleet/base"), files=({"name": "onnx-fp32", "size_bytes": 99 << 10},))
    values: dict[str, Any] = {"base": base, "tasks": (row, other), "seconds": 60.0, "done": False, **changes}
    return SweepResult(Path("fleet"), Path("tasks.toml"), **values)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Result, dict[str, Any]]]:
    """What a line prints, and what it calls `edgespa.sweep` with."""
    monkeypatch.chdir(tmp_path)
    called: dict[str, Any] = {}
    result = [made()]

    def sweep(file: Path, **keywords: Any) -> SweepResult:
        called.update({"file": file, **keywords})
        return result[0]

    monkeypatch.setattr(es, "sweep", sweep)

    def run(*words: str, found: SweepResult | None = None) -> tuple[Result, dict[str, Any]]:
        called.clear()
        result[0] = found or made()
        return CliRunner().invoke(main, list(words)), dict(called)

    return run


def test_what_is_said_is_passed_on(typed: Any) -> None:
    _, called = typed(*LINE, "--jobs", "2", "--again", "fruit", "--again", "tools", "--trust")
    assert called == {
        "file": Path("tasks.toml"), "output": Path("fleet"), "again": ("fruit", "tools"), "jobs": 2, "ray": None,
        "dry_run": False, "trust": True,
    }  # fmt: skip


def test_what_failed_is_told_at_the_end_on_a_screen(typed: Any) -> None:
    result, _ = typed(*LINE)
    assert result.exit_code == 1
    assert "tools: data 'x': not there (check the path)" in result.stdout
    assert "1 of 3 failed: tools" in result.stderr
    assert "91.00%" in result.stdout
    assert "1.23" in result.stdout
    assert max(map(len, result.output.splitlines())) <= 80
    told, _ = typed(*LINE, "--json")
    document = json.loads(told.stdout)
    assert told.exit_code == 1
    assert [each["state"] for each in document["tasks"]] == ["made", "failed"]
    assert document["base"]["files"][0]["size_bytes"] == 99 << 10


def test_where_all_is_done_it_says_what_comes_next(typed: Any) -> None:
    whole = made(tasks=made().tasks[:1], done=True)
    result, _ = typed(*LINE, found=whole)
    assert result.exit_code == 0
    assert "edgespa report fleet\n" in result.output
    assert "edgespa report" not in typed(*LINE, "--json", found=whole)[0].stdout


def test_looking_says_what_is_to_be_done(typed: Any) -> None:
    todo = tuple(Swept(name, "waiting" if why else "unchanged", why) for name, why in (("a", "new"), ("b", "")))
    result, called = typed(*LINE, "--dry-run", found=made(base=None, tasks=todo, dry=True))
    assert called["dry_run"] is True
    assert result.exit_code == 0
    assert "a     new" in result.stdout
    assert "b     nothing to do" in result.stdout
    assert "1 to do, 1 unchanged" in result.stdout


def test_a_sweep_that_is_ended_says_how_it_goes_on(typed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_: Any, **__: Any) -> None:
        Path("fleet").mkdir()
        Path("fleet/sweep.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(es, "sweep", ended)
    result, _ = typed(*LINE)
    assert result.exit_code == 130
    assert "fleet keeps what is done: the same command goes on, and repeats nothing" in result.stderr


def test_mistakes_are_of_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, LINE)
    assert result.exit_code == 1
    assert "tasks.toml: no such file" in result.stderr
    Path("tasks.toml").write_text("version = 1\n[base]\nmodel = 'net.py:build'\n[tasks.a]\ndata = 'a.npz'\nrnak = 2\n")
    result = CliRunner().invoke(main, LINE)
    assert "tasks.a.rnak: is not known" in result.stderr
    assert "did you mean 'rank'?" in result.stderr
    Path("tasks.toml").write_text("version = 1\n[base]\nmodel = 'net.py:build'\n[tasks.a]\ndata = 'a.npz'\n")
    result = CliRunner().invoke(main, LINE)
    assert "net.py: no such file" in " ".join(result.stderr.split())
