"""Push to and pull from a registry: the OCI distribution API.

github.com/opencontainers/distribution-spec, spec.md. A blob that is there already is not sent: it is asked for first
(HEAD), then mounted from a repository of the same registry that is known to hold it, and only then sent. The manifest
comes last, so a tag names a whole artifact or the one before. A blob that breaks off while it is fetched goes on where
it was.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urlsplit

from edgespa.bundle.limits import MAX_MANIFEST_BYTES
from edgespa.bundle.manifest import FileEntry, Manifest
from edgespa.errors import BundleError, RegistryError
from edgespa.registry.artifact import OCI_MANIFEST, Artifact, Layer, read_artifact, same_as
from edgespa.registry.fetching import Checked, Tell
from edgespa.registry.memory import known_places, remember_place
from edgespa.registry.references import RegistryReference
from edgespa.registry.transport import Body, BrokenOffError, SilentError, TooLargeError, Transport, bounded, document

_TRIES = 4
_WAIT_S = 0.5
_PIECE = 1 << 18
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_CHANGED = "do not use it: it was damaged or exchanged where it lies; ask who pushed it"


@dataclass(frozen=True)
class Sent:
    """What a push did.

    Attributes:
        digest: Of the artifact.
        sent: Paths of the files that were sent; the empty one is the config.
        mounted: Of those that the registry took over from another repository of its own.
        there: Of those that were there already.
        sent_bytes: In bodies of requests.
        requests: So many were made.
    """

    digest: str
    sent: tuple[str, ...]
    mounted: tuple[str, ...]
    there: tuple[str, ...]
    sent_bytes: int
    requests: int


def push_artifact(
    artifact: Artifact, reference: RegistryReference, *, plain_http: bool = False, tell: Tell = lambda *_: None
) -> Sent:
    """Put an artifact into a registry, under its tag.

    Args:
        artifact: What is sent.
        reference: Where to.
        plain_http: See `Transport`.
        tell: How far it is.

    Raises:
        RegistryError: It cannot be reached, or refuses.
        MissingExtraError: The client library is not there.
    """
    if reference.digest is not None and reference.digest != artifact.digest:
        raise RegistryError(
            f"{reference} names another artifact: this one is {artifact.digest}", "leave out the digest, or push a tag"
        )
    transport = Transport(reference, plain_http=plain_http)
    repository = _Repository(transport, reference)
    ways: dict[str, list[str]] = {"sent": [], "mounted": [], "there": []}
    total, done = sum(each.size_bytes for each in artifact.blobs), 0
    for layer in artifact.blobs:
        tell(done, total, layer.path or "config")
        ways[repository.put(layer, artifact)].append(layer.path)
        remember_place(transport.shown_host, layer.digest, layer.size_bytes, reference.name)
        done += layer.size_bytes
    tell(done, total, "manifest")
    repository.put_manifest(artifact)
    return Sent(
        digest=artifact.digest,
        sent=tuple(ways["sent"]),
        mounted=tuple(ways["mounted"]),
        there=tuple(ways["there"]),
        sent_bytes=transport.sent_bytes,
        requests=transport.requests,
    )


class _Repository:
    """What a push asks of one repository."""

    def __init__(self, transport: Transport, reference: RegistryReference) -> None:
        self.transport, self.reference = transport, reference
        self.base = f"{reference.name}/"

    def put(self, layer: Layer, artifact: Artifact) -> str:
        """Have a blob there, in the cheapest way; which that was."""
        if self._has(layer):
            return "there"
        for attempt in range(_TRIES):
            try:
                return self._send(layer, artifact, mount=attempt == 0)
            except SilentError:
                raise
            except BrokenOffError:
                if attempt == _TRIES - 1:
                    raise
                time.sleep(_WAIT_S * 2**attempt)
        raise AssertionError("the last try raises")

    def _has(self, layer: Layer) -> bool:
        with self.transport.ask("HEAD", f"{self.base}blobs/{layer.digest}") as answer:
            if answer.status_code == 200:
                return True
            if answer.status_code not in (404, 405):
                raise self.transport.refused(answer, f"to push to {self.reference.name}")
            return False

    def _send(self, layer: Layer, artifact: Artifact, *, mount: bool) -> str:
        path = f"{self.base}blobs/uploads/"
        known = known_places(self.transport.shown_host, layer.digest, self.reference.name) if mount else ()
        for other in known:
            with self.transport.ask("POST", f"{path}?{urlencode({'mount': layer.digest, 'from': other})}") as answer:
                if answer.status_code == 201:
                    return "mounted"
                if answer.status_code == 202:  # it is not there any more, or not ours to see
                    place = self._place(answer.headers.get("Location"))
                    break
        else:
            with self.transport.ask("POST", path) as answer:
                if answer.status_code != 202:
                    raise self.transport.refused(answer, f"to push to {self.reference.name}")
                place = self._place(answer.headers.get("Location"))
        place += ("&" if urlsplit(place).query else "?") + urlencode({"digest": layer.digest})
        content = artifact.contents[layer.digest]
        headers = {"Content-Type": "application/octet-stream"}
        with self.transport.ask("PUT", place, headers=headers, body=content.open, size=layer.size_bytes) as answer:
            if answer.status_code == 400 and layer.path:
                raise BundleError(
                    f"{layer.path} is refused by {self.transport.shown_host}: its digest is another",
                    "let nobody write there while it is pushed, and push again",
                )
            if answer.status_code not in (201, 202, 204):
                raise self.transport.refused(answer, f"{layer.path or 'the config'} in {self.reference.name}")
        return "sent"

    def _place(self, location: str | None) -> str:
        if not location:
            raise RegistryError(f"{self.transport.shown_host} does not say where to send a file", "is it a registry?")
        return self.transport.url(location)

    def put_manifest(self, artifact: Artifact) -> None:
        name = self.reference.tag or artifact.digest
        with self.transport.ask(
            "PUT",
            f"{self.base}manifests/{name}",
            headers={"Content-Type": OCI_MANIFEST},
            body=_bytes_of(artifact.manifest),
            size=len(artifact.manifest),
        ) as answer:
            if answer.status_code not in (201, 202):
                raise self.transport.refused(answer, f"the manifest of {self.reference.name}:{name}")
            said = answer.headers.get("Docker-Content-Digest", artifact.digest)
        if said != artifact.digest:
            raise RegistryError(
                f"{self.transport.shown_host} keeps {said[:80]} in place of {artifact.digest}",
                "it changes what it is given: pull it again, and compare",
            )


def _bytes_of(content: bytes) -> Body:
    return lambda: io.BytesIO(content)


class RegistrySource:
    """The artifact behind a tag or a digest, to be fetched: `edgespa.registry.fetching.Source`.

    Args:
        reference: Of it.
        plain_http: See `Transport`.

    Attributes:
        digest: Of its manifest, ``sha256:...``.

    Raises:
        RegistryError: It cannot be reached, is not there, or is no model.
    """

    def __init__(self, reference: RegistryReference, *, plain_http: bool = False) -> None:
        self.transport, self.reference, self.where = (
            Transport(reference, plain_http=plain_http),
            reference,
            str(reference),
        )
        content = self._manifest()
        self.digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if reference.digest is not None and self.digest != reference.digest:
            raise RegistryError(f"{self.where}: the registry gives {self.digest}", _CHANGED)
        self.layers = read_artifact(content, self.where)

    def _manifest(self) -> bytes:
        reference = self.reference
        name = reference.digest or reference.tag
        accept = {"Accept": ", ".join((OCI_MANIFEST, *_INDEXES))}
        with self.transport.ask("GET", f"{reference.name}/manifests/{name}", headers=accept) as answer:
            if answer.status_code == 200:
                return bounded(answer, MAX_MANIFEST_BYTES, self.where)
            if answer.status_code != 404:
                raise self.transport.refused(answer, f"to pull {reference.name}")
        raise self._not_there()

    def _not_there(self) -> RegistryError:
        reference, host = self.reference, self.transport.shown_host
        what = f"the tag {reference.tag}" if reference.digest is None else reference.digest
        with self.transport.ask("GET", f"{reference.name}/tags/list?n=100") as answer:
            try:
                tags = document(answer, host).get("tags") if answer.status_code == 200 else None
            except TooLargeError:
                return RegistryError(f"{host}/{reference.name} does not have {what}", "its tags: more than can be told")
        listed = tags if isinstance(tags, list) else []
        named = [each for each in listed if isinstance(each, str) and each.isprintable() and len(each) < 129]
        if not named:
            return RegistryError(
                f"{host} has no {reference.name}, or nothing in it", "check the name of the repository"
            )
        some = ", ".join(sorted(named)[:10])
        return RegistryError(f"{host}/{reference.name} does not have {what}", f"its tags: {some}")

    def paths(self) -> Iterable[str]:
        """Of its files."""
        return self.layers

    def small(self, path: str, most: int) -> bytes:
        """A file as a whole; see `edgespa.registry.fetching.Source`."""
        entry = self.entry(path)
        if entry.size_bytes > most:
            raise RegistryError(
                f"{self.where}: its {path} would have {entry.size_bytes:,} bytes, more than {most:,}", _CHANGED
            )
        held = io.BytesIO()
        target = Checked(held, entry, self.where)
        self.copy(entry, target)
        target.finish()
        return held.getvalue()

    def require(self, manifest: Manifest) -> None:
        """Refuse layers that are not the bundle's files."""
        same_as(manifest, self.layers, self.where)

    def entry(self, path: str) -> FileEntry:
        """Size and digest of a layer."""
        if path not in self.layers:
            raise RegistryError(f"{self.where} has no {path}", "name what `edgespa push` has pushed")
        layer = self.layers[path]
        return FileEntry(path=path, size_bytes=layer.size_bytes, sha256=layer.sha256)

    def copy(self, entry: FileEntry, target: Checked) -> None:
        """Fetch a blob; where the connection breaks, go on where it was."""
        for attempt in range(_TRIES):
            try:
                self._fetch(entry, target)
            except BrokenOffError:
                if attempt == _TRIES - 1 and not target.written:  # else how much came is what there is to say
                    raise
            if target.written >= entry.size_bytes:
                break
            if attempt < _TRIES - 1:
                time.sleep(_WAIT_S * 2**attempt)
        remember_place(self.transport.shown_host, f"sha256:{entry.sha256}", entry.size_bytes, self.reference.name)

    def _fetch(self, entry: FileEntry, target: Checked) -> None:
        if not entry.size_bytes:
            return
        begin = target.written
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={begin}-"} if begin else {})}
        path = f"{self.reference.name}/blobs/sha256:{quote(entry.sha256)}"
        with self.transport.ask("GET", path, headers=headers) as answer:
            if answer.status_code not in (200, 206):
                raise self.transport.refused(answer, f"the blob of {entry.path}")
            skip = begin if answer.status_code == 200 else 0
            if answer.status_code == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
                raise RegistryError(f"{self.transport.shown_host} answers with another part than asked", "try again")
            for piece in answer.iter_content(_PIECE):
                dropped = min(skip, len(piece))
                skip -= dropped
                if piece[dropped:]:
                    target.write(piece[dropped:])
