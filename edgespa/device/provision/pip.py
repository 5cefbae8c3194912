"""pip on this machine: found where the environment has none, not listened to elsewhere, given up in time."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgespa.errors import DeviceError

TIMEOUT_S, RETRIES = 10, 1
"""Of one answer of the index: pip's own wait for minutes."""

_LAST_LINES = 6
_UNREACHED = (
    (r"timed out|Timeout", f"does not answer, in {TIMEOUT_S} s and once more"),
    (r"Connection refused|ConnectionRefused", "does not answer: the connection is refused"),
    (
        r"Name or service not known|name resolution|nodename nor servname|NameResolution",
        "has an unknown name",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|confirming the ssl certificate",
        "has a certificate that is refused",
    ),
    (r"ProxyError", "does not answer: the proxy does not pass it on"),
    (r"Retrying \(Retry|NewConnectionError|Max retries exceeded|Network is unreachable", "does not answer"),
)
"""What pip says where it does not reach its index, and what that means."""


@dataclass(frozen=True)
class Asked:
    """What came of one run of pip.

    Attributes:
        done: It did what it was asked.
        said: Its last words.
        why: The index was not reached, in words; empty where it was.
    """

    done: bool
    said: str
    why: str = ""


def pip_command() -> list[str]:
    """A pip that can be run: this environment's, the one that Python brings, or one on the path.

    Any will do, because it is told for which Python and machine to choose.

    Raises:
        DeviceError: There is none.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip"]
    wheel = _bundled()
    if wheel is not None:
        return [sys.executable, "-P", str(wheel / "pip")]
    for name in ("pip3", "pip"):
        path = shutil.which(name)
        if path is not None:
            return [path]
    raise DeviceError(
        "packages cannot be fetched: there is no pip here; environments that uv makes have none",
        "install it into edgespa's environment: uv pip install pip (or python -m ensurepip)",
    )


def _bundled() -> Path | None:
    """The wheel that Python makes environments with; it can be run as it is."""
    spec = importlib.util.find_spec("ensurepip")
    if spec is None or spec.origin is None:
        return None
    found = sorted((Path(spec.origin).parent / "_bundled").glob("pip-*.whl"))
    return found[-1] if found else None


def ask_pip(arguments: Sequence[str]) -> Asked:
    """Run pip, and give up soon where the index does not answer.

    The user's own settings hold, such as another index; what lies in the current folder is not imported.

    Args:
        arguments: Of pip, the command first.

    Raises:
        DeviceError: There is no pip.
    """
    limits = ["--timeout", str(TIMEOUT_S), "--retries", str(RETRIES)]
    command = [*pip_command(), *arguments[:1], *limits, *arguments[1:]]
    done = subprocess.run(
        command,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        check=False,
    )
    both = f"{done.stdout}\n{done.stderr}"
    lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if "WARNING" not in line]
    why = next((words for pattern, words in _UNREACHED if re.search(pattern, both)), "")
    return Asked(done.returncode == 0, "\n".join(lines[-_LAST_LINES:]), why)


def index_name() -> str:
    """The index that pip is set to ask, without a password; for messages."""
    named = os.environ.get("PIP_INDEX_URL")
    if not named:
        done = subprocess.run(
            [*pip_command(), "config", "get", "global.index-url"], capture_output=True, text=True, check=False
        )
        named = done.stdout.strip() if done.returncode == 0 else ""
    return re.sub(r"//[^/@]*@", "//", named) or "its package index"
