"""Python processes of our own that nothing in the current folder can change.

``python -m`` puts the current folder first: a ``random.py`` or ``inspect.py`` that lies there would be imported in the
place of Python's own.
"""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[2])
_RUN = (
    "import runpy, sys; root, module = sys.argv[1:3]; del sys.argv[1:3]; "
    # Where it is not installed: this edgespa, and not another one that is.
    "root in sys.path or sys.path.insert(0, root); runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


def own_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of edgespa in a new process.

    Args:
        module: Its name, ``edgespa.exporting.worker``.
        arguments: Its ``sys.argv[1:]``.
    """
    return [sys.executable, "-P", "-c", _RUN, _ROOT, module, *arguments]
