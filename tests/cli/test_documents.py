"""What commands print with ``--json`` is what its type says, and the schemas are those of the types."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
from typed import result_of, run

from edgespa.api.documents import DOCUMENTS, problems, schema
from edgespa.cli import main
from edgespa.models.trust import remember

SCHEMAS = Path(__file__).parents[2] / "docs/reference/json"
FAST = ("--budget", "speedup=1.001", "--format", "onnx", "--precision", "fp32", "--heal-steps", "2")
MODEL = ("net.py:build", "--input-shape", "1,3,8,8")


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> list[str]:
    found = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        elif any("--json" in param.opts for param in command.params if command):
            found.append(" ".join((*path, name)))
    return found


def test_every_command_that_prints_json_has_a_type_and_a_schema() -> None:
    assert set(commands()) == set(DOCUMENTS)
    for name in DOCUMENTS:
        assert json.loads((SCHEMAS / f"{name.replace(' ', '-')}.json").read_text()) == schema(name), "make docs"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, toy_folder: Path) -> Path:
    """A folder with a model, a task file, a bundle and a packed one."""
    folder = tmp_path_factory.mktemp("documents")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        for name in ("net.py", "colours.npz"):
            Path(name).write_bytes((toy_folder / name).read_bytes())
        remember("net.py:build")
        run("prune", *MODEL, "--density", "0.5", "--output", "cut.spa")
        run("export", "cut.spa", "--format", "onnx", "--output", "bundle")
        run("pack", "bundle", "--output", "bundle.tar")
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "key"]
        subprocess.run(key, check=True)
    return folder


LINES = {
    "inspect": ("inspect", *MODEL),
    "inspect task": ("inspect", "cut.spa"),
    "prune": ("prune", *MODEL, "--density", "0.5", "--output", "new.spa"),
    "heal": ("heal", "cut.spa", "--calibration", "colours.npz", "--steps", "2", "--output", "healed.spa"),
    "tasks": ("tasks", "."),
    "tasks diff": ("tasks", "diff", "cut.spa", "cut.spa"),
    "calibration list": ("calibration", "list"),
    "calibration show": ("calibration", "show", "digits-256"),
    "calibration check": ("calibration", "check", "digits-256"),
    "calibration make": ("calibration", "make", "--data", "digits:train", "--count", "20", "--output", "set.toml"),
    "export": ("export", "cut.spa", "--format", "onnx", "--output", "other"),
    "verify": ("verify", "bundle"),
    "pack": ("pack", "bundle", "--output", "new.tar"),
    "unpack": ("unpack", "bundle.tar", "--output", "unpacked"),
    "devices list": ("devices", "list"),
    "devices show": ("devices", "show", "pi-4b"),
    "devices check": ("devices", "check", "local"),
    "profile": ("profile", "bundle", "--runs", "3", "--no-save"),
    "status": ("status", "--device", "local"),
    "card": ("card", "bundle"),
    "completion": ("completion", "bash"),
    "report": ("report", "bundle", "cut.spa", "--output", "page.html"),
    "data": ("data", "colours.npz"),
    "evaluate": ("evaluate", "cut.spa", "--eval-data", "colours.npz", "--class-offset", "1"),
    "init": ("init", "net.py:build"),
    "init trust": ("init", "--trust"),
    "adapt": ("adapt", *MODEL, "--data", "colours.npz", "--epochs", "1", "--output", "adapted.spa"),
    "sign": ("sign", "bundle", "--key", "key"),
    "ship": ("ship", "bundle", "--device", "local"),
    "compress": ("compress", *MODEL, "--images", "colours.npz", *FAST, "--output", "small"),
    "devices latencies": ("devices", "latencies", "local", *MODEL),
    "devices latencies list": ("devices", "latencies", "local"),
}


@pytest.mark.parametrize("case", LINES)
def test_what_is_printed_is_what_the_type_says(place: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(place)
    for name in ("STATE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(place / name.lower()))
    found = result_of(*LINES[case])
    words = LINES[case][:2] if LINES[case][0] in ("calibration", "devices") else LINES[case][:1]
    name = " ".join(words)
    assert problems(name, found) == []
    assert problems(name, _without_a_key(found)) != [] or case == "init trust"


def _without_a_key(document: Any) -> Any:
    """The same with its first required key gone: the type would say so."""
    if isinstance(document, list):
        return [_without_a_key(document[0])]
    return {}


def test_a_recipe_and_a_dry_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    Path("r.toml").write_text('version = 1\n[verify]\nbundle = "bundle"\nno-run = true\n')
    found = result_of("run", "r.toml")
    assert problems("run", found) == []
    assert problems("verify", found["steps"][0]["result"]) == []
