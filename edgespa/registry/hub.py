"""Push to and pull from the Hugging Face hub, by its own client library and with the token that it keeps.

A repository holds one bundle, its files where the bundle has them, or one task file. Only ``README.md`` is not the
bundle's: what the hub shows is the card with all that was measured since, and the sealed one lies beside it as
``README.bundle.md``. What else lies in a repository is not looked at.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa import __version__
from edgespa.bundle.files import sha256_file
from edgespa.bundle.manifest import MANIFEST, MAX_FILES, SIGNATURE, FileEntry, Manifest
from edgespa.errors import MissingExtraError, RegistryError
from edgespa.registry.artifact import TASK_SUFFIX
from edgespa.registry.fetching import MAX_TASK_BYTES, Checked
from edgespa.registry.references import HubReference
from edgespa.system.bounds import shown

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD, SEALED_CARD = "README.md", "README.bundle.md"
_MOST_LISTED = 10 * MAX_FILES
_PIECE = 1 << 20
_BAD = "do not use it: it was damaged or exchanged where it lies; ask who pushed it"


@dataclass(frozen=True)
class Committed:
    """What a push did.

    Attributes:
        commit: The commit that holds it now.
        url: Its page.
        created: The repository was made for it.
        private: It is not shown to everybody; None where the hub does not say.
    """

    commit: str
    url: str
    created: bool
    private: bool | None


def push_files(
    files: Mapping[str, Path | bytes], reference: HubReference, *, name: str, public: bool = False
) -> Committed:
    """Put files into a repository in one commit; what the hub holds already is not sent.

    Args:
        files: By their paths there: all of a bundle, or a task file with what belongs to it.
        reference: The repository, and the branch, which is made if it is not there.
        name: Of what is pushed, for the history.
        public: A repository that is made for it is shown to everybody.

    Raises:
        RegistryError: The hub cannot be reached, refuses, or the repository holds something of another kind.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    api = _api()
    with _told(reference), _quiet():
        if get_token() is None:
            raise RegistryError(
                f"{reference} cannot be pushed to: nobody is logged in to the hub",
                "log in with `hf auth login`, or set HF_TOKEN to a token that may write",
            )
        created = False
        try:
            info = api.repo_info(reference.name)
        except RepositoryNotFoundError:
            api.create_repo(reference.name, private=not public, exist_ok=True)
            created, info = True, api.repo_info(reference.name)
        if reference.revision is not None:
            api.create_branch(reference.name, branch=reference.revision, exist_ok=True)
            info = api.repo_info(reference.name, revision=reference.revision)
        there = {each.rfilename for each in info.siblings or ()}
        _refuse_mixture(reference, set(files), there)
        operations: list[Any] = [CommitOperationAdd(path, content) for path, content in sorted(files.items())]
        # Of a bundle that was there: a signature or a card that does not belong to this one.
        operations += [CommitOperationDelete(each) for each in (SIGNATURE, SEALED_CARD) if each in there - set(files)]
        found = api.create_commit(
            reference.name, operations, commit_message=f"edgespa push: {name}"[:200], revision=reference.revision
        )
    private = None if info.private is None else bool(info.private)
    return Committed(found.oid, f"{api.endpoint}/{reference.name}", created, private)


def _refuse_mixture(reference: HubReference, files: set[str], there: set[str]) -> None:
    tasks = {each for each in there if each.endswith(TASK_SUFFIX) and "/" not in each}
    if MANIFEST in files and tasks:
        what = f"the task file {min(tasks)}"
    elif MANIFEST not in files and MANIFEST in there:
        what = "a bundle"
    elif MANIFEST not in files and tasks - files:
        what = f"another task file, {min(tasks - files)}"
    else:
        return
    raise RegistryError(
        f"{reference} holds {what}, and one repository or branch holds one of them",
        "push to a repository, or a branch (@NAME), of its own",
    )


def _api() -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise MissingExtraError("huggingface_hub", "models") from None
    return HfApi(library_name="edgespa", library_version=__version__)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars and remarks of the library's: what there is to say is said here."""
    import logging

    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    log, before = logging.getLogger("huggingface_hub"), are_progress_bars_disabled()
    level = log.level
    disable_progress_bars()
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
        if not before:
            enable_progress_bars()


@contextlib.contextmanager
def _told(reference: HubReference) -> Iterator[None]:
    """What the library raises, in words that say what to do."""
    import httpx2
    from huggingface_hub import errors

    login = "log in with `hf auth login`, or set HF_TOKEN to a token that may; is the name right?"
    try:
        yield
    except (RegistryError, KeyboardInterrupt):
        raise
    except errors.OfflineModeIsEnabled as error:
        raise RegistryError(f"{reference}: HF_HUB_OFFLINE says not to ask the hub", "unset it to go there") from error
    except errors.GatedRepoError as error:
        raise RegistryError(f"{reference} is gated: its owners have to let you in", "ask for it on its page") from error
    except errors.RevisionNotFoundError as error:
        raise RegistryError(f"{reference}: there is no such revision", "name a branch, a tag or a commit") from error
    except errors.RepositoryNotFoundError as error:
        raise RegistryError(f"{reference}: there is no such repository, or it is not yours to see", login) from error
    except errors.LocalEntryNotFoundError as error:
        raise RegistryError(
            f"{reference} cannot be fetched, and not all of it is in the cache", "check the network, and try again"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        said = f": {shown(str(error.server_message), 200)[1:-1]}" if error.server_message else ""
        hint = login if status in (401, 403) else "try again; if it stays so, look at the hub's status page"
        raise RegistryError(f"{reference}: the hub answers HTTP {status}{said}", hint) from error
    except httpx2.HTTPError as error:
        raise RegistryError(
            f"{reference}: the hub cannot be reached, or broke off ({type(error).__name__})",
            "check the network, and HF_ENDPOINT if you have set it",
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise RegistryError(f"{reference}: {shown(str(error), 300)[1:-1]}", "try again") from error


class HubSource:
    """A repository on the hub at one commit, to be fetched: `edgespa.registry.fetching.Source`.

    Files go through the library's cache, so that one which is there is not fetched again; with HF_HUB_OFFLINE all
    comes from there.

    Args:
        reference: Of it.

    Attributes:
        commit: It is read at.

    Raises:
        RegistryError: The hub cannot be reached, or it is not there.
    """

    def __init__(self, reference: HubReference) -> None:
        self.reference, self.where = reference, str(reference)
        self._sha256: dict[str, str] = {}
        api = _api()
        from huggingface_hub import constants

        with _told(reference), _quiet():
            if constants.HF_HUB_OFFLINE:
                self.commit, self._sizes = self._cached()
                return
            info = api.repo_info(reference.name, revision=reference.revision, files_metadata=True)
            self.commit = info.sha or reference.revision or "main"
            siblings = info.siblings or []
        if len(siblings) > _MOST_LISTED:
            raise RegistryError(f"{self.where} holds {len(siblings):,} files, more than {_MOST_LISTED:,}", _BAD)
        self._sizes = {each.rfilename: each.size for each in siblings}
        self._sha256 = {each.rfilename: each.lfs.sha256 for each in siblings if each.lfs is not None}

    def _cached(self) -> tuple[str, dict[str, int | None]]:
        """What lies in the library's cache, of the commit that was last seen there."""
        from huggingface_hub import try_to_load_from_cache

        for name in (MANIFEST, CARD):
            found = try_to_load_from_cache(self.reference.name, name, revision=self.reference.revision)
            if isinstance(found, str):
                folder = Path(found).parent
                files = [each for each in folder.rglob("*") if each.is_file()]
                sizes = {each.relative_to(folder).as_posix(): each.stat().st_size for each in files}
                return folder.name, dict(sizes)
        raise RegistryError(
            f"{self.where} is not in the cache, and HF_HUB_OFFLINE says not to ask the hub", "unset it to fetch it"
        )

    def paths(self) -> Iterable[str]:
        """Of its files."""
        return self._sizes

    def _place(self, path: str) -> str:
        return SEALED_CARD if path == CARD and SEALED_CARD in self._sizes else path

    def small(self, path: str, most: int) -> bytes:
        """A file as a whole; see `edgespa.registry.fetching.Source`."""
        size = self._sizes.get(path)
        if path not in self._sizes:
            raise RegistryError(f"{self.where} has no {path}", "name a repository that `edgespa push` has written")
        if size is not None and size > most:
            raise RegistryError(f"{self.where}: its {path} would have {size:,} bytes, more than {most:,}", _BAD)
        with self._fetched(path, most).open("rb") as stream:
            content = stream.read(most + 1)
        if len(content) > most:
            raise RegistryError(f"{self.where}: its {path} has more than {most:,} bytes", _BAD)
        return content

    def require(self, manifest: Manifest) -> None:
        """Refuse files that are not the bundle's; others are not looked at."""
        for entry in manifest.files:
            place = self._place(entry.path)
            if place not in self._sizes:
                raise RegistryError(f"{self.where}: {place} is missing", "push the bundle again")
            size = self._sizes[place]
            if (size is not None and size != entry.size_bytes) or self._sha256.get(place, entry.sha256) != entry.sha256:
                raise RegistryError(f"{self.where}: {place} is another file than the bundle's manifest names", _BAD)

    def entry(self, path: str) -> FileEntry:
        """Size and digest of a file; one whose digest the hub does not tell is fetched for it."""
        size = self._sizes[path]
        if size is not None and size > MAX_TASK_BYTES:
            raise RegistryError(f"{self.where}: {path} would have {size:,} bytes, more than {MAX_TASK_BYTES:,}", _BAD)
        if path in self._sha256 and size is not None:
            return FileEntry(path=path, size_bytes=size, sha256=self._sha256[path])
        found = self._fetched(path, MAX_TASK_BYTES if size is None else size)
        return FileEntry(path=path, size_bytes=found.stat().st_size, sha256=sha256_file(found))

    def copy(self, entry: FileEntry, target: Checked) -> None:
        """Write a file; one that is wrong does not stay in the library's cache."""
        found = self._fetched(self._place(entry.path), entry.size_bytes)
        try:
            with found.open("rb") as stream:
                while piece := stream.read(_PIECE):
                    target.write(piece)
        finally:
            if not target.is_right():
                for each in (found.resolve(), found):
                    each.unlink(missing_ok=True)

    def _fetched(self, path: str, most: int) -> Path:
        from huggingface_hub import hf_hub_download

        with _told(self.reference), _quiet():
            return Path(
                hf_hub_download(
                    self.reference.name,
                    path,
                    revision=self.commit,
                    library_name="edgespa",
                    library_version=__version__,
                    tqdm_class=_counter(most, f"{self.where}: {path}"),
                )
            )


def _counter(most: int, what: str) -> Any:
    """A bar for the library that shows nothing, and ends what sends more than it should."""
    from tqdm import tqdm

    class Counter(tqdm):  # type: ignore[type-arg]  # of nothing: it counts
        def __init__(self, *args: Any, **options: Any) -> None:
            self.counted = int(options.get("initial") or 0)
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            self.counted += int(n or 0)
            if self.counted > most:
                raise RegistryError(f"{what} has more than {most:,} bytes", _BAD)
            return super().update(n)

    return Counter


def files_of(folder: Path, manifest: Manifest, card: str, *, signed: bool) -> dict[str, Path | bytes]:
    """What a repository holds of a bundle.

    Args:
        folder: Of the bundle, whose files have been checked.
        manifest: Of it.
        card: What the hub shows.
        signed: There is a signature.
    """
    names: Sequence[str] = [MANIFEST, *([SIGNATURE] if signed else []), *(entry.path for entry in manifest.files)]
    files: dict[str, Path | bytes] = {name: folder / name for name in names}
    if CARD in files:
        files[SEALED_CARD] = files[CARD]
    return {**files, CARD: card.encode()}
