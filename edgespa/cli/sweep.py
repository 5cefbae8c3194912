"""``edgespa sweep``: many tasks over one base, and of them what is missing or changed."""

from __future__ import annotations

from pathlib import Path

import click

from edgespa.cli._help import Explained
from edgespa.cli._options import json_option
from edgespa.cli._resuming import saying_when_left
from edgespa.cli._said import say_next, typed
from edgespa.cli._sections import SWEEP, SWEEP_EXAMPLES
from edgespa.cli._terminal import echo


@click.command(name="sweep", cls=Explained, sections=SWEEP, examples=SWEEP_EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path), metavar="TASKS.toml")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The folder of the sweep: tasks/NAME.spa, bundles/NAME, base, and sweep.json with all of it.",
)
@click.option("--again", multiple=True, metavar="TASK", help="Make this task anew, whatever was done; may be repeated.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes at a time.")
@click.option("--ray", metavar="ADDRESS", help="A Ray cluster in their place: auto, local or HOST:PORT.")
@click.option("--dry-run", is_flag=True, help="Only say what there is to do, and why.")
@click.option("--trust", is_flag=True, help="Take TASKS.toml as if you had typed it: code, and devices.")
@json_option()
def command(
    file: Path,
    output: Path,
    again: tuple[str, ...],
    jobs: int,
    ray: str | None,
    dry_run: bool,
    trust: bool,
    as_json: bool,
) -> None:
    """Make many tasks over one base: a task file and a bundle for each.

    TASKS.toml has a table [base], one of [defaults], and [tasks.NAME] for each task, whose keys are what the options of
    adapt and export are called. The base is opened once in each process, exported once unpruned, and latency tables are
    made once. A task that fails is told at the end and stops no other; the exit status is 1 then. The same command
    again does what is missing, or has changed: data, settings, code or weights.

    A file that somebody else wrote runs no code that was not used here before, and connects to nothing, unless you say
    --trust.
    """
    import edgespa as es
    from edgespa.cli._output import emit_json
    from edgespa.errors import EdgespaError

    with saying_when_left(lambda: _kept(output)):
        found = es.sweep(file, output=output, again=again, jobs=jobs, ray=ray, dry_run=dry_run, trust=trust)
    if as_json:
        emit_json(found.to_dict())
    else:
        echo(str(found))
    if found.failed:
        count = f"{len(found.failed)} of {len(found.all)}"
        names = ", ".join(each.name for each in found.failed)
        raise EdgespaError(f"{count} failed: {names}", "the same command again does what is left of them")
    if not (as_json or dry_run) and found.base is not None:
        say_next(f"edgespa report {typed(output)}")


def _kept(output: Path) -> str:
    """What there is of a sweep that was left."""
    kept = (output / "sweep.json").is_file()
    return f"{output} keeps what is done: the same command goes on, and repeats nothing" if kept else ""
