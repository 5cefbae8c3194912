"""Whether weights can be fetched: asked once and briefly, for libraries ask again and again."""

from __future__ import annotations

import contextlib
import importlib
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HUB = "https://huggingface.co"
PATIENCE_S = 5.0


def why_unreachable(url: str, patience_s: float = PATIENCE_S) -> str | None:
    """Why nothing can be fetched from a host; None where it answers, whatever it says.

    Args:
        url: Something there; proxies of the environment are used.
        patience_s: Wait at most so long, for its name too.
    """
    found: list[str | None] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")  # of a library, https or what the user set
        try:
            with urllib.request.urlopen(request, timeout=patience_s):
                found.append(None)
        except urllib.error.HTTPError:
            found.append(None)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            found.append(getattr(reason, "strerror", None) or str(reason))

    thread = threading.Thread(target=ask, name="edgespa network", daemon=True)
    thread.start()
    thread.join(patience_s)
    return found[0] if found else f"no answer within {patience_s:.0f} s"


def host_of(url: str) -> str:
    """The host of an address, for messages."""
    return urlsplit(url).netloc or url


def hub() -> str:
    """Where timm and transformers fetch from."""
    return str(getattr(_constants(), "ENDPOINT", HUB))


@contextlib.contextmanager
def hub_as_it_is() -> Iterator[str | None]:
    """Let what takes from the hub take from this machine alone, where the hub cannot be reached.

    Yields:
        Why it cannot; None where it can.
    """
    constants = _constants()
    if constants is None or getattr(constants, "HF_HUB_OFFLINE", False):
        yield "HF_HUB_OFFLINE is set" if constants is not None else None
        return
    reason = why_unreachable(hub())
    if reason is None:
        yield None
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield f"{host_of(hub())} cannot be reached: {reason}"
    finally:
        constants.HF_HUB_OFFLINE = False


def require_fetchable(url: str, folder: Path) -> None:
    """Refuse a file that is neither in a folder nor to be had.

    Args:
        url: Of the file.
        folder: Where a library keeps what it has fetched.

    Raises:
        OSError: With the reason.
    """
    if not (folder / Path(urlsplit(url).path).name).is_file() and (reason := why_unreachable(url)) is not None:
        raise OSError(f"{host_of(url)} cannot be reached: {reason}")


def _constants() -> Any:
    """The settings of huggingface_hub, which it reads once; None where it is not installed."""
    try:
        return importlib.import_module("huggingface_hub.constants")
    except ImportError:
        return None
