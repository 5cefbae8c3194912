"""The command line: a thin shell over the Python API.

`main` is the entry point. Each command is a module of this package with a click command called ``command``; at its
top it imports only click, the standard library and the shell's own ``_`` modules, and everything else inside the
body, so that no ``--help`` waits for torch.
"""

from edgespa.cli._shell import main

__all__ = ["main"]
