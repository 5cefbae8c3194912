"""Shipping into a folder that devices pull from: contents by their digest, and one signed index.

Any web server or object store serves it as it is. Contents are written first and the index last, by a rename, so a
reader has the old one or the new one with all that it leads to; contents that the index before led to stay until the
next one. `edgespa.device.agent.index` says what an index is, and reads it on devices.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgespa import __version__
from edgespa.bundle import MANIFEST, SIGNATURE, Signer
from edgespa.config import Strict
from edgespa.device.agent.index import (
    INDEX,
    INDEX_FORMAT,
    INDEX_NAMESPACE,
    MOST_INDEX,
    Release,
    file_name,
    read_index,
    signer_of,
)
from edgespa.device.agent.protocol import AgentError
from edgespa.device.agent.versions import entries_in
from edgespa.device.link.payload import Payload, Sending
from edgespa.device.shipment.ship import Shipment
from edgespa.errors import BundleError, ConfigError, SignatureError
from edgespa.system.files import open_plain, remove_abandoned_in, whole_file, write_whole

_LOCK = ".edgespa.lock"
_FILES = "files"
_PIECE = 1 << 20


class ReleaseRow(Strict):
    """A version of a task that devices get, or have got.

    Attributes:
        task: Its name.
        number: Of the version; another content has another number.
        manifest: SHA-256 of its manifest.
        manifest_bytes: Size of that.
        signature: SHA-256 of the manifest's own signature; None where it has none.
        signature_bytes: Size of that.
        groups: For devices in one of them; for all where there are none.
        kinds: For devices of one of them; for all where there are none.
        downgrade: Devices with a higher number take it too.
        created: When it was shipped, ISO 8601.
    """

    task: str
    number: int
    manifest: str
    manifest_bytes: int
    signature: str | None
    signature_bytes: int
    groups: tuple[str, ...]
    kinds: tuple[str, ...]
    downgrade: bool
    created: str


class Published(Strict):
    """What a folder that devices pull from holds now.

    Attributes:
        folder: It.
        serial: Of its index.
        signed: Fingerprint of the key that signed it; None where nobody did.
        releases: What was shipped into it now.
        withdrawn: Of a task that was withdrawn, what devices got until now.
        bytes_written: Of contents that were not there.
        bytes_there: Of contents that were there already.
        bytes_removed: Of contents that nothing leads to any more.
    """

    folder: str
    serial: int
    signed: str | None
    releases: tuple[ReleaseRow, ...]
    withdrawn: tuple[ReleaseRow, ...]
    bytes_written: int
    bytes_there: int
    bytes_removed: int


@dataclass(frozen=True)
class For:
    """Which devices are to have what is shipped.

    Attributes:
        groups: Those in one of them; all where there are none.
        kinds: Those of one of them; all where there are none.
        downgrade: Those too that have something newer.
    """

    groups: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    downgrade: bool = False


@dataclass(frozen=True)
class _Content:
    """What an index says."""

    serial: int = 0
    releases: tuple[ReleaseRow, ...] = ()
    kept: tuple[ReleaseRow, ...] = ()


def publish(
    folder: Path,
    shipments: Sequence[Shipment],
    signer: Signer | None,
    *,
    whom: For | None = None,
    keep: int = 3,
    send_base: bool = False,
    signers: Path | None = None,
    withdraw: str | None = None,
    progress: Sending | None = None,
) -> Published:
    """Write versions of tasks into a folder that devices pull from.

    Args:
        folder: The folder; it is made where it is not there.
        shipments: What is to be there.
        signer: Signs the index, for `INDEX_NAMESPACE`; None leaves it unsigned.
        whom: Which devices are to have it; None for all.
        keep: Versions of a task that stay there, those that devices get among them.
        send_base: Write the base of a task too, where it is not there.
        signers: Who else may have signed the index that is there.
        withdraw: Instead: a task that no device gets from now on.
        progress: Told of the bytes that are written.

    Raises:
        ConfigError: The folder holds other things; or an older version is shipped, and that was not said.
        SignatureError: The index that is there was not signed by the same key, or by one of ``signers``.
        BundleError: The index that is there is damaged.
    """
    whom = whom or For()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        before = _read(folder, signer, signers)
        releases, kept = list(before.releases), list(before.kept)
        new, gone = [], []
        for shipment in shipments:
            row = _row(shipment, whom, [*releases, *kept])
            over = [each for each in releases if each.task == row.task and _covered(each, whom)]
            releases = [*(each for each in releases if each not in over), row]
            kept += over
            new.append(row)
        if withdraw is not None:
            gone = [each for each in releases if each.task == withdraw]
            releases, kept = ([each for each in rows if each.task != withdraw] for rows in (releases, kept))
            if not gone:
                raise ConfigError(f"{folder} has no task '{withdraw}'", _has(before.releases))
        kept = _kept(releases, kept, keep)
        written, there = _write_files(folder, shipments, send_base, progress)
        wanted = _contents(folder, [*releases, *kept])
        serial = max(before.serial + 1, int(datetime.now(UTC).timestamp()))
        _write_index(folder, _Content(serial, tuple(releases), tuple(kept)), signer)
        removed = _sweep(folder, wanted | _contents(folder, [*before.releases, *before.kept]))
    return Published(
        folder=str(folder),
        serial=serial,
        signed=None if signer is None else signer.fingerprint,
        releases=tuple(new),
        withdrawn=tuple(gone),
        bytes_written=written,
        bytes_there=there,
        bytes_removed=removed,
    )


def _covered(row: ReleaseRow, whom: For) -> bool:
    """Whether no device gets a release any more once another is for all of these."""
    return all(
        not new or (old and set(old) <= set(new)) for old, new in ((row.groups, whom.groups), (row.kinds, whom.kinds))
    )


def _row(shipment: Shipment, whom: For, known: Sequence[ReleaseRow]) -> ReleaseRow:
    """The release that a shipment becomes."""
    own = [each for each in known if each.task == shipment.task]
    last = max((each.number for each in own), default=0)
    number = next((each.number for each in own if each.manifest == shipment.digest), last + 1)
    if number < last and not whom.downgrade:
        raise ConfigError(
            f"this bundle is release {number} of {shipment.task}, and release {last} is newer",
            "devices go back to it if you say so: add --downgrade",
        )
    signature = shipment.files.get(SIGNATURE)
    return ReleaseRow(
        task=shipment.task,
        number=number,
        manifest=shipment.digest,
        manifest_bytes=shipment.files[MANIFEST].size_bytes,
        signature=None if signature is None else signature.sha256,
        signature_bytes=0 if signature is None else signature.size_bytes,
        groups=whom.groups,
        kinds=whom.kinds,
        downgrade=whom.downgrade,
        created=_now(),
    )


def _kept(releases: Sequence[ReleaseRow], kept: Iterable[ReleaseRow], keep: int) -> list[ReleaseRow]:
    """Of each task the newest versions that devices had before, as many as stay beside those that they get."""
    found: list[ReleaseRow] = []
    for row in sorted(kept, key=lambda each: each.number, reverse=True):
        there = {each.manifest for each in (*releases, *found) if each.task == row.task}
        if row.manifest not in there and len(there) < keep:
            found.append(row)
    return found


def _write_files(
    folder: Path, shipments: Sequence[Shipment], send_base: bool, progress: Sending | None
) -> tuple[int, int]:
    """Have all contents there; bytes that were written, and that were there."""
    wanted: dict[str, Payload] = {}
    for shipment in shipments:
        wanted.update((each.sha256, each) for each in shipment.files.values())
        weights = shipment.needs
        if weights is None or _is_there(folder, weights.base_sha256, weights.base_size_bytes):
            continue
        if not send_base or shipment.base is None:
            raise ConfigError(
                f"{folder} does not have the base that {shipment.task} was made on ({weights.base_size_bytes:,} bytes)",
                "write it too, once for all tasks on it: add --with-base, and ship the task file",
            )
        wanted[weights.base_sha256] = Payload(shipment.base.path, weights.base_sha256, weights.base_size_bytes)
    missing = [each for each in wanted.values() if not _is_there(folder, each.sha256, each.size_bytes)]
    total, done = sum(each.size_bytes for each in missing), 0
    for each in missing:
        _write_file(folder / file_name(each.sha256), each)
        done += each.size_bytes
        if progress is not None:
            progress(done, total)
    return total, sum(each.size_bytes for each in wanted.values()) - total


def _is_there(folder: Path, digest: str, size_bytes: int) -> bool:
    path = folder / file_name(digest)
    if path.is_symlink() or not path.is_file() or path.stat().st_size != size_bytes:
        return False
    return Payload.of(path).sha256 == digest


def _write_file(path: Path, payload: Payload) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned_in(path.parent)
    digest = hashlib.sha256()
    with payload.path.open("rb") as source, whole_file(path) as target:
        while piece := source.read(_PIECE):
            digest.update(piece)
            target.write(piece)
        if digest.hexdigest() != payload.sha256:
            raise BundleError(f"{payload.path} changes while it is shipped", "let only one program write there")


def _contents(folder: Path, rows: Iterable[ReleaseRow]) -> set[str]:
    """Digests of all that releases lead to."""
    found: set[str] = set()
    for row in rows:
        found |= {row.manifest, *([] if row.signature is None else [row.signature])}
        try:
            text = (folder / file_name(row.manifest)).read_bytes()
            if hashlib.sha256(text).hexdigest() != row.manifest:
                raise ValueError("it has changed")
            found |= {str(entry["sha256"]) for entry in entries_in(text, folder)}
        except (OSError, ValueError) as error:
            raise BundleError(
                f"{folder}: the manifest of {row.task}, release {row.number}, cannot be read: {error}",
                "copy the folder back from where it is served, or begin a new one",
            ) from error
    return found


def _sweep(folder: Path, wanted: set[str]) -> int:
    """Remove contents that nothing leads to; their bytes."""
    removed = 0
    for path in (folder / _FILES).glob("*/*"):
        if path.name not in wanted and len(path.name) == len(path.name.strip(".")) == 64 and path.is_file():
            removed += path.stat().st_size
            path.unlink()
    return removed


def _read(folder: Path, signer: Signer | None, signers: Path | None) -> _Content:
    """What the index that is there says, if it is ours to go on with."""
    path = folder / INDEX
    if not os.path.lexists(path):
        others = sorted(each.name for each in folder.iterdir() if each.name not in (_FILES, _LOCK))
        if others:
            raise ConfigError(
                f"{folder} holds other things and no {INDEX}: {', '.join(others[:3])}",
                "give a folder that is empty or not there yet, or the one that devices pull from",
            )
        return _Content()
    try:
        with open_plain(path) as stream:
            content = stream.read(MOST_INDEX + 1)
        read_index(content, None, str(path))
        outer = json.loads(content)
        text, signature = str(outer["signed"]).encode(), outer["signature"]
        inner = json.loads(text)
        rows = {
            key: tuple(ReleaseRow.parse(each, f"{path}: {key}") for each in inner[key]) for key in ("releases", "kept")
        }
        found = _Content(int(inner["serial"]), rows["releases"], rows["kept"])
    except (AgentError, ConfigError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise BundleError(
            f"{path} cannot be read: {error}", "copy it back from where it is served, or begin a new folder"
        ) from error
    _require_ours(path, text, signature, signer, signers)
    return found


def _require_ours(path: Path, text: bytes, signature: Any, signer: Signer | None, signers: Path | None) -> None:
    """Refuse to sign what somebody else has put into the index, and to take a signature off."""
    if signature is None and signer is None:
        return
    if signer is None:
        raise SignatureError(f"{path} is signed, and would not be any more", "sign it with its key: --sign KEY")
    if isinstance(signature, str) and signer.made(text, signature.encode()):
        return
    try:
        if signers is not None and isinstance(signature, str):
            signer_of(text, signature, signers.read_text(encoding="utf-8"), str(path))
            return
    except AgentError as error:
        raise SignatureError(str(error), "do not go on with this folder: begin a new one") from error
    who = "by nobody" if signature is None else "by another key than this, or changed since"
    raise SignatureError(
        f"{path} is signed {who}: what it says would be signed too",
        "name who else may have signed it: --signers FILE; or begin a new folder",
    )


def _write_index(folder: Path, content: _Content, signer: Signer | None) -> None:
    plain = {
        "serial": content.serial,
        "created": _now(),
        "edgespa": __version__,
        "releases": [each.model_dump(mode="json") for each in content.releases],
        "kept": [each.model_dump(mode="json") for each in content.kept],
    }
    text = json.dumps(plain, sort_keys=True)
    signature = None if signer is None else signer(text.encode()).decode()
    outer: Mapping[str, Any] = {
        "format": INDEX_FORMAT,
        "format_version": 1,
        "signed": text,
        "signature": signature,
    }
    whole = json.dumps(outer, indent=1).encode() + b"\n"
    if len(whole) > MOST_INDEX:
        raise ConfigError(f"the index has {len(whole):,} bytes, and devices read {MOST_INDEX:,}", "use two folders")
    remove_abandoned_in(folder)
    write_whole(folder / INDEX, whole)


def _has(rows: Sequence[ReleaseRow]) -> str:
    names = sorted({each.task for each in rows})
    return f"it has: {', '.join(names[:10])}" if names else "it has none"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let two that ship into the same folder do so one after the other."""
    with (folder / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another edgespa ships into {folder}", "wait for it, and try again") from error
        yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


__all__ = ["INDEX_NAMESPACE", "For", "Published", "Release", "ReleaseRow", "publish"]
