"""The process that `edgespa.export.conversion` starts: ``python -m edgespa.export.worker PROGRAM.pt2 FILE OPTIONS``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgespa.config import Preprocess
from edgespa.errors import EdgespaError
from edgespa.export.conversion import CONVERTERS
from edgespa.export.converter import Form
from edgespa.export.versions import Target
from edgespa.interface import with_plain_outputs
from edgespa.opening import open_program

FAILED = 3


def main(arguments: list[str]) -> int:
    """Convert; the exit status is 0, or `FAILED` with message and hint as JSON on stdout.

    Args:
        arguments: The program, the file to write, the options as JSON.
    """
    source, out, text = arguments
    options = json.loads(text)
    values = options["form"]
    pixels = values.pop("pixels")
    form = Form(
        **{**values, "target": Target(**values["target"]), "pixels": None if pixels is None else Preprocess(**pixels)}
    )
    try:
        program = with_plain_outputs(open_program(source, (), None).program)
        CONVERTERS[options["format"]].write_fp32(program, Path(out), form)
    except EdgespaError as error:
        sys.stdout.write(json.dumps({"message": error.message, "hint": error.hint}))
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
