"""Limits of time and size for what the hub's client library asks: it has none of its own.

It waits for an answer without an end, takes one of any size into memory, sleeps as long as a hub says, and begins a
call that nobody answers five times again.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from edgespa.errors import RegistryError
from edgespa.system.bounds import shown

SILENCE_S = 120.0
"""Between two signs of life; what a hub does with a large commit takes it that long at the most."""
_WHOLE_S = 600.0
_MAX_ANSWER = 16 << 20
"""Of what it tells, such as all files of a repository; files are fetched in another way."""
_MOST_SLEEP_S = 60.0
_AGAIN = "type the same again: what a push has sent already is not sent twice"
_LOCK = threading.Lock()


class HubBrokenOffError(RegistryError):
    """The connection ended too early: the rest may be asked for again."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """While this lasts, calls of the library end: in an answer of a bounded size, or in an error.

    Raises:
        HubBrokenOffError: Nothing has come for too long, or nothing answers there.
        RegistryError: The answer is too large, packed, or says to wait for long.
    """
    from huggingface_hub import get_session

    session = get_session()
    with _LOCK:
        found = vars(session).get("send")
        bounded = found if isinstance(found, _Bounded) else _Bounded(session.send)
        vars(session)["send"] = bounded
        bounded.users += 1
    try:
        yield
    finally:
        with _LOCK:
            bounded.users -= 1
            if not bounded.users and vars(session).get("send") is bounded:
                bounded.restore(session)


class _Bounded:
    """Stands before the ``send`` of a client, through which all of its requests go, of all threads."""

    def __init__(self, send: Callable[..., Any]) -> None:
        self.users = 0
        self._send = send

    def restore(self, session: Any) -> None:
        """Put back what was there."""
        if getattr(self._send, "__func__", None) is type(session).send:
            del vars(session)["send"]
        else:
            vars(session)["send"] = self._send

    def __call__(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        """Send a request, as ``httpx.Client.send`` does."""
        library: Any = sys.modules[type(request).__module__.partition(".")[0]]  # httpx, or httpx2
        host = shown(request.url.host, 100)[1:-1]
        waits = dict.fromkeys(("connect", "read", "write", "pool"), SILENCE_S)
        request.extensions = {**request.extensions, "timeout": waits}
        request.headers["Accept-Encoding"] = "identity"  # what is packed may be anything when it is unpacked
        began = time.monotonic()
        try:
            answer = self._send(request, stream=True, **options)
            if stream:
                return answer
            with contextlib.closing(answer):
                return _whole(answer, host, began)
        except library.TimeoutException as error:
            raise _silent(host, SILENCE_S) from error
        except library.ConnectError as error:  # after which the library would go on without limits
            raise HubBrokenOffError(
                f"{host}: the hub cannot be reached, or broke off ({type(error).__name__})",
                f"check the network, and HF_ENDPOINT if you have set it; then {_AGAIN}",
            ) from error


def _silent(host: str, seconds: float) -> HubBrokenOffError:
    return HubBrokenOffError(
        f"{host}: the hub has not answered in {seconds:g} s",
        f"check the network, and HF_ENDPOINT if you have set it; then {_AGAIN}",
    )


def _whole(answer: Any, host: str, began: float) -> Any:
    """The same answer, with its body."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise RegistryError(f"{host}: the hub packs its answer, and was asked not to", "is HF_ENDPOINT a hub?")
    wait = answer.headers.get("Retry-After", "").strip()
    if wait.isdecimal() and (len(wait) > 9 or int(wait) > _MOST_SLEEP_S):
        raise RegistryError(f"{host}: the hub says to wait {shown(wait, 20)[1:-1]} s", f"wait, and {_AGAIN}")
    content = bytearray()
    for piece in answer.iter_raw():
        content += piece
        if len(content) > _MAX_ANSWER:
            raise RegistryError(
                f"{host}: the hub answers with more than {_MAX_ANSWER:,} bytes",
                "name a repository with fewer files, or one of its own for this; is HF_ENDPOINT a hub?",
            )
        if time.monotonic() - began > _WHOLE_S:
            raise _silent(host, _WHOLE_S)
    # Of its two ways to say how long to sleep, one is enough.
    headers = [(name, value) for name, value in answer.headers.multi_items() if name.lower() != "ratelimit"]
    whole = type(answer)(answer.status_code, headers=headers, content=bytes(content), request=answer.request)
    whole.history = answer.history
    return whole
