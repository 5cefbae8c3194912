"""Requests to a registry: bounded in time and size, over TLS, with the credentials that docker and oras keep.

oras (the Python client) finds and reads ``config.json`` and asks credential helpers; the requests themselves are made
here, because its own have no limits: they wait for ever, read a blob as a whole into memory, and take two minutes to
say that nothing answers.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from edgespa import __version__
from edgespa.errors import MissingExtraError, RegistryError
from edgespa.system.bounds import shown

if TYPE_CHECKING:
    import requests

    from edgespa.registry.references import RegistryReference

_CONNECT_S, _READ_S, _WHOLE_S = 10.0, 60.0, 600.0
_MAX_ANSWER = 4 << 20
_DROP = 64  # bytes; the library waits until so many came, and each may take as long as _READ_S
_DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
_DOCKER_API, _DOCKER_KEY = "registry-1.docker.io", "https://index.docker.io/v1/"
Body = Callable[[], BinaryIO]


class BrokenOffError(RegistryError):
    """The connection ended too early: the same may be asked for again."""


class SilentError(BrokenOffError):
    """Nothing came for too long; what waits for it once more would wait as long."""


class TooLargeError(RegistryError):
    """What a registry tells is more than is taken."""


def require_oras() -> None:
    """Say that the client library is not there.

    Raises:
        MissingExtraError: It names the extra.
    """
    import importlib.util

    if importlib.util.find_spec("oras") is None:
        raise MissingExtraError("oras", "oci")


class Transport:
    """Makes requests to one registry.

    Args:
        reference: Of it.
        plain_http: Speak HTTP without TLS; with this machine itself that is done anyway.

    Attributes:
        requests: So many were made.
        sent_bytes: In their bodies.
    """

    def __init__(self, reference: RegistryReference, *, plain_http: bool = False) -> None:
        require_oras()
        import requests

        self.host = _DOCKER_API if reference.host in _DOCKER_HUB else reference.host
        self.shown_host = reference.host
        self.scheme = "http" if plain_http or reference.is_loopback else "https"
        self.requests = self.sent_bytes = 0
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"edgespa/{__version__}"
        self._session.max_redirects = 5
        self._session.auth = _keep  # what ~/.netrc has for the host must not replace what docker keeps
        bounded, refused = _adapters(self)
        self._session.mount("https://", bounded)
        self._session.mount("http://", refused)
        if self.scheme == "http":
            self._session.mount(f"http://{self.host}/", bounded)
        self._basic = _credentials(reference)
        self._header: str | None = None

    @property
    def is_logged_in(self) -> bool:
        """Whether there are credentials for the registry."""
        return self._basic is not None

    def url(self, path: str) -> str:
        """Of a path of the registry's API; or of a place that the registry has named."""
        return urljoin(f"{self.scheme}://{self.host}/v2/", path)

    @contextlib.contextmanager
    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        size: int = 0,
    ) -> Iterator[requests.Response]:
        """Make a request, with credentials where they are asked for.

        Args:
            method: ``GET``, ``HEAD``, ``POST``, ``PUT``.
            path: Below ``/v2/``, or a whole address that the registry has named.
            headers: More of them.
            body: Opens what is sent.
            size: Of it, in bytes.

        Yields:
            The answer, whose body has not been read.

        Raises:
            RegistryError: Nothing answers, or not as a registry does.
        """
        url = self.url(path)
        own = urlsplit(url).netloc == self.host
        with contextlib.ExitStack() as stack:
            answer = stack.enter_context(self._once(method, url, headers or {}, body, size, own))
            if answer.status_code == 401 and own and self._authorise(answer):
                stack.close()
                answer = stack.enter_context(self._once(method, url, headers or {}, body, size, own))
            yield answer

    @contextlib.contextmanager
    def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None, size: int, own: bool
    ) -> Iterator[requests.Response]:
        import requests

        sent = dict(headers)
        if own and self._header is not None:
            sent["Authorization"] = self._header
        self.requests += 1
        try:
            with contextlib.ExitStack() as stack:
                data = stack.enter_context(body()) if body is not None else None
                if data is not None or method in ("POST", "PUT"):
                    sent["Content-Length"] = str(size)
                answer = self._session.request(method, url, headers=sent, data=data if size else None, stream=True)
                self.sent_bytes += size
                with answer:
                    yield answer
        except requests.RequestException as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> RegistryError:
        import requests

        inner: BaseException | None = error
        while inner is not None:
            if isinstance(inner, RegistryError):
                return inner
            inner = inner.__cause__ or inner.__context__
        said = str(error)
        if isinstance(error, requests.exceptions.SSLError):
            if "WRONG_VERSION_NUMBER" in said or "wrong version" in said.lower() or "record layer" in said.lower():
                return RegistryError(
                    f"{self.shown_host} speaks HTTP without TLS", "pass --plain-http if you know that network"
                )
            return RegistryError(
                f"{self.shown_host}: its certificate is not accepted{_reason(said)}",
                "name its authority in REQUESTS_CA_BUNDLE, if you know it",
            )
        if isinstance(error, requests.Timeout):
            return SilentError(f"{self.shown_host} does not answer in time", _AGAIN)
        if isinstance(error, requests.TooManyRedirects):
            return RegistryError(f"{self.shown_host} sends from one place to the next without an end", _ADDRESS)
        if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
            return BrokenOffError(f"{self.shown_host} cannot be reached, or broke off{_reason(said)}", _ADDRESS)
        return RegistryError(f"{self.shown_host}: {shown(said, 200)}", _ADDRESS)

    def _authorise(self, answer: requests.Response) -> bool:
        """Find what to say to a registry that asks who this is; whether there is something new."""
        import oras.auth.utils

        asked = answer.headers.get("WWW-Authenticate", "")
        before = self._header
        if asked.lower().startswith("basic"):
            self._header = f"Basic {self._basic}" if self._basic is not None else None
        elif asked.lower().startswith("bearer"):
            found = oras.auth.utils.parse_auth_header(asked)
            self._header = self._token(found.realm, {"service": found.service, "scope": found.scope})
        return self._header is not None and self._header != before

    def _token(self, realm: str | None, asked: Mapping[str, str | None]) -> str | None:
        """What a registry's token service gives for the credentials, or for none: distribution's spec/auth/token.md."""
        from urllib.parse import urlencode

        if realm is None or not realm.startswith(("https://", "http://")):
            return None
        headers = {"Authorization": f"Basic {self._basic}"} if self._basic is not None else {}
        query = urlencode({key: value for key, value in asked.items() if value})
        self.requests += 1
        import requests

        try:
            with self._session.get(f"{realm}?{query}", headers=headers, stream=True) as answer:
                if answer.status_code != 200:
                    return None
                values = document(answer, self.shown_host)
        except requests.RequestException as error:
            raise self._failed(error) from error
        token = values.get("token") or values.get("access_token")
        return f"Bearer {token}" if isinstance(token, str) and token.isprintable() else None

    def refused(self, answer: requests.Response, what: str) -> RegistryError:
        """What an answer that is none of those expected means.

        Args:
            answer: It.
            what: Was asked, as "the manifest of NAME".
        """
        status = answer.status_code
        said = self._complaint(answer)
        if status in (401, 403):
            who = "your credentials do not allow it" if self.is_logged_in else "it asks who you are"
            return RegistryError(
                f"{self.shown_host} refuses {what}: {who}{said} (HTTP {status})",
                f"log in with: docker login {self.shown_host} (or oras login); what they keep is read here too",
            )
        if status == 404:
            return RegistryError(f"{self.shown_host} has no {what}{said}", "check the name, with: edgespa pull --help")
        if status == 429:
            return RegistryError(f"{self.shown_host} has had too many requests{said}", "wait a while, and try again")
        return RegistryError(
            f"{self.shown_host} answers HTTP {status} to {what}{said}",
            "try again; if it stays so, ask who runs it" if status >= 500 else _ADDRESS,
        )

    def _complaint(self, answer: requests.Response) -> str:
        """What a registry says of an error, in words that can be shown; what it was asked with is none of them."""
        with contextlib.suppress(RegistryError, AttributeError, TypeError, KeyError, IndexError):
            first = document(answer, "it")["errors"][0]
            words = " ".join(str(first.get("message") or first.get("code") or "").split())
            for secret in self._secrets():
                words = words.replace(secret, "...")
            return f": {shown(words, 160)[1:-1]}" if words else ""
        return ""

    def _secrets(self) -> Iterator[str]:
        import base64
        import binascii

        if self._header is not None:
            yield self._header.partition(" ")[2]
        if self._basic is not None:
            yield self._basic
            with contextlib.suppress(binascii.Error, UnicodeDecodeError):
                password = base64.b64decode(self._basic).decode().partition(":")[2]
                yield from (password,) if password else ()


_AGAIN = "check the network, and type the same again: what a push has sent already is not sent twice"
_ADDRESS = "check the address; is it a registry that speaks the OCI distribution API?"


def bounded(answer: requests.Response, most: int, where: str) -> bytes:
    """The body of an answer, which may not be larger, nor come in drops.

    Raises:
        TooLargeError: It is.
        SilentError: It does.
    """
    content, began = bytearray(), time.monotonic()
    for piece in answer.iter_content(_DROP):
        content += piece
        if len(content) > most:
            raise TooLargeError(f"{where} answers with more than {most:,} bytes", "do not use it")
        if time.monotonic() - began > _WHOLE_S:
            raise SilentError(f"{where} has not answered in {_WHOLE_S:g} s", _AGAIN)
    return bytes(content)


def document(answer: requests.Response, where: str) -> dict[str, Any]:
    """The JSON object of an answer.

    Raises:
        RegistryError: It is none.
    """
    import json

    try:
        values = json.loads(bounded(answer, _MAX_ANSWER, where))
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"{where} does not answer in JSON, as a registry does", _ADDRESS) from error
    return values if isinstance(values, dict) else {}


def _reason(said: str) -> str:
    found = re.search(r"\[Errno -?\d+\] ([\w ,.'-]+)|(certificate verify failed[\w :,.'-]*)", said)
    return f": {(found.group(1) or found.group(2)).strip()}" if found else ""


def _keep(request: Any) -> Any:
    return request


def _adapters(transport: Transport) -> tuple[Any, Any]:
    """One with limits of time; and one that refuses, for addresses without TLS, wherever they came from."""
    from requests.adapters import HTTPAdapter

    class Bounded(HTTPAdapter):
        def send(self, request: Any, *args: Any, **options: Any) -> Any:
            options["timeout"] = (_CONNECT_S, _READ_S)
            return super().send(request, *args, **options)

    class Refused(HTTPAdapter):
        def send(self, request: Any, *args: Any, **options: Any) -> Any:
            host = shown(urlsplit(request.url).netloc, 100)[1:-1]
            raise RegistryError(
                f"{transport.shown_host} names a place without TLS: {host}", "it is not gone to: ask who runs it"
            )

    return Bounded(), Refused()


def _credentials(reference: RegistryReference) -> str | None:
    """User and password for a registry, as a Basic header has them, from where docker, podman and oras keep them.

    Raises:
        RegistryError: The file is there and cannot be read.
    """
    import logging

    import oras.auth
    import oras.container
    from oras.logger import logger

    logger.set_level(logging.CRITICAL)  # what it has to say is said here, in our words
    backend = oras.auth.get_auth_backend("token")
    key = _DOCKER_KEY if reference.host in _DOCKER_HUB else reference.host
    container = oras.container.Container(f"{reference.host}/{reference.name}")
    container.registry = key
    named = os.environ.get("DOCKER_CONFIG")
    files = [os.path.join(named, "config.json")] if named else []
    try:
        backend.load_configs(container, configs=[each for each in files if os.path.isfile(each)])
    except Exception as error:  # a helper is a program, and a file may hold anything
        raise RegistryError(
            f"the credentials for {reference.host} cannot be read: {type(error).__name__}",
            "check config.json in ~/.docker, or in the folder of DOCKER_CONFIG",
        ) from error
    found = getattr(backend, "_basic_auth", None)
    return found if isinstance(found, str) and found.isascii() and found.isprintable() else None
