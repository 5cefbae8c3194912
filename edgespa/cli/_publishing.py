"""``edgespa ship --to FOLDER``: into a folder that devices pull from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgespa.cli._terminal import echo, secho


def publish(sources: Sequence[Path], as_json: bool, yes: bool, **options: Any) -> None:
    """Write the folder, and show what it holds now.

    Args:
        sources: Bundles and task files.
        as_json: Print JSON instead.
        yes: Do not ask before a task is withdrawn.
        **options: Of `edgespa.publish`.

    Raises:
        click.UsageError: What was typed does not go together, or there is nobody to ask.
        click.Abort: The answer was no.
    """
    import edgespa as es
    from edgespa.api.shell import current
    from edgespa.cli._output import emit_json, show
    from edgespa.cli._removal import at_a_terminal

    remove = options["remove"]
    if remove is not None and sources:
        raise click.UsageError(f"--remove ships nothing: leave {sources[0]} out")
    if remove is None and not sources:
        raise click.UsageError("Missing argument 'BUNDLE|TASK...'.")
    if options["sign_key"] is not None and options["unsigned"]:
        raise click.UsageError("--sign signs the index, --unsigned does not: give one of them")
    if remove is not None and not yes and not current().only_check:
        if not at_a_terminal():
            raise click.UsageError("--remove asks first, and there is no terminal: add --yes")
        click.confirm(f"Withdraw {remove} from {options['to']}: no device gets it any more?", abort=True, err=True)
    found = es.publish(list(sources), **options)
    if as_json:
        emit_json(found)
        return
    show(found)
    if found.published.signed is None:
        secho("note: not signed: whoever can write there decides what devices run", err=True, fg="yellow")
    echo("upload: files/ first, index.json last")
