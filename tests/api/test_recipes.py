"""Recipes as files: what is read, in which order, and what the refusal says."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespa.api.recipes import COMMANDS, read_recipe, recipe_text
from edgespa.cli import main
from edgespa.cli._recipes import words_of
from edgespa.errors import ConfigError


def write(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_steps_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = 'version = 1\n[prune]\nmodel = "a"\n[adapt]\nfrom = "b"\n[again]\ncommand = "prune"\ndensity = 0.5\n'
    found = read_recipe(write(tmp_path, text))
    assert [(step.name, step.command) for step in found.steps] == [
        ("prune", "prune"),
        ("adapt", "adapt"),
        ("again", "prune"),
    ]
    assert dict(found.steps[2].values) == {"density": 0.5}
    assert found.folder == tmp_path
    assert [step.name for step in found.beginning_with("adapt")] == ["adapt", "again"]
    assert found.beginning_with(None) == found.steps
    with pytest.raises(ConfigError) as raised:
        found.beginning_with("adopt")
    assert raised.value.hint == "did you mean 'adapt'?"


def test_what_is_included_comes_first_and_counts_less(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", 'version = 1\n[export]\nformat = ["onnx"]\nbatch = 2\n', "export.toml")
    write(tmp_path, 'version = 1\ninclude = "deep/export.toml"\n[prune]\ndensity = 0.5\nseed = 3\n', "common.toml")
    text = 'version = 1\nfolder = ".."\ninclude = ["common.toml"]\n[prune]\nseed = 4\n[verify]\nbundle = "b"\n'
    found = read_recipe(write(tmp_path, text))
    assert [step.name for step in found.steps] == ["export", "prune", "verify"]
    assert dict(found.steps[1].values) == {"density": 0.5, "seed": 4}
    assert found.folder == tmp_path / ".."
    assert found.steps[1].where("density") == f"{tmp_path / 'common.toml'}: prune.density"
    assert found.steps[1].where("seed") == f"{tmp_path / 'recipe.toml'}: prune.seed"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[prune]\n", "version is missing", "version = 1"),
        ("version = 2\n[prune]\n", "version is 2, and this edgespa reads 1", "update"),
        ('version = "1"\n[prune]\n', "version is '1'", "update"),
        ("version = true\n[prune]\n", "version is True", "update"),
        ("version = 1\n", "nothing is to be done", "adapt, prune"),
        ("version = 1\n[prone]\n", "prone: there is no such step", "did you mean 'prune'?"),
        ("version = 1\n[xyz]\n", "xyz: there is no such step", 'command = "prune"'),
        ('version = 1\n[twice]\ncommand = "prun"\n', "twice.command: 'prun' is no step", "did you mean 'prune'?"),
        ("version = 1\n[twice]\ncommand = 3\n", "twice.command: 3 is no step", "steps are"),
        ("version = 1\ninclud = 'a'\n[prune]\n", "includ: no step", "did you mean 'include'?"),
        ("version = 1\n[[prune]]\n", "prune: no step", "steps are"),
        ("version = 1\ninclude = 3\n[prune]\n", "include: no name of a file", "common.toml"),
        ("version = 1\nfolder = 3\n[prune]\n", "folder: no name of a folder", "folder"),
        ("version = 1\ninclude = 'recipe.toml'\n[prune]\n", "it includes itself", "circle"),
        ("version = 1\ninclude = 'absent.toml'\n[prune]\n", "absent.toml: no such file", "did you mean"),
        ("version = 1\n[prune\n", "not a TOML file", "correct it"),
        ("version = 1\n['a b']\n", "not a name", "letters"),
        ("version = 1\n[prune]\nseed = nan\n", "not finite", "correct"),
        (f"version = 1\n[prune]\nx = {'[' * 5000}{']' * 5000}\n", "without an end", "correct"),
    ],
)
def test_refusals(tmp_path: Path, text: str, message: str, hint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        read_recipe(path)
    assert message in raised.value.message
    assert str(tmp_path) in raised.value.message
    assert hint in (raised.value.hint or "")


def test_what_is_no_file_of_a_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "big.toml").write_bytes(b"#" * (1 << 21))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    names = {"pipe.toml": "no such file", "big.toml": "more than 1 MiB", "binary.toml": "UTF-8", ".": "no such"}
    for name, said in names.items():
        with pytest.raises(ConfigError, match=said):
            read_recipe(tmp_path / name)


def test_a_chain_of_files_has_an_end(tmp_path: Path) -> None:
    for index in range(60):
        write(tmp_path, f'version = 1\ninclude = "{index + 1}.toml"\n[prune]\n', f"{index}.toml")
    with pytest.raises(ConfigError, match="more than 50 files"):
        read_recipe(tmp_path / "0.toml")
    for index in range(9):  # ten to the ninth
        names = ", ".join([f'"{index + 1}.toml"'] * 10)
        write(tmp_path, f"version = 1\ninclude = [{names}]\n[prune]\n", f"{index}.toml")
    write(tmp_path, "version = 1\n", "9.toml")
    with pytest.raises(ConfigError, match="more than 50 files"):
        read_recipe(tmp_path / "0.toml")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUE = st.one_of(TEXT, st.booleans(), st.integers(-(2**50), 2**50), st.floats(allow_nan=False, allow_infinity=False))


@given(st.sampled_from(COMMANDS), st.dictionaries(st.sampled_from("abcdef"), VALUE | st.lists(VALUE, max_size=3)), TEXT)
def test_what_is_written_is_read_back(command: str, values: dict[str, object], folder: str) -> None:
    found = tomllib.loads(recipe_text(command, values, folder))
    assert found.pop("version") == 1
    assert found.pop("folder", ".") == folder
    assert found == {command: values}


def test_the_recipes_of_the_page_are_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "recipes.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    write(tmp_path, "version = 1\n", "common.toml")
    assert len(blocks) == 2
    for block in blocks:
        for step in read_recipe(write(tmp_path, block)).steps:
            command = main.get_command(click.Context(main), step.command)
            assert command is not None
            command.make_context(step.command, words_of(step, command))
