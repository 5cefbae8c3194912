"""Lines that a user may type: they name edgespa, Python and pip as this process was started."""

from __future__ import annotations

import re

from edgespa.cli._terminal import echo


def said(text: str) -> str:
    """A text in which each command of edgespa, and each way to an extra, runs as it stands.

    Args:
        text: With ``edgespa COMMAND`` and ``pip install 'edgespa[EXTRA]'`` as the documentation has them.
    """
    from edgespa.cli._shell import COMMANDS
    from edgespa.system.started import program, with_extras

    name = program()
    commands = "|".join(COMMANDS)
    text = re.sub(rf"(?<![\w'/.\-])edgespa (?=(?:{commands})\b)", lambda _: f"{name} ", text)
    return with_extras(text)


def say_next(line: str) -> None:
    """Print what to type next.

    Args:
        line: As the documentation has it; paths in it are quoted.
    """
    echo(f"next: {said(line)}")
