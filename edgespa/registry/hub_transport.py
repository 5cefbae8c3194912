"""Asking a hub: with the client library's addresses, token and errors, and with limits that it does not have.

The library (huggingface_hub) writes what it fetches to paths that the answer names (its ETag and commit), before
anybody has looked at it, and takes as much as comes. So files are fetched here: piece by piece to whoever checks them,
each step of a redirect looked at, the token for the hub's own address alone.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from edgespa import __version__
from edgespa.errors import MissingExtraError, RegistryError
from edgespa.registry.hub_limits import HubBrokenOffError
from edgespa.registry.references import HubReference
from edgespa.system.bounds import shown

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TIMEOUT_S = 60.0
_MOST_REDIRECTS = 5
_MOST_COMPLAINT = 1 << 20
_PIECE = 1 << 18
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may; is the name right?"


def hub_api() -> HfApi:
    """The library's client, at the address in HF_ENDPOINT.

    Raises:
        MissingExtraError: The library is not installed, or too old.
    """
    try:
        import huggingface_hub
        from huggingface_hub import HfApi
    except ImportError:
        raise MissingExtraError("huggingface_hub", "models") from None
    if int(huggingface_hub.__version__.partition(".")[0]) < 1:
        raise RegistryError(
            f"huggingface_hub {huggingface_hub.__version__} is too old: 1.0 is needed",
            "run: pip install --upgrade huggingface_hub",
        )
    return HfApi(library_name="edgespa", library_version=__version__)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No bars and remarks of the library's: what there is to say is said here."""
    import logging
    import warnings

    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    log, before = logging.getLogger("huggingface_hub"), are_progress_bars_disabled()
    level = log.level
    disable_progress_bars()
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it calls is old, which is not the user's to mend
            yield
    finally:
        log.setLevel(level)
        if not before:
            enable_progress_bars()


@contextlib.contextmanager
def told_of(reference: HubReference) -> Iterator[None]:
    """What the library raises, in words that say what to do."""
    try:
        yield
    except (RegistryError, KeyboardInterrupt):
        raise
    except Exception as error:
        # What went wrong in one of its threads has another error around it.
        found = _in_words(reference, error) or (error.__cause__ and _in_words(reference, error.__cause__))
        if found:
            raise found from error
        if not isinstance(error, OSError | ValueError | RuntimeError) or (isinstance(error, OSError) and error.errno):
            raise
        raise RegistryError(f"{reference}: {shown(str(error), 300)[1:-1]}", "try again") from error


def _in_words(reference: HubReference, error: BaseException) -> RegistryError | None:
    from huggingface_hub import errors

    if isinstance(error, RegistryError):
        return error
    if isinstance(error, errors.OfflineModeIsEnabled):
        return RegistryError(f"{reference}: HF_HUB_OFFLINE says not to ask the hub", "unset it to go there")
    if isinstance(error, errors.GatedRepoError):
        return RegistryError(f"{reference} is gated: its owners have to let you in", "ask for it on its page")
    if isinstance(error, errors.RevisionNotFoundError):
        return RegistryError(f"{reference}: there is no such revision", "name a branch, a tag or a commit")
    if isinstance(error, errors.RepositoryNotFoundError):
        return RegistryError(f"{reference}: there is no such repository, or it is not yours to see", _LOGIN)
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(reference, error.response.status_code, str(error.server_message or ""))
    if isinstance(error, _http_errors()):
        return HubBrokenOffError(
            f"{reference}: the hub cannot be reached, or broke off ({type(error).__name__})",
            "check the network, and HF_ENDPOINT if you have set it",
        )
    return None


def _refused(reference: HubReference, status: int, words: str) -> RegistryError:
    from huggingface_hub import get_token

    plain = " ".join(words.replace(get_token() or "\n", "...").split())  # an answer may say back what it was asked with
    said = f": {shown(plain, 200)[1:-1]}" if plain else ""
    hint = _LOGIN if status in (401, 403) else "try again; if it stays so, look at the hub's status page"
    return RegistryError(f"{reference}: the hub answers HTTP {status}{said}", hint)


def _http_errors() -> tuple[type[Exception], ...]:
    """Those of the library below the library, which was httpx and is httpx2."""
    loaded = [sys.modules[name] for name in ("httpx2", "httpx") if name in sys.modules]
    return tuple(error for each in loaded for error in (each.HTTPError, each.InvalidURL))


def fetch_file(
    reference: HubReference, commit: str, path: str, write: Callable[[bytes], object], *, begin: int = 0
) -> None:
    """Fetch a file, or the rest of it.

    Args:
        reference: Of the repository.
        commit: It is read at.
        path: Of the file.
        write: Takes each piece, and raises at one too many.
        begin: So many bytes are there already.

    Raises:
        RegistryError: The hub refuses, leads to a place without TLS, or answers with another part.
        HubBrokenOffError: The connection ended too early.
    """
    from huggingface_hub import hf_hub_url

    with told_of(reference), quiet():
        url = hf_hub_url(reference.name, path, revision=commit)
        with contextlib.ExitStack() as stack:
            answer = _follow(stack, reference, url, begin)
            if answer.status_code not in (200, 206):
                raise _complained(reference, answer)
            skip = begin if answer.status_code == 200 else 0
            if answer.status_code == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
                raise RegistryError(f"{reference}: the hub answers with another part than asked", "try again")
            for piece in answer.iter_raw(_PIECE):
                dropped = min(skip, len(piece))
                skip -= dropped
                if piece[dropped:]:
                    write(piece[dropped:])


def _follow(stack: contextlib.ExitStack, reference: HubReference, url: str, begin: int) -> Any:
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # exported lazily

    own = urlsplit(url)
    hidden = build_hf_headers(library_name="edgespa", library_version=__version__)
    for _ in range(_MOST_REDIRECTS + 1):
        there = urlsplit(url)
        at_home = (there.scheme, there.netloc) == (own.scheme, own.netloc)
        if not at_home and there.scheme != "https":
            host = shown(there.netloc, 100)[1:-1]
            raise RegistryError(f"{reference}: the hub names a place without TLS: {host}", "it is not gone to")
        headers = {name: value for name, value in hidden.items() if at_home or name.lower() != "authorization"}
        headers |= {"Accept-Encoding": "identity", **({"Range": f"bytes={begin}-"} if begin else {})}
        answer = stack.enter_context(
            get_session().stream("GET", url, headers=headers, follow_redirects=False, timeout=TIMEOUT_S)
        )
        target = answer.headers.get("Location")
        if answer.status_code not in (301, 302, 303, 307, 308) or not target:
            return answer
        url = urljoin(url, target)
    raise RegistryError(f"{reference}: the hub sends from one place to the next without an end", "try again later")


def _complained(reference: HubReference, answer: Any) -> RegistryError:
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # exported lazily

    size = answer.headers.get("Content-Length", "")
    if size.isdecimal() and int(size) <= _MOST_COMPLAINT:
        hf_raise_for_status(answer)
    return _refused(reference, answer.status_code, "")
