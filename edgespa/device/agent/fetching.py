"""Files from a web server that may be anybody's: bounded in size and time, resumed after a cut.

What comes is not believed: the index is checked by its signature, each file by the digest that the index leads to.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator  # for annotations only: Python 3.8 cannot subscript them
from pathlib import Path
from typing import Any, NamedTuple

from edgespa.device.agent.cache import cache_path, partial_path, sha256_of
from edgespa.device.agent.disk import delete, is_full, make_folder, sync_path
from edgespa.device.agent.protocol import AgentError, named

MOST_REDIRECTS = 5
TRIES = 5  # without a new byte in between
_PIECE = 1 << 16
_SOON_S = 0.05  # after a cut before which something has come
_HTTP = ("http://", "https://")


class Patience(NamedTuple):
    """How long a server is waited for.

    Attributes:
        silence_s: Without a byte.
        slowest: Bytes a second, on average over twice that time.
        within_s: For all of a pull.
    """

    silence_s: float = 30.0
    slowest: float = 1000.0
    within_s: float = 3600.0


class _Moved(Exception):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


class Source:
    """A folder behind a URL.

    Args:
        url: Of the folder, http or https; a user and a password in it are sent to its own host alone.
        patience: How long it is waited for.

    Attributes:
        url: Without user and password.
        bytes_received: Of contents, so far.

    Raises:
        AgentError: It is no such URL.
    """

    def __init__(self, url: str, patience: Patience) -> None:
        from urllib.parse import unquote, urlsplit

        if not url.lower().startswith(_HTTP) or any(ord(each) < 33 or ord(each) > 126 for each in url):
            raise AgentError("url", f"{url!r} is no http:// or https:// URL")
        parts = urlsplit(url)
        if parts.query or parts.fragment or not parts.hostname:
            raise AgentError("url", f"{url!r} is not the URL of a folder")
        self._host = parts.netloc.rpartition("@")[2]
        self.url = f"{parts.scheme}://{self._host}{parts.path.rstrip('/')}"
        self.bytes_received = 0
        self._patience, self._end = patience, time.monotonic() + patience.within_s
        self._login = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._login = "Basic " + base64.b64encode(pair.encode()).decode()

    def small(self, name: str, most: int) -> bytes:
        """The content of a file that is kept in memory.

        Args:
            name: Below the folder.
            most: Bytes that it may have.
        """
        pieces: list[bytes] = []

        def take(response: Any, offset: int) -> None:
            del pieces[:]
            for piece in self._pieces(response, most, name):
                pieces.append(piece)

        self._tried(name, lambda: 0, take, lambda: None, {"Cache-Control": "no-cache"})
        return b"".join(pieces)

    def file(self, root: Path, name: str, entry: dict[str, Any]) -> None:
        """Have a file in the cache: what has come before a cut stays, and is gone on with.

        Args:
            root: Where edgespa keeps things.
            name: Of the file below the folder.
            entry: Its ``sha256`` and ``size_bytes``.
        """
        path, size = cache_path(root, entry["sha256"]), int(entry["size_bytes"])
        make_folder(path.parent)
        partial = partial_path(path)
        for other in (path, partial):
            if not other.is_file() or other.is_symlink():
                delete(other)
        for again in (True, False):  # what lay there of an earlier transfer may not be the beginning of the file
            with named(partial), partial.open("ab") as target:
                try:
                    fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise AgentError("busy", f"another edgespa fetches {path}") from error
                began = self._whole(name, target, size)
                os.fsync(target.fileno())
                if sha256_of(partial) == path.name:
                    os.chmod(str(partial), 0o444)
                    os.replace(str(partial), str(path))
                    sync_path(path.parent)
                    return
                partial.unlink()
            if not (again and began):
                break
        raise AgentError("damaged", f"{self.url}/{name}: what comes has another SHA-256")

    def _whole(self, name: str, target: Any, size: int) -> int:
        """Write what is missing; at which byte that was begun."""

        def offset() -> int:
            return os.fstat(target.fileno()).st_size

        def restart() -> None:
            os.truncate(target.fileno(), 0)

        if offset() > size:
            restart()
        began = offset()

        def take(response: Any, start: int) -> None:
            os.truncate(target.fileno(), start)
            for piece in self._pieces(response, size - start, name):
                view = memoryview(piece)
                while view:
                    view = view[os.write(target.fileno(), view) :]

        try:
            if began < size or not size:
                self._tried(name, offset, take, restart, {}, size)
        except OSError as error:
            if is_full(error):
                restart()  # let the disk have its space back
            raise
        return began

    def _tried(
        self,
        name: str,
        offset: Callable[[], int],
        take: Callable[[Any, int], None],
        restart: Callable[[], None],
        headers: dict[str, str],
        size: int | None = None,
    ) -> None:
        """Ask for a file until it is whole; after a cut for the rest, as long as something comes."""
        from http.client import HTTPException
        from urllib.error import HTTPError, URLError

        left, most = TRIES, offset()
        while True:
            before = offset()
            try:
                with self._limited():
                    self._once(name, before, take, headers)
                if size is None or offset() == size:
                    return
                why = f"the connection was cut after {offset():,} of {size:,} bytes"
            except HTTPError as error:
                self._refused(name, error, before)
                why = f"HTTP status {error.code}"
                if error.code == 416:  # it is shorter than what is there: that is none of it
                    restart()
            except (HTTPException, URLError, ConnectionError, EOFError) as error:
                why = self._reason(error)
            except OSError as error:
                if error.filename is not None or is_full(error):
                    raise
                why = self._reason(error)
            left = TRIES if offset() > most else left - 1
            most = max(most, offset())
            wait_s = _SOON_S if left == TRIES else 2.0 ** (TRIES - 1 - left)
            if left <= 0 or time.monotonic() + wait_s > self._end:
                raise AgentError("unreachable", f"{self.url}/{name}: {why}")
            time.sleep(min(wait_s, self._patience.silence_s))

    def _once(self, name: str, offset: int, take: Callable[[Any, int], None], headers: dict[str, str]) -> None:
        url, asked = f"{self.url}/{name}", {"Accept-Encoding": "identity", "User-Agent": "edgespa-agent", **headers}
        if offset:
            asked["Range"] = f"bytes={offset}-"
        for _ in range(MOST_REDIRECTS + 1):
            try:
                with contextlib.closing(self._open(url, asked)) as response:
                    if response.headers.get("Content-Encoding", "identity") != "identity":
                        raise AgentError("odd", f"{url}: it comes in another coding than it was asked for in")
                    take(response, _first_byte(response, offset, url))
                    return
            except _Moved as moved:
                url = moved.url
        raise AgentError("redirect", f"{self.url}/{name}: it leads on more than {MOST_REDIRECTS} times")

    def _open(self, url: str, headers: dict[str, str]) -> Any:
        from urllib import request
        from urllib.parse import urlsplit

        class Moves(request.BaseHandler):
            """Takes note of where a redirect leads; its body is not read, which might have no end."""

            def http_error_301(self, req: Any, fp: Any, code: int, message: str, found: Any) -> Any:
                fp.close()
                raise _Moved(_led(req.full_url, str(found.get("Location", ""))))

            http_error_302 = http_error_303 = http_error_307 = http_error_308 = http_error_301

        director = request.OpenerDirector()
        for handler in (
            request.ProxyHandler(),
            request.HTTPHandler(),
            request.HTTPSHandler(),
            request.HTTPErrorProcessor(),
            request.HTTPDefaultErrorHandler(),
            Moves(),
        ):
            director.add_handler(handler)
        if self._login is not None and urlsplit(url).netloc == self._host:
            headers = {**headers, "Authorization": self._login}
        return director.open(request.Request(url, headers=headers), timeout=self._patience.silence_s)

    def _pieces(self, response: Any, most: int, name: str) -> Iterator[bytes]:
        """What comes, as it comes: no more bytes than that, and not slower than is waited for."""
        length = response.headers.get("Content-Length")
        if length is not None and length.isdigit() and int(length) > most:
            raise AgentError("odd", f"{self.url}/{name}: {int(length):,} bytes are to come, and it may have {most:,}")
        self._at_most(2 * self._patience.silence_s)
        total = recent = 0
        while True:
            piece = response.read1(_PIECE)
            if not piece:
                return
            total += len(piece)
            recent += len(piece)
            self.bytes_received += len(piece)
            if total > most:
                raise AgentError("odd", f"{self.url}/{name}: more than {most:,} bytes come")
            yield piece
            if recent >= 2 * self._patience.silence_s * self._patience.slowest:
                recent = 0
                self._at_most(2 * self._patience.silence_s)

    @contextlib.contextmanager
    def _limited(self) -> Iterator[None]:
        """Bound the time of all that a server can draw out: names, handshakes, headers, bodies."""
        if threading.current_thread() is not threading.main_thread():  # signals are for the main one
            yield
            return

        def end(number: int, frame: Any) -> None:
            raise AgentError("slow", f"{self.url}: the server is too slow")

        before = signal.signal(signal.SIGALRM, end)
        try:
            self._at_most(2 * self._patience.silence_s)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _at_most(self, seconds: float) -> None:
        """From now on: after that time, or at the end of the whole, it is given up."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise AgentError("slow", f"{self.url}: not all has come within {self._patience.within_s:.0f} s")
        if threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, min(seconds, left), 1.0)  # again, should it go under

    def _refused(self, name: str, error: Any, offset: int) -> None:
        """Raise if asking again makes no sense."""
        error.close()
        if error.code < 500 and error.code not in (408, 425, 429) and not (error.code == 416 and offset):
            kind = {401: "forbidden", 403: "forbidden", 404: "missing", 410: "missing"}.get(error.code, "unreachable")
            raise AgentError(kind, f"{self.url}/{name}: HTTP status {error.code}")

    def _reason(self, error: BaseException) -> str:
        text = str(getattr(error, "reason", None) or error) or type(error).__name__
        if "CERTIFICATE" in text:
            text += " (is the clock right? SSL_CERT_FILE names other authorities)"
        return " ".join(text.split())[:200]


def _led(url: str, to: str) -> str:
    """Where a redirect leads.

    Raises:
        AgentError: Not to http or https, or from the one that is protected to the other.
    """
    from urllib.parse import urljoin

    if any(ord(each) < 33 or ord(each) > 126 for each in to):
        raise AgentError("redirect", f"{url}: it leads to {to[:200]!r}")
    target = urljoin(url, to)
    allowed = ("https://",) if url.lower().startswith("https://") else _HTTP
    if not to or not target.lower().startswith(allowed):
        raise AgentError("redirect", f"{url}: it leads to {target[:200]!r}, which is not followed")
    return target


def _first_byte(response: Any, offset: int, url: str) -> int:
    """At which byte of the file the content begins."""
    if response.status == 206:
        if response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            return offset
        raise AgentError("odd", f"{url}: another part comes than was asked for")
    if response.status != 200:
        raise AgentError("odd", f"{url}: HTTP status {response.status}")
    return 0
