"""Commands as they are typed, in this process."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from edgespa.cli import main


def run(*arguments: str, code: int = 0) -> Result:
    """What a command says, which must end with an exit status."""
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output + result.stderr
    return result


def result_of(*arguments: str) -> Any:
    """What it says as JSON."""
    return json.loads(run(*arguments, "--json").stdout)
