"""``edgespa.toml``: found, strict, below what is typed; and no code, device or place that its user did not ask for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from typed import result_of, run

from edgespa.api.project import COMMANDS, OF_ALL, SHARED, find_project
from edgespa.cli import main
from edgespa.cli._asking import DATA, DEVICES, GROUPS, HARMLESS, MODELS, OBJECTIVE, SAID, WRITTEN
from edgespa.cli._recipes import OF_THE_CALL, command_of, keys_of
from edgespa.models.trust import remember

BASE = 'model = "net.py:build"\ninput-shape = [1, 3, 8, 8]\n'
REFUSED = "this is not done without your word"


@pytest.fixture
def place(tmp_path: Path, toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with ``net.py:build``, which was used here before, and ``colours.npz``; the working directory."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("net.py", "colours.npz"):
        (project / name).write_bytes((toy_folder / name).read_bytes())
    monkeypatch.chdir(project)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    remember("net.py:build")
    return project


def write(text: str, file: str = "edgespa.toml") -> None:
    Path(file).write_text(f"version = 1\n{text}", encoding="utf-8")


def asked(*line: str) -> dict[str, Any]:
    """What a command would do, by its recipe."""
    found: dict[str, Any] = result_of(*line, "--dry-run")["asked"]
    return found


def test_a_command_alone_does_what_the_file_says(place: Path) -> None:
    write(f'{BASE}[export]\nformat = ["onnx"]\noutput = "out"\n')
    said = run("export")
    assert "from edgespa.toml: model, input-shape, format, output" in said.stderr
    assert json.loads(Path("out/manifest.json").read_text())["variants"]
    assert result_of("inspect")["totals"] == result_of("inspect", "net.py:build", "--input-shape", "1,3,8,8")["totals"]


def test_command_line_then_environment_then_file_then_default(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(f'{BASE}seed = 3\n[prune]\ndensity = 0.5\noutput = "a.spa"\n')
    assert asked("prune")["density"] == 0.5
    assert asked("prune")["seed"] == 3
    monkeypatch.setenv("EDGESPA_PRUNE_DENSITY", "0.6")
    assert asked("prune")["density"] == 0.6
    assert asked("prune", "--density", "0.7")["density"] == 0.7
    monkeypatch.delenv("EDGESPA_PRUNE_DENSITY")
    line = ("prune", "net.py:build", "--input-shape", "1,3,8,8", "--density", "1", "-o", "b.spa", "--no-project")
    assert "seed" not in asked(*line)


def test_a_table_counts_before_what_is_for_all(place: Path) -> None:
    write(f'{BASE}seed = 1\n[prune]\nseed = 2\ndensity = 0.5\noutput = "a.spa"\n')
    assert asked("prune")["seed"] == 2


def test_paths_begin_at_the_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(f'{BASE}calibration = "colours.npz"\n[prune]\nmethod = "l2"\ndensity = 0.5\noutput = "a.spa"\n')
    (place / "deep/er").mkdir(parents=True)
    monkeypatch.chdir(place / "deep/er")
    found = asked("prune")
    assert found["model"] == "../../net.py:build"
    assert found["output"] == "../../a.spa"
    assert found["calibration"] == "../../colours.npz"
    run("prune")
    assert (place / "a.spa").is_file()


def test_another_model_gets_nothing_of_the_one_in_the_file(place: Path) -> None:
    write('model = "other.py:build"\ninput-shape = [1, 3, 99, 99]\nweights = "w.safetensors"\n')
    said = run("inspect", "net.py:build", "--input-shape", "1,3,8,8", "-v")
    assert "99" not in said.stderr
    assert "w.safetensors" not in said.stderr


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("modle = 'a'", "edgespa.toml: modle: no such key", "did you mean 'model'?"),
        ("[exprot]\na = 1", "edgespa.toml: exprot: no command takes such a table", "did you mean 'export'?"),
        (
            "[export]\nformats = ['onnx']",
            "edgespa.toml: export: formats: edgespa export has no such option",
            "'format'",
        ),
        (
            "[export]\noverwrite = true",
            "edgespa.toml: export.overwrite: no file says how a command is called",
            "type it",
        ),
        ("[export]\nformat = ['tflit']", "edgespa.toml: export.format: 'tflit' is not one of", "correct it there"),
        ("[export]\ncache = 'no'", "edgespa.toml: export.cache: 'no' is not true or false", "correct it there"),
        ("seed = -1", "edgespa.toml: seed: -1 is not in the range", "correct it there"),
        ("= 1", "edgespa.toml: not a TOML file", "correct it there"),
    ],
)
def test_it_is_strict(place: Path, text: str, message: str, hint: str) -> None:
    write(text)
    said = run("export", "net.py:build", "-o", "out", code=1).stderr
    assert message in said
    assert hint in said


def test_the_version(place: Path) -> None:
    Path("edgespa.toml").write_text("seed = 1")
    assert "version is missing" in run("inspect", "net.py:build", code=1).stderr
    Path("edgespa.toml").write_text("version = 2")
    assert "version is '2', and this edgespa reads 1" in run("inspect", "net.py:build", code=1).stderr


def test_where_it_is_looked_for(tmp_path: Path) -> None:
    home = tmp_path / "home"
    deep = home / "work/repo/a/b"
    deep.mkdir(parents=True)
    (home / "edgespa.toml").touch()
    assert find_project(deep, home) is None, "a home folder is no project of what is below"
    assert find_project(home, home) == home / "edgespa.toml"
    (home / "work/edgespa.toml").touch()
    assert find_project(deep, home) == home / "work/edgespa.toml"
    (home / "work/repo/.git").touch()
    assert find_project(deep, home) is None, "a repository ends it"
    (home / "work/repo/edgespa.toml").touch()
    assert find_project(deep, home) == home / "work/repo/edgespa.toml"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_somebody_else_has_no_say(tmp_path: Path) -> None:
    (tmp_path / "edgespa.toml").touch()
    os.chown(tmp_path / "edgespa.toml", 12345, -1)
    assert find_project(tmp_path, Path("/nowhere")) is None


HOSTILE = (
    'import pathlib\npathlib.Path("ran").touch()\nfrom torch import nn\ndef build():\n    return nn.Conv2d(3, 4, 3)\n'
)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (("inspect",), 'model = "evil.py:build"\ninput-shape = [1, 3, 8, 8]'),
        (("inspect",), 'model = "torchvision:resnet18"'),
        (("export", "net.py:build"), 'eval-data = "evil.py:build"\n[export]\noutput = "o"'),
        (("export", "net.py:build"), 'objective = "evil.py:build"\n[export]\noutput = "o"'),
        (("export", "net.py:build"), '[export]\noutput = "../o"'),
        (("export", "net.py:build"), '[export]\noutput = "o"\nsign = "~/.ssh/id"'),
        (("export", "t.spa"), '[export]\noutput = "o"\ntrust = true'),
        (("prune", "net.py:build"), '[prune]\noutput = ".bashrc"'),
        (("ship", "b"), 'device = ["pi-4b"]'),
        (("profile", "b"), 'device = ["pi-4b"]'),
        (("profile", "b"), "[profile]\ntrust = true"),
        (("verify", "b"), '[verify]\npython = "./python"'),
    ],
)
def test_a_strangers_file_does_nothing_without_a_word(place: Path, line: tuple[str, ...], text: str) -> None:
    Path("evil.py").write_text(HOSTILE)
    write(text)
    said = run(*line, code=1).stderr
    assert REFUSED in said
    assert "edgespa init --trust" in said
    assert not Path("ran").exists()
    assert not Path("o").exists()
    assert REFUSED not in run(*line, "--no-project", "--help").stderr
    assert "may ask for that" in run("init", "--trust").stdout
    assert not Path("ran").exists()
    assert REFUSED not in CliRunner().invoke(main, [*line, *(() if line[0] in ("inspect",) else ("--dry-run",))]).stderr


def test_the_word_is_for_what_the_file_said_then(place: Path) -> None:
    Path("evil.py").write_text(HOSTILE)
    write('model = "evil.py:build"\ninput-shape = [1, 3, 8, 8]')
    run("init", "--trust")
    run("inspect")
    Path("evil.py").write_text(HOSTILE + "# as a project's own code does\n")
    run("inspect")
    Path("worse.py").write_text(HOSTILE)
    write('model = "worse.py:build"\ninput-shape = [1, 3, 8, 8]')
    assert REFUSED in run("inspect", code=1).stderr


def test_what_is_typed_is_not_asked_about(place: Path) -> None:
    write('model = "evil.py:build"\n')
    run("inspect", "net.py:build", "--input-shape", "1,3,8,8")


def test_a_recipe_and_a_state_take_nothing_of_it(place: Path) -> None:
    write("seed = 5\n[prune]\ndensity = 0.9\n")
    recipe = 'version = 1\n[prune]\nmodel = "net.py:build"\ninput-shape = "1,3,8,8"\ndensity = 0.5\noutput = "a.spa"\n'
    Path("r.toml").write_text(recipe)
    found = result_of("run", "r.toml")
    assert found["steps"][0]["result"]["channel_density"] < 0.8


def test_init_finds_and_never_replaces(place: Path) -> None:
    Path("evil.py").write_text(HOSTILE)
    said = run("init", "net.py:build", "--input-shape", "1,3,8,8")
    assert not Path("ran").exists()
    assert "# also here" not in said.stdout
    assert result_of("inspect")["totals"]["parameters"] > 0
    before = Path("edgespa.toml").read_text()
    assert "also here: evil.py:build" in before
    assert "exists already" in run("init", code=1).stderr
    assert Path("edgespa.toml").read_text() == before


def test_init_names_no_code_that_its_user_did_not(place: Path) -> None:
    Path("net.py").write_text(HOSTILE)
    said = run("init", "--input-shape", "1,3,8,8")
    assert "found, and not named by you: model = net.py:build" in said.stderr
    assert REFUSED in run("inspect", code=1).stderr
    run("init", "--trust")
    run("inspect")


def test_every_key_is_known_and_known_to_be_harmless_or_asked_about() -> None:
    known = {*HARMLESS, *SAID, *WRITTEN, *MODELS, *DATA, OBJECTIVE, DEVICES, GROUPS}
    for name in COMMANDS:
        keys = keys_of(command_of(click.Context(main), name))
        assert set(SHARED[name]) <= set(keys), name
        first = {id(param): key for key, param in reversed(keys.items())}
        if name != "inspect":  # --all and --svg are asked about, as what is in no list
            assert set(first.values()) <= known, name
    assert not {f"--{key}" for key in OF_ALL} & set(OF_THE_CALL)


def test_quiet_is_results_and_errors_alone(place: Path) -> None:
    write(f'{BASE}[export]\nformat = ["onnx"]\noutput = "out"\n')
    line = ("export", "--overwrite")
    assert run(*line).stderr != ""
    for quiet in (run("--quiet", *line), run(*line, "-q")):
        assert quiet.stderr == ""
        assert "onnx-fp32" in quiet.stdout
    assert "Error: " in run("-q", "export", "none.py:build", "-o", "x", code=1).stderr
