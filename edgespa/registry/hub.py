"""Push to and pull from the Hugging Face hub, by its own client library and with the token that it keeps.

A repository holds one bundle, its files where the bundle has them, or one task file. Only ``README.md`` is not the
bundle's: what the hub shows is the card with all that was measured since, and the sealed one lies beside it as
``README.bundle.md``. What else lies in a repository is not looked at.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgespa.bundle.files import parse_manifest, sha256_file
from edgespa.bundle.limits import MAX_MANIFEST_BYTES
from edgespa.bundle.manifest import MAX_FILES, FileEntry, Manifest
from edgespa.bundle.paths import MANIFEST, SIGNATURE, path_problem
from edgespa.errors import BundleError, RegistryError
from edgespa.registry.artifact import TASK_SUFFIX, is_base
from edgespa.registry.fetching import Checked
from edgespa.registry.hub_limits import HubBrokenOffError, limited
from edgespa.registry.hub_transport import fetch_file, hub_api, quiet, told_of
from edgespa.registry.references import HubReference

CARD, SEALED_CARD = "README.md", "README.bundle.md"
_ATTRIBUTES = ".gitattributes"
"""What the hub puts into every repository."""
_MOST_LISTED = 10 * MAX_FILES
_PIECE = 1 << 20
_TRIES, _WAIT_S = 4, 0.5
_COMMIT = re.compile("[0-9a-f]{40}")
_MOST_PLAIN = 64 << 20
"""Of a file that lies in the repository itself; larger ones have a digest."""
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
        reference: The repository, and the branch, which is made if it is not there, and then holds nothing else.
        name: Of what is pushed, for the history.
        public: A repository that is made for it is shown to everybody.

    Raises:
        RegistryError: The hub cannot be reached, refuses, or the repository holds something of another kind.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, get_token
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    api = hub_api()
    with told_of(reference), quiet(), limited():
        if get_token() is None:
            raise RegistryError(
                f"{reference} cannot be pushed to: nobody is logged in to the hub",
                "log in with `hf auth login`, or set HF_TOKEN to a token that may write",
            )
        created = False
        try:
            info = api.model_info(reference.name)
        except RepositoryNotFoundError:
            api.create_repo(reference.name, private=not public, exist_ok=True)
            created, info = True, api.model_info(reference.name)
        fresh = False
        if reference.revision is not None:
            try:
                info = api.model_info(reference.name, revision=reference.revision)
            except RevisionNotFoundError:
                api.create_branch(reference.name, branch=reference.revision)
                fresh, info = True, api.model_info(reference.name, revision=reference.revision)
        _refuse_many(reference, info.siblings or ())
        there = {each.rfilename for each in info.siblings or ()}
        if not fresh:
            _refuse_mixture(reference, set(files), there)
        stale = there - {_ATTRIBUTES} if fresh else _ours(reference, str(info.sha), there)
        operations: list[Any] = [CommitOperationAdd(path, content) for path, content in sorted(files.items())]
        operations += [CommitOperationDelete(each) for each in sorted(stale - set(files))]
        found = api.create_commit(
            reference.name, operations, commit_message=f"edgespa push: {name}"[:200], revision=reference.revision
        )
    private = None if info.private is None else bool(info.private)
    return Committed(found.oid, f"{api.endpoint}/{reference.name}", created, private)


def _ours(reference: HubReference, commit: str, there: set[str]) -> set[str]:
    """Of what lies there, what an earlier push has put there: a file of it that is not pushed now does not stay."""
    found = {each for each in there if each in (MANIFEST, SIGNATURE, SEALED_CARD) or is_base(each)}
    if MANIFEST in there and _COMMIT.fullmatch(commit):
        content = bytearray()

        def take(piece: bytes) -> None:
            content.extend(piece)
            if len(content) > MAX_MANIFEST_BYTES:
                raise RegistryError(f"{reference}: its {MANIFEST} is too large", _BAD)

        try:
            fetch_file(reference, commit, MANIFEST, take)
            named = parse_manifest(bytes(content), str(reference)).files
            found |= {entry.path for entry in named} & there
        except HubBrokenOffError:  # ours would stay
            raise
        except (BundleError, RegistryError):  # of somebody else's we know nothing
            pass
    return found


def _refuse_many(reference: HubReference, listed: Sequence[object]) -> None:
    if len(listed) > _MOST_LISTED:
        raise RegistryError(
            f"{reference} holds {len(listed):,} files, more than {_MOST_LISTED:,}",
            "a bundle or a task has a repository, or a branch, of its own: is the name right?",
        )


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


class HubSource:
    """A repository on the hub at one commit, to be fetched: `edgespa.registry.fetching.Source`.

    What the library's cache holds of that commit, as `hf download` puts it there, is not fetched; with HF_HUB_OFFLINE
    all comes from there.

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
        api = hub_api()
        from huggingface_hub import constants

        self.offline = bool(constants.HF_HUB_OFFLINE)
        if self.offline:
            self.commit, self._sizes = self._cached()
            return
        with told_of(reference), quiet(), limited():
            info = api.model_info(reference.name, revision=reference.revision, files_metadata=True)
        siblings = info.siblings or []
        self.commit = str(info.sha)
        if not _COMMIT.fullmatch(self.commit):
            raise RegistryError(f"{self.where}: the hub does not say which commit that is", "is HF_ENDPOINT a hub?")
        _refuse_many(reference, siblings)
        listed = [each for each in siblings if path_problem(each.rfilename) is None]  # others cannot be ours
        self._sizes = {each.rfilename: each.size for each in listed}
        self._sha256 = {each.rfilename: each.lfs.sha256 for each in listed if each.lfs is not None}

    def _cached(self) -> tuple[str, dict[str, int | None]]:
        """What lies in the library's cache, of the commit that was last seen there."""
        from huggingface_hub import constants

        store = Path(constants.HF_HUB_CACHE) / f"models--{self.reference.name.replace('/', '--')}"
        commit = named = self.reference.revision or "main"
        if not _COMMIT.fullmatch(named) and path_problem(named) is None:
            place = store / "refs" / named
            commit = place.read_text(encoding="ascii", errors="replace").strip() if place.is_file() else ""
        folder = store / "snapshots" / commit
        if not _COMMIT.fullmatch(commit) or not folder.is_dir():
            raise RegistryError(
                f"{self.where} is not in the cache, and HF_HUB_OFFLINE says not to ask the hub",
                "unset it to fetch it; `hf download` puts it into the cache",
            )
        files = {name.relative_to(folder).as_posix(): name for name in folder.rglob("*") if name.is_file()}
        return commit, {name: path.stat().st_size for name, path in files.items() if path_problem(name) is None}

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
        held = io.BytesIO()

        def take(piece: bytes) -> None:
            if held.tell() + len(piece) > most:
                raise RegistryError(f"{self.where}: its {path} has more than {most:,} bytes", _BAD)
            held.write(piece)

        self._read(path, take, held.tell)
        return held.getvalue()

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
        """Size and digest of a file; one whose digest the hub does not tell, because it is small, is fetched for it."""
        size = self._sizes[path]
        if path in self._sha256 and size is not None:
            try:
                return FileEntry(path=path, size_bytes=size, sha256=self._sha256[path])
            except ValueError as error:
                raise RegistryError(f"{self.where}: the hub gives no digest or size of {path}", _BAD) from error
        cached = self._in_cache(path)
        if cached is not None:
            return FileEntry(path=path, size_bytes=cached.stat().st_size, sha256=sha256_file(cached))
        content = self.small(path, _MOST_PLAIN)
        return FileEntry(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    def copy(self, entry: FileEntry, target: Checked) -> None:
        """Write a file, from the cache if it is there as it should be."""
        path = self._place(entry.path)
        cached = self._in_cache(path)
        if cached is not None and not self.offline and not _is_right(cached, entry):
            cached = None
        if cached is None:
            self._read(path, target.write, lambda: target.written)
            return
        with cached.open("rb") as stream:
            while piece := stream.read(_PIECE):
                target.write(piece)

    def _in_cache(self, path: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.reference.name, path, revision=self.commit)
        return Path(found) if isinstance(found, str) else None

    def _read(self, path: str, take: Callable[[bytes], object], done: Callable[[], int]) -> None:
        """A file, which goes on where it was when the connection breaks."""
        if self.offline:
            if (cached := self._in_cache(path)) is not None:
                take(cached.read_bytes())
                return
            raise RegistryError(f"{self.where}: {path} is not in the cache, and HF_HUB_OFFLINE is set", "unset it")
        for attempt in range(_TRIES):
            try:
                fetch_file(self.reference, self.commit, path, take, begin=done())
            except HubBrokenOffError:
                if attempt == _TRIES - 1:
                    raise
                time.sleep(_WAIT_S * 2**attempt)
            else:
                return


def _is_right(path: Path, entry: FileEntry) -> bool:
    return path.stat().st_size == entry.size_bytes and sha256_file(path) == entry.sha256


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
