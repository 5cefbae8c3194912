"""The process that `edgespa.exporting.started` starts: ``python -m edgespa.exporting.worker FORMAT FILE``.

It loads the converter, reads from its input what to convert, says how it went in a line of JSON (message and hint, or
nothing), and waits for more, or to be ended. It ends, and removes the folder of its file, when its input does, also in
the middle of a conversion: then the export that it works for is gone.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from edgespa.config import Preprocess
from edgespa.errors import EdgespaError
from edgespa.exporting.conversion import CONVERTERS
from edgespa.exporting.converter import Form
from edgespa.exporting.started import READY
from edgespa.exporting.versions import Target
from edgespa.models.interface import with_plain_outputs
from edgespa.models.opening import open_program
from edgespa.system.quiet import first_line


def main(arguments: list[str]) -> None:
    """Convert what comes.

    Args:
        arguments: The format, the file to write.
    """
    name, out = arguments[0], Path(arguments[1])
    try:
        _serve(name, out)
    except BaseException:  # the export may be gone already
        shutil.rmtree(out.parent, ignore_errors=True)
        raise


def _serve(name: str, out: Path) -> None:
    answer = os.dup(1)  # converters print
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.write(answer, READY)
    for package in CONVERTERS[name].PACKAGES:
        importlib.import_module(package)
    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders, out.parent), daemon=True).start()
    while True:
        asked = json.loads(orders.get())
        os.write(answer, json.dumps(_converted(name, out, asked)).encode() + b"\n")


def _converted(name: str, out: Path, asked: dict[str, Any]) -> dict[str, str | None]:
    values = asked["form"]
    pixels = values.pop("pixels")
    form = Form(
        **{**values, "target": Target(**values["target"]), "pixels": None if pixels is None else Preprocess(**pixels)}
    )
    try:
        program = with_plain_outputs(open_program(asked["program"], (), None).program)
        CONVERTERS[name].write_fp32(program, out, form)
    except EdgespaError as error:
        return {"message": error.message, "hint": error.hint}
    except OSError as error:
        return {"message": f"the file of the converter to {name} cannot be written: {error.strerror}", "hint": None}
    except Exception as error:
        return {"message": f"the converter to {name} failed: {first_line(error)}", "hint": "please report the model"}
    return {}


def _listen(orders: queue.SimpleQueue[bytes], folder: Path) -> None:
    """Lines of the input; when it ends, so does this process."""
    left = b""
    while piece := os.read(0, 1 << 16):  # not through sys.stdin, whose lock would be held when this process ends
        *lines, left = (left + piece).split(b"\n")
        for line in lines:
            orders.put(line)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
