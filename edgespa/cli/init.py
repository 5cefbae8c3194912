"""``edgespa init``: a project's ``edgespa.toml``, and the word that it may ask for what only its user may say."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import click

from edgespa.cli._help import Explained
from edgespa.cli._options import Numbers, json_option
from edgespa.cli._sections import INIT, INIT_EXAMPLES
from edgespa.cli._terminal import aside, echo


@click.command(name="init", cls=Explained, sections=INIT, examples=INIT_EXAMPLES)
@click.argument("model", required=False)
@click.option("--input-shape", multiple=True, metavar="N,C,H,W[:TYPE]", help="Sizes of the model's input.")
@click.option("--data", metavar="DATA", help="Training data.")
@click.option("--eval-data", metavar="DATA", help="Evaluation data.")
@click.option("--calibration", metavar="DATA", help="Images without labels.")
@click.option("--mean", type=Numbers(), help="Normalisation: subtracted, per channel.")
@click.option("--std", type=Numbers(positive=True), help="Normalisation: divided by, per channel.")
@click.option("--device", "devices", multiple=True, metavar="NAME", help="Where it is to run; may be repeated.")
@click.option(
    "--trust",
    is_flag=True,
    help="Instead: let the edgespa.toml that is there name code, devices and keys as if you had typed them.",
)
@json_option()
@click.pass_context
def command(
    ctx: click.Context,
    model: str | None,
    input_shape: tuple[str, ...],
    data: str | None,
    eval_data: str | None,
    calibration: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    devices: tuple[str, ...],
    trust: bool,
    as_json: bool,
) -> None:
    """Write an edgespa.toml here: model, data and targets, said once for all commands.

    What is not given is looked for: functions and classes in Python files, which are read and not run, and folders with
    train and test in them. What is not found is a comment. A file that is there is never replaced. Afterwards edgespa
    export, adapt, prune and the others take from it what is not typed, in this folder and below.

    An edgespa.toml that somebody else wrote runs no code that was not used here before, connects to nothing, and has
    nothing written outside of its folder, until you say: edgespa init --trust.
    """
    if (mean is None) != (std is None):
        raise click.UsageError("--mean and --std go together: give both")
    given: dict[str, Any] = {
        "model": model,
        "input-shape": list(input_shape),
        "data": data,
        "eval-data": eval_data,
        "calibration": calibration,
        "mean": list(mean or ()),
        "std": list(std or ()),
        "device": list(devices),
    }
    given = {key: value for key, value in given.items() if value}
    if not trust:
        _write(ctx, given, as_json)
    elif given:
        raise click.UsageError("--trust is of an edgespa.toml that is there, and writes nothing: give it alone")
    else:
        _trust(ctx, as_json)


def _write(ctx: click.Context, given: dict[str, Any], as_json: bool) -> None:
    from edgespa.api.project import project_of
    from edgespa.api.project_new import look, place_of, project_text
    from edgespa.cli._output import emit_json
    from edgespa.device.board import list_devices
    from edgespa.errors import OutputExistsError
    from edgespa.system.files import write_whole

    file = place_of(Path())
    if os.path.lexists(file):
        raise OutputExistsError(file, "", "change it with an editor, or remove it first; init replaces nothing")
    found = look(Path())
    likely = {"model": found.models, "data": found.data, "eval-data": found.eval_data}
    guessed = {key: specs[0] for key, specs in likely.items() if specs and key not in given}
    if "model" not in given and "model" not in guessed and sys.stdin.isatty() and not as_json:
        typed = click.prompt("MODEL (file.py:factory, torchvision:NAME, ...; nothing for later)", "", err=True)
        given = {"model": typed, **given} if typed.strip() else given
    own = [each.name for each in list_devices() if each.path and each.name != "local"]
    text = project_text({**guessed, **given}, found, own)
    project = project_of(file, tomllib.loads(text))  # as it will be read
    _look_through(ctx, project)
    write_whole(file, text.encode())
    _allow(ctx, project, set(given))
    if as_json:
        emit_json({"file": str(file), "given": given, "found": guessed})
        return
    for key, value in {**given, **guessed}.items():
        how = "found here" if key in guessed else "as you said"
        aside(f"{key} = {', '.join(map(str, value)) if isinstance(value, list) else value}   ({how})")
    echo(f"written: {file}")
    if questions := _questions(ctx, project):
        aside("found, and not named by you: " + "; ".join(dict.fromkeys(text for text, _ in questions)))
        aside("let it be used: edgespa init --trust")


def _trust(ctx: click.Context, as_json: bool) -> None:
    from edgespa.api.project import NAME, find_project, read_project
    from edgespa.cli._output import emit_json
    from edgespa.errors import ConfigError

    found = find_project(Path.cwd())
    if found is None:
        raise ConfigError(f"no {NAME} of yours here or above", "write one: edgespa init")
    project = read_project(Path(os.path.relpath(found)))
    questions = list(dict.fromkeys(_questions(ctx, project)))
    _allow(ctx, project, None)
    if as_json:
        emit_json({"file": str(project.path), "allowed": [{"asked": text, "why": why} for text, why in questions]})
        return
    for text, why in questions:
        echo(f"{text}: {why}")
    told = "may ask for that, until it says something else" if questions else "asks for nothing that needs your word"
    echo(f"{project.path}: {told}")


def _look_through(ctx: click.Context, project: Any) -> list[tuple[str, Any, str | None]]:
    """Each command's values, with why only the user may say them."""
    from edgespa.api.project import COMMANDS
    from edgespa.cli._project import taken
    from edgespa.cli._recipes import command_of

    rows = []
    for name in COMMANDS:
        said = project.of(name)
        for each in taken(project, said, command_of(ctx, name), [], None):
            rows.append((name, (each.key, said.values[each.key]), each.asked))
    return rows


def _questions(ctx: click.Context, project: Any) -> list[tuple[str, str]]:
    """What is not allowed yet, as the file says it, and why."""
    from edgespa.api.project import is_allowed
    from edgespa.cli._project import noted

    return [
        (f"{project.of(name).where(key).partition(': ')[2]} = {value}", why)
        for name, (key, value), why in _look_through(ctx, project)
        if why is not None and not is_allowed(project.path, noted(name, key, value))
    ]


def _allow(ctx: click.Context, project: Any, keys: set[str] | None) -> None:
    """Note the user's word for values; of code that was used here before too, for it may change."""
    from edgespa.api.project import allow
    from edgespa.cli._asking import DATA, DEVICES, MODELS, OBJECTIVE
    from edgespa.cli._project import noted

    always = (*MODELS, *DATA, OBJECTIVE, DEVICES)
    allow(
        project.path,
        [
            noted(name, key, value)
            for name, (key, value), why in _look_through(ctx, project)
            if (keys is None or key in keys) and (why is not None or key in always)
        ],
    )
