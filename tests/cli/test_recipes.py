"""``edgespa run``, ``--save-recipe``, ``--dry-run``: the same as typed, and no more than the user has said."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from typed import result_of, run

from edgespa.api.recipes import COMMANDS, Step, read_recipe
from edgespa.cli import main
from edgespa.cli._asking import DATA, DEVICES, GROUPS, HARMLESS, MODELS, OBJECTIVE, SAID, WRITTEN
from edgespa.cli._recipes import command_of, keys_of, words_of
from edgespa.errors import ConfigError
from edgespa.models.trust import remember
from edgespa.tasks.task import Task

PRUNE = ("prune", "net.py:build", "--input-shape", "1,3,8,8", "--density", "0.5")
NOTHING = "nothing was done"


@pytest.fixture
def place(tmp_path: Path, toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``net.py:build``, which was used here before, and ``colours.npz``; the working directory."""
    for name in ("net.py", "colours.npz"):
        (tmp_path / name).write_bytes((toy_folder / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    remember("net.py:build")
    return tmp_path


def write(text: str, name: str = "recipe.toml") -> str:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(f"version = 1\n{text}", encoding="utf-8")
    return name


def command_named(name: str) -> click.Command:
    return command_of(click.Context(main), name)


def content(path: Path) -> Any:
    """All of a task but when it was made."""
    task = Task.load(path)
    header = task.header.model_dump(mode="json") | {"created": ""}
    return header, {key: tensor.tolist() for key, tensor in task.factors.flat().items()}


def words(text: str, command: str = "prune") -> list[str]:
    values = tomllib.loads(text)
    step = Step(command, command, values, {"": Path("r.toml"), **dict.fromkeys(values, Path("r.toml"))})
    return words_of(step, command_named(command))


@pytest.mark.parametrize(
    ("command", "text", "expected"),
    [
        ("prune", 'model = "net.py:build"\ndensity = 0.5', ["net.py:build", "--density", "0.5"]),
        ("prune", "reweight = false\nbn-reestimate = true", ["--no-reweight", "--bn-reestimate"]),
        ("prune", "bn-reestimate = false", []),
        ("prune", "mean = [0.5, 0, -1.5]", ["--mean", "0.5,0,-1.5"]),
        ("prune", "mean = '0.5,0'", ["--mean", "0.5,0"]),
        ("prune", "mean = [-0.5, 1]", ["--mean=-0.5,1"]),
        ("prune", "resize-to = 256\npadding = [1, 2, 3]", ["--resize-to", "256", "--padding", "1,2,3"]),
        ("prune", "scale = '-1-1'\nantialias = false", ["--scale=-1-1", "--no-antialias"]),
        ("prune", "input-shape = [1, 3, 8, 8]", ["--input-shape", "1,3,8,8"]),
        ("prune", "input-shape = ['1,3', '1,4:int64']", ["--input-shape", "1,3", "--input-shape", "1,4:int64"]),
        ("prune", "input-shape = [[1, 3], [1, 4]]", ["--input-shape", "1,3", "--input-shape", "1,4"]),
        ("prune", "keep-depth = [2, 2]", ["--keep-depth", "2,2"]),
        ("prune", "keep = ['a*', 'b']", ["--keep", "a*", "--keep", "b"]),
        ("adapt", "augment = ['flip', 'crop']", ["--augment", "flip,crop"]),
        ("adapt", "adapter-option = {alpha = 16}", ["--adapter-option", "alpha=16"]),
        ("adapt", "adapter-option = ['alpha=16']", ["--adapter-option", "alpha=16"]),
        ("export", 'task = "a.spa"\ncache = false\nformat = "onnx"', ["a.spa", "--no-cache", "--format", "onnx"]),
        ("profile", 'bundle = "b"\nthreads = [1, 4]', ["b", "--threads", "1", "--threads", "4"]),
        ("ship", 'bundle = ["a", "b"]\ntask = "t"', ["a", "b", "--task", "t"]),
        ("ship", 'sources = "a"', ["a"]),
        ("verify", 'bundle = "-odd"\nno-run = true', ["--no-run", "--", "-odd"]),
    ],
)
def test_keys_become_what_one_would_type(command: str, text: str, expected: list[str]) -> None:
    assert words(text, command) == expected


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("denstiy = 0.5", "r.toml: prune: denstiy: edgespa prune has no such option", "did you mean 'density'?"),
        ("input_shape = '1,3'", "input_shape", "did you mean 'input-shape'?"),
        ("xyzzy = 1", "xyzzy", "edgespa prune --help"),
        ("overwrite = true", "prune.overwrite: no recipe says how it is called", "edgespa run: --overwrite"),
        ("resume = true", "prune.resume: no recipe says", "leave it out"),
        ("bn-reestimate = 1", "prune.bn-reestimate: '1' is not true or false", "correct"),
        ("density = true", "prune.density: 'True' is not a text or a number", "correct"),
        ("density = [0.5, 0.6]", "prune.density: '[0.5, 0.6]' is not one value", "correct"),
        ("density = 2020-01-01", "prune.density", "correct"),
        ("density = {a = 1}", "prune.density", "correct"),
        ("keep = ['a', ['b']]", "prune.keep", "correct"),
        ("mean = [[0.5], [0.5]]", "prune.mean", "correct"),
        ('output = "a\\nb"', "prune.output", "correct"),
        ('output = "a\\u202eb"', "turn the text around", "correct"),
        ('model = "a"\ntask = "b"', "prune.task: model says the same", "one of them"),
    ],
)
def test_what_no_option_takes_is_refused_with_its_place(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        words(text)
    assert message in raised.value.message
    assert hint in (raised.value.hint or "")


def test_every_option_of_a_step_is_known_to_be_harmless_or_asked_about() -> None:
    """Who adds an option decides."""
    lists = (*SAID, *WRITTEN, DEVICES, GROUPS, *MODELS, OBJECTIVE, *DATA, *HARMLESS)
    assert len(lists) == len(set(lists))
    known = {name: keys_of(command_named(name)) for name in COMMANDS}
    assert {key for keys in known.values() for key in keys} == set(lists)
    for name in COMMANDS:
        for key, param in known[name].items():
            if isinstance(param, click.Option) and param.metavar in ("MODEL", "DATA"):
                assert key in (MODELS if param.metavar == "MODEL" else DATA), (name, key)


def test_a_saved_recipe_gives_the_same_bytes(place: Path) -> None:
    said = run(*PRUNE, "--round-to", "1", "--output", "first.spa", "--save-recipe", "recipe.toml", "--overwrite")
    assert "recipe: recipe.toml" in said.stderr
    text = Path("recipe.toml").read_text()
    assert tomllib.loads(text) == {
        "version": 1,
        "prune": {
            "model": "net.py:build",
            "input-shape": ["1,3,8,8"],
            "density": 0.5,
            "round-to": 1,
            "output": "first.spa",
        },
    }
    less = '[less]\ncommand = "prune"\nmodel = "net.py:build"\ninput-shape = [1, 3, 8, 8]\ndensity = 0.25\n'
    Path("recipe.toml").write_text(f'{text}\n{less}output = "b.spa"\n')
    first = content(Path("first.spa"))
    refused = run("run", "recipe.toml", code=1)
    assert "prune: first.spa exists already" in refused.stderr
    assert "--overwrite" in refused.stderr
    found = result_of("run", "recipe.toml", "--overwrite")
    assert [row["step"] for row in found["steps"]] == ["prune", "less"]
    assert found["done"] is True
    assert found["steps"][1]["result"]["channel_density"] < found["steps"][0]["result"]["channel_density"]
    assert found["steps"][0]["command"].startswith("edgespa prune net.py:build --input-shape 1,3,8,8 --density 0.5")
    assert content(Path("first.spa")) == first
    run(*PRUNE[:-1], "0.25", "--output", "typed.spa")
    assert content(Path("b.spa")) == content(Path("typed.spa"))


def test_a_dry_run_does_nothing_and_says_what_would_be(place: Path) -> None:
    before = sorted(place.rglob("*"))
    said = run(*PRUNE, "--output", "cut.spa", "--dry-run")
    assert tomllib.loads(said.stdout)["prune"]["density"] == 0.5
    assert NOTHING in said.stderr
    assert sorted(place.rglob("*")) == before
    assert result_of(*PRUNE, "--output", "cut.spa", "--dry-run")["asked"]["density"] == 0.5
    run("prune", "absent.py:build", "--density", "0.5", "--output", "cut.spa", "--dry-run", code=1)
    run(*PRUNE, "--output", "cut.spa", "--dry-run", "--save-recipe", "kept.toml")
    assert [path.name for path in place.rglob("*") if path not in before] == ["kept.toml"]
    assert read_recipe(Path("kept.toml")).steps[0].values["output"] == "cut.spa"


CHAIN = """
[prune]
model = "net.py:build"
input-shape = "1,3,8,8"
density = 0.5
output = "cut.spa"
[export]
model = "cut.spa"
format = "onnx"
output = "bundle"
[verify]
bundle = "bundle"
"""


def test_all_steps_are_checked_before_the_first_is_done(place: Path) -> None:
    recipe = write(CHAIN)
    said = run("run", recipe, "--dry-run")
    assert [line.split()[:3] for line in said.stdout.splitlines()] == [
        ["edgespa", "prune", "net.py:build"],
        ["edgespa", "export", "cut.spa"],
        ["edgespa", "verify", "bundle"],
    ]
    assert NOTHING in said.stderr
    assert not Path("cut.spa").exists()
    for old, new, message in (
        ('"bundle"\n[verify]', '"bundle"\nprecision = "fp7"\n[verify]', "export: Invalid value for '--precision'"),
        ('[verify]\nbundle = "bundle"', '[verify]\nbundle = "bundel"', "verify: bundel: no such bundle"),
        ('[verify]\nbundle = "bundle"', "[verify]", "verify: Missing argument 'BUNDLE'"),
        ('model = "cut.spa"', 'model = "cat.spa"', "export: cat.spa: no such file"),
        ('model = "cut.spa"', 'model = "cut.spa"\ncalibration = "no/where.npz"', "export: data 'no/where.npz'"),
        ('output = "bundle"', 'output = "cut.spa"', "export.output: [prune] writes cut.spa too"),
        ("density = 0.5", "density = 1.5", "prune: Invalid value for '--density'"),
        ("density = 0.5", "density = 0.5\nalpha = 0.2", "prune: --alpha is for --method sls"),
        ("density = 0.5", "density = 0.5\nmean = [0.5]", "prune: --mean"),
    ):
        assert old in CHAIN
        failed = run("run", write(CHAIN.replace(old, new, 1), "bad.toml"), code=1)
        assert f"bad.toml: {message}" in failed.stderr
        assert not Path("cut.spa").exists()


def test_a_step_that_fails_says_how_the_rest_is_gone_on_with(place: Path) -> None:
    recipe = write(CHAIN.replace('"bundle"\n[verify]', '"bundle"\ncalibration = "colours.npz:nosplit"\n[verify]'))
    said = run("run", recipe, code=1)
    assert "stopped at step 2 of 3; from there on: edgespa run recipe.toml --begin export" in said.stderr
    assert Path("cut.spa").exists()
    found = json.loads(run("run", recipe, "--overwrite", "--json", code=1).stdout)
    assert found["done"] is False
    assert [row["step"] for row in found["steps"]] == ["prune"]
    assert "there is no step 'exprot'" in run("run", recipe, "--begin", "exprot", code=1).stderr


@pytest.mark.slow
def test_the_whole_way(place: Path) -> None:
    said = run("run", write(CHAIN))
    assert "all as in the manifest" in said.stdout
    assert [line for line in said.stderr.splitlines() if line.startswith("step")][-1] == "step 3 of 3: verify"


def test_paths_begin_at_the_recipe(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(CHAIN)
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    said = run("run", "../recipe.toml", "--begin", "prune", "--dry-run")
    assert "in the folder" in said.stderr
    assert Path.cwd() == place / "elsewhere"
    monkeypatch.chdir(place)
    run(*PRUNE, "--output", "cut.spa", "--dry-run", "--save-recipe", "recipes/../elsewhere/a.toml", code=1)
    run(*PRUNE, "--output", "cut.spa", "--dry-run", "--save-recipe", "elsewhere/a.toml")
    assert tomllib.loads(Path("elsewhere/a.toml").read_text())["folder"] == ".."
    run("run", "elsewhere/a.toml", "--dry-run")
    assert "is no folder" in run("run", write('folder = "no"\n[prune]\n', "b.toml"), code=1).stderr


def test_what_the_environment_says_is_saved_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPA_PRUNE_ROUND_TO", "2")
    monkeypatch.setenv("EDGESPA_PRUNE_BN_REESTIMATE", "no")
    said = run(*PRUNE, "--output", "cut.spa", "--dry-run")
    assert tomllib.loads(said.stdout)["prune"]["round-to"] == 2
    assert tomllib.loads(said.stdout)["prune"]["bn-reestimate"] is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--save-recipe", "a.txt"], "a recipe ends in .toml"),
        (["--save-recipe", "there.toml"], "there.toml exists already"),
        (["--save-recipe", "no/where.toml"], "no: the folder for the output does not exist"),
    ],
)
def test_a_recipe_that_cannot_be_saved_is_told_first(place: Path, arguments: list[str], said: str) -> None:
    write("", "there.toml")
    assert said in run(*PRUNE, "--output", "cut.spa", *arguments, code=1).stderr
    assert not Path("cut.spa").exists()


@pytest.mark.parametrize("name", ["a\nb.spa", "a\udcff.spa", "a\x1b[2J.spa"])
def test_what_no_recipe_can_say_is_told_first(place: Path, name: str) -> None:
    for how in (["--save-recipe", "r.toml"], ["--dry-run"]):
        assert "output: 'a" in run(*PRUNE, "--output", name, *how, code=1).stderr
    assert not Path("r.toml").exists()
    assert not list(place.glob("*.spa"))


def test_a_shell_completes_steps_too() -> None:
    """It parses what is there so far, of which not everything need be right."""
    for typed in (["prune", "net.py:build", "--density", "0.5"], ["adapt", "--epochs", "3"], ["run", "r.toml"]):
        found = ShellComplete(main, {}, "edgespa", "_EDGESPA_COMPLETE").get_completions(typed, "--dry")
        assert [each.value for each in found] == ["--dry-run"]


EVIL = "from pathlib import Path\nPath('marker').touch()\ndef build(): raise RuntimeError\nimages = build\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[prune]\nmodel = "evil.py:build"\ndensity = 0.5\noutput = "o.spa"', "prune.model = 'evil.py:build': code"),
        ('[prune]\nmodel = "evil:build"\ndensity = 0.5\noutput = "o.spa"', "prune.model"),
        ('[prune]\ntask = "evil.py"\ndensity = 0.5\noutput = "o.spa"', "prune.task"),
        ('[prune]\nmodel = "timm:resnet18"\ndensity = 0.5\noutput = "o.spa"', "a library builds it"),
        ('[adapt]\nmodel = "net.py:build"\ndata = "evil.py:images"\noutput = "o.spa"', "adapt.data"),
        ('[adapt]\nmodel = "net.py:build"\ndata = "evil:images"\noutput = "o.spa"', "adapt.data"),
        ('[adapt]\nmodel = "net.py:build"\ndata = "evil.py:x.pt2"\noutput = "o.spa"', "adapt.data"),
        ('[adapt]\nmodel = "net.py:build"\ndata = "~/evil.py"\noutput = "o.spa"', "adapt.data"),
        ('[export]\nmodel = "net.py:build"\noutput = "~/o"', "neither below the recipe's folder"),
        (
            '[adapt]\nmodel = "net.py:build"\ndata = "colours.npz"\neval-data = "evil.py:images"\noutput = "o"',
            "eval-data",
        ),
        ('[export]\nmodel = "net.py:build"\ncalibration = "evil.py:images"\noutput = "o"', "export.calibration"),
        ('[export]\nmodel = "net.py:build"\nbase = "evil.py:build"\noutput = "o"', "export.base"),
        ('[export]\nmodel = "net.py:build"\nsign = "key"\noutput = "o"', "export.sign"),
        ('[export]\nmodel = "net.py:build"\ntrust = true\noutput = "o"', "export.trust"),
        ('[export]\nmodel = "net.py:build"\noutput = "../o"', "neither below the recipe's folder"),
        ('[export]\nmodel = "net.py:build"\noutput = "link/o"', "neither below the recipe's folder"),
        ('[export]\nmodel = "net.py:build"\noutput = ".ssh/o"', "is hidden"),
        ('[adapt]\nmodel = "net.py:build"\ndata = "colours.npz"\nlog = "../log"\noutput = "o"', "adapt.log"),
        (
            '[prune]\nmodel = "net.py:build"\nmethod = "sls"\ndata = "d.npz"\nplot = "/p.svg"\noutput = "o"',
            "plot",
        ),
        ('[verify]\nbundle = "bundle"\npython = ["evil"]', "verify.python = 'evil'"),
        ('[verify]\nbundle = "bundle"\nmemory = 1000000', "verify.memory"),
        ('[profile]\nbundle = "bundle"\ndevice = ["local", "pi-4b"]', "profile.device = 'pi-4b'"),
        ('[profile]\nbundle = "bundle"\ndevice = "./evil.toml"', "profile.device"),
        ('[profile]\nbundle = "../bundle"', "the profile is written into it"),
        ('[profile]\nbundle = "../bundle"\nno-save = true\npick = "fastest"', "is written into it"),
        ('[ship]\nbundle = "bundle"\ndevice = "local"', "it puts files on devices"),
        ('folder = "/"\n[export]\nmodel = "net.py:build"\noutput = "tmp/o"', "neither below the recipe's folder"),
        ('include = "other.toml"\n[prune]\ndensity = 0.5\noutput = "o.spa"', "other.toml: prune.model"),
    ],
)
@pytest.mark.parametrize("arguments", [[], ["--dry-run"], ["--overwrite", "--json"]])
def test_a_strangers_recipe_does_nothing_without_a_word(
    place: Path, text: str, said: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is imported, connected to or written before the user has said --trust."""
    folder = place / "downloads"
    (folder / "bundle").mkdir(parents=True)
    for name in ("net.py", "colours.npz"):
        (folder / name).write_bytes((place / name).read_bytes())
    (folder / "evil.py").write_text(EVIL)
    (folder / "evil.toml").write_text('extends = "pi-4b"\n')
    (folder / "link").symlink_to(place)
    write('[prune]\nmodel = "evil.py:build"\n', str(folder / "other.toml"))
    recipe = write(text, str(folder / "recipe.toml"))
    monkeypatch.chdir(folder)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if "__pycache__" not in path.parts}
    result = run("run", recipe, *arguments, code=1)
    assert said in result.stderr
    assert f"edgespa run {recipe} --trust" in result.stderr
    after = {path: path.stat().st_mtime_ns for path in place.rglob("*") if "__pycache__" not in path.parts}
    assert before == after


def test_a_log_that_is_there_is_replaced_only_with_a_word(place: Path) -> None:
    recipe = write('[adapt]\nmodel = "net.py:build"\ndata = "colours.npz"\nlog = "notes"\noutput = "o.spa"\n')
    run("run", recipe, "--dry-run")
    Path("notes").write_text("mine")
    assert "it would be replaced" in run("run", recipe, "--dry-run", code=1).stderr
    run("run", recipe, "--dry-run", "--overwrite")
    assert Path("notes").read_text() == "mine"


def test_with_a_word_it_is_as_typed(place: Path) -> None:
    (place / "new.py").write_text((place / "net.py").read_text() + "\nopen('ran', 'w').close()\n")
    recipe = write('[prune]\nmodel = "new.py:build"\ninput-shape = [1, 3, 8, 8]\ndensity = 0.5\noutput = "cut.spa"\n')
    assert "code that was not used here before" in run("run", recipe, code=1).stderr
    assert not Path("ran").exists()
    run("run", recipe, "--trust")
    assert Path("ran").exists()
    assert Path("cut.spa").exists()
    # It was used here now, and so it is known; until it is another.
    run("run", recipe, "--overwrite", "--dry-run")
    Path("new.py").write_text(f"{Path('new.py').read_text()}\n# changed\n")
    assert "has changed since" in run("run", recipe, "--overwrite", code=1).stderr


def test_what_is_shown_moves_no_cursor(place: Path) -> None:
    recipe = write('[prune]\nmodel = "a\\u001b[2Jb"\ndensity = 0.5\noutput = "o.spa"\n')
    result = run("run", recipe, "--dry-run", code=1)
    assert "\x1b" not in result.output + result.stderr


def test_several_processes_run_no_recipe(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "type its adapt by itself" in run("run", write(CHAIN), code=2).stderr


def test_a_saved_calibration_spec_is_made_again_by_its_recipe(place: Path) -> None:
    words = ("calibration", "make", "--data", "colours.npz", "--count", "8", "--output", "spec.toml")
    run(*words, "--save-recipe", "recipe.toml")
    assert list(tomllib.loads(Path("recipe.toml").read_text())) == ["version", "calibration-make"]
    first = Path("spec.toml").read_bytes()
    Path("spec.toml").unlink()
    run("run", "recipe.toml")
    assert Path("spec.toml").read_bytes() == first


@pytest.mark.parametrize(
    ("line", "table"),
    [
        (["pack", "b", "--output", "b.tar"], {"pack": {"bundle": "b", "output": "b.tar"}}),
        (["unpack", "b", "--output", "c"], {"unpack": {"archive": "b", "output": "c"}}),
        (["card", "b", "--output", "b.md"], {"card": {"bundle": "b", "output": "b.md"}}),
        (["rollback", "fruit", "--device", "pi-4b"], {"rollback": {"task": "fruit", "device": ["pi-4b"]}}),
        (["devices", "setup", "pi-4b", "--offline"], {"devices-setup": {"name": "pi-4b", "offline": True}}),
    ],
)
def test_what_makes_or_sends_something_is_a_step(line: list[str], table: dict[str, Any], place: Path) -> None:
    Path("b").mkdir()
    said = run(*line, "--dry-run")
    assert tomllib.loads(said.stdout) == {"version": 1, **table}
    assert NOTHING in said.stderr
    Path("recipe.toml").write_text(said.stdout)
    again = run("run", "recipe.toml", "--dry-run", "--trust")
    (typed,) = again.stdout.splitlines()
    assert sorted(typed.split()) == sorted(["edgespa", *line])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[rollback]\ntask = "t"\ndevice = "local"', "it changes what is in use on devices"),
        ('[devices-setup]\nname = "local"', "it puts runtimes on a device"),
        ('[sign]\nbundle = "../b"\nkey = "k"', "the signature is written into it"),
        ('[sign]\nbundle = "b"\nkey = "k"', "signs with that key"),
        ('[pack]\nbundle = "b"\noutput = "/tmp/b.tar"', "neither below the recipe's folder"),
        ('[card]\nbundle = "b"\noutput = ".bashrc"', "hidden"),
    ],
)
def test_what_only_its_user_may_ask_for_is_asked_of_every_step(text: str, why: str, place: Path) -> None:
    said = run("run", write(text), "--dry-run", code=1).stderr
    assert why in " ".join(said.split())


def test_help_names_the_steps() -> None:
    text = " ".join(CliRunner().invoke(main, ["run", "--help"]).stdout.split())
    assert all(name in text for name in COMMANDS)
