"""The runner that measures and proves a bundle on a device: edgespa's own, not the one that came with the bundle.

It goes along with every command, so nothing of it lies on the device, where it could be changed or have no space. The
``run.py`` of a bundle is shipped for the programs that use the model; it is run only where the user trusts its maker.
"""

from __future__ import annotations

import base64
import shlex
import zlib
from collections.abc import Sequence
from functools import cache

from edgespa.bundle import RUNNER
from edgespa.device.assemble import agent_source, runner_source

# Nothing is imported from where it is started, nor from beside the bundle.
_START = (
    "import sys;sys.path=[p for p in sys.path if p];sys.dont_write_bytecode=True;import base64,zlib;__file__={name!r};"
    "exec(compile(zlib.decompress(base64.b64decode({packed!r})),__file__,'exec'))"
)

_BY_HAND = """
if __name__ == "__main__":
    sys.exit(by_hand(agent=__file__))
"""


def runner_command(
    python: Sequence[str], bundle: str, options: Sequence[str], *, trusted: bool = False
) -> tuple[list[str], str]:
    """What runs a bundle's models on a device.

    Args:
        python: The Python there that has the runtimes, as the beginning of an argument list.
        bundle: The bundle's folder there.
        options: Of the runner.
        trusted: Run the bundle's own ``run.py``.

    Returns:
        The argument list, and the same as a person would type it.
    """
    own = [f"{bundle}/{RUNNER}", *options]
    by_hand = shlex.join([python[0], *own])
    if trusted:
        return [*python, *own, "--json"], by_hand
    return [*python, "-c", runner_text(), "--bundle", bundle, *options, "--json"], by_hand


@cache
def runner_text() -> str:
    """The runner as ``python -c`` takes it; its options stand behind it."""
    packed = base64.b64encode(zlib.compress(runner_source(), 9)).decode()
    return _START.format(name=RUNNER, packed=packed)


@cache
def pull_source() -> bytes:
    """The agent as the program ``edgespa-agent`` of devices that pull: it has edgespa's own runner with it."""
    body = agent_source().decode().rpartition("\nif __name__ ==")[0]
    return f"#!/usr/bin/env python3\n{body}\nRUNNER = {runner_text()!r}\n{_BY_HAND}".encode()
