"""The process that `edgespa.export.started` starts: ``python -m edgespa.export.worker PROGRAM.pt2 FILE OPTIONS``.

It ends, and removes the folder of its file, when its input does: then the export that it works for is gone.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path

from edgespa.config import Preprocess
from edgespa.errors import EdgespaError
from edgespa.export.conversion import CONVERTERS
from edgespa.export.converter import Form
from edgespa.export.versions import Target
from edgespa.interface import with_plain_outputs
from edgespa.opening import open_program


def main(arguments: list[str]) -> None:
    """Convert, say how it went in a line of JSON (message and hint, or nothing), and wait to be ended.

    Args:
        arguments: The program, the file to write, the options as JSON.
    """
    source, out, text = arguments
    waiting = threading.Thread(target=_end_with_input, args=(Path(out).parent,), daemon=True)
    waiting.start()
    said = {}
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
        said = {"message": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
    waiting.join()


def _end_with_input(folder: Path) -> None:
    os.read(0, 1)  # not through sys.stdin, whose lock would be held when this process ends
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
