"""``edgespa completion``: what a shell needs to complete commands, options and values."""

from __future__ import annotations

import click

from edgespa.cli._help import Explained
from edgespa.cli._options import json_option
from edgespa.cli._sections import COMPLETION_EXAMPLES
from edgespa.cli._terminal import echo


@click.command(name="completion", cls=Explained, examples=COMPLETION_EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option()
def command(shell: str, as_json: bool) -> None:
    """Print the script that lets a shell complete what edgespa takes, for its start-up file.

    It goes to the end of a file that the shell reads: edgespa completion bash >> ~/.bashrc

    Commands, options, and where they are known their values: devices and calibration sets by name, factories in a
    Python file, variants of a bundle. Nothing of these is run, and torch is not loaded. bash 4.4 or newer.
    """
    from click.shell_completion import get_completion_class

    from edgespa.cli._completing import Bash
    from edgespa.cli._shell import COMPLETE, main

    found = Bash if shell == "bash" else get_completion_class(shell)
    assert found is not None
    script = found(main, {}, "edgespa", COMPLETE).source()
    if as_json:
        from edgespa.cli._output import emit_json

        emit_json({"shell": shell, "script": script})
    else:
        echo(script, nl=False)
