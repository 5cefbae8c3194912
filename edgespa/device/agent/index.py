"""The index of a folder that devices pull from: whose it is, and what of it is for this device.

    index.json          ``signed``: the text below, and ``signature``: of its bytes, as ssh-keygen makes it, or null
    files/ab/abcd...    contents, by their SHA-256

It is one file, so that nobody ever reads the text of one and the signature of another. The text has a ``serial`` that
only grows, and ``releases``: which task gets which manifest, whose digests lead to all its files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from edgespa.device.agent.protocol import AgentError, is_digest
from edgespa.device.agent.versions import TASK

INDEX, INDEX_FORMAT = "index.json", "edgespa index"
INDEX_NAMESPACE = "edgespa-index"  # a signature over a bundle or a git commit is none of an index
MOST_INDEX = 16 << 20  # bytes
MOST_RELEASES = 20_000
MOST_NUMBER = 1 << 60
_SECONDS = 60


class Release(NamedTuple):
    """One version of a task, for some devices.

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


class Index(NamedTuple):
    """What a signed index says.

    Attributes:
        serial: Of the index: the newer, the higher.
        created: When it was written, by the clock of who wrote it.
        releases: In the order in which they were shipped.
        digest: SHA-256 of the text.
        signed_by: Who has signed it; None where nobody has.
    """

    serial: int
    created: str
    releases: tuple[Release, ...]
    digest: str
    signed_by: str | None


def file_name(digest: str) -> str:
    """Where a content lies below the folder."""
    return f"files/{digest[:2]}/{digest}"


def read_index(content: bytes, signers: str | None, where: str) -> Index:
    """Check an index, and read it.

    Args:
        content: Of the file.
        signers: Who may sign, as the text of such a file; None: whoever.
        where: It came from, for messages.

    Raises:
        AgentError: It is none, or not signed by one of them.
    """
    try:
        outer = json.loads(content)
        if outer["format"] != INDEX_FORMAT or outer["format_version"] != 1:
            raise ValueError(f"format {outer['format']!r} {outer['format_version']!r}")
        text, signature = outer["signed"].encode("utf-8"), outer["signature"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise AgentError("odd", f"{where} is no index: {_said(error)}") from error
    signed_by = None if signers is None else signer_of(text, signature, signers, where)
    try:
        inner = json.loads(text)
        releases = tuple(_release(row) for row in inner["releases"])
        serial, created = inner["serial"], str(inner["created"])[:40]
        if not _is_number(serial) or len(releases) > MOST_RELEASES:
            raise ValueError("its serial is no number, or its releases are too many")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise AgentError("odd", f"{where} is no index: {_said(error)}") from error
    return Index(serial, created, releases, hashlib.sha256(text).hexdigest(), signed_by)


def signer_of(text: bytes, signature: Any, signers: str, where: str) -> str:
    """By whom a text is signed, as the file of signers names them: ssh-keygen says it.

    Raises:
        AgentError: By nobody, by somebody else, or it cannot be found out here.
    """
    if not isinstance(signature, str) or not signature:
        raise AgentError("signature", f"{where} is not signed, and this device takes nothing unsigned")
    problem = unable_to_verify()
    if problem is not None:
        raise AgentError("unable", f"{where} cannot be checked: {problem}")
    with tempfile.TemporaryDirectory(prefix="edgespa-") as place:
        files = [Path(place) / name for name in ("signers", "signature")]
        for file, own in zip(files, (signers, signature)):
            file.write_text(own, encoding="utf-8")
        options = ["-f", str(files[0]), "-s", str(files[1])]
        found = _ssh_keygen(["-Y", "find-principals", *options])
        last = found[1]
        for name in found[1].splitlines() if found[0] == 0 else ():
            status, last = _ssh_keygen(["-Y", "verify", *options, "-I", name, "-n", INDEX_NAMESPACE], text)
            if status == 0:
                return name[:200]
    said = " ".join(last.split())[:200]
    raise AgentError("signature", f"{where} is not signed by one of this device's signers: {said}")


def unable_to_verify() -> str | None:
    """Why signatures cannot be checked on this machine; None where they can."""
    if shutil.which("ssh-keygen") is None:
        return "there is no ssh-keygen: install OpenSSH 8.2 or newer (on Debian: apt-get install openssh-client)"
    said = _ssh_keygen(["-Y", "find-principals", "-f", os.devnull, "-s", os.devnull])[1]
    if "unknown option" in said or "Unsupported operation" in said or "illegal option" in said:
        return "its ssh-keygen is too old: install OpenSSH 8.2 or newer"
    return None


def _ssh_keygen(options: list[str], content: bytes = b"") -> tuple[int, str]:
    try:
        done = subprocess.run(
            ["ssh-keygen", *options],
            input=content,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AgentError("unable", f"ssh-keygen cannot be run: {error}") from error
    out = done.stdout if done.returncode == 0 else done.stdout + done.stderr
    return done.returncode, out.decode("utf-8", "replace")


def releases_for(index: Index, groups: tuple[str, ...], kinds: tuple[str, ...]) -> list[Release]:
    """Of each task what a device gets: of several releases that are for it the one that was shipped last."""
    chosen: dict[str, Release] = {}
    for release in index.releases:
        for wanted, own in ((release.groups, groups), (release.kinds, kinds)):
            if wanted and not set(wanted) & set(own):
                break
        else:
            chosen[release.task] = release
    return [chosen[name] for name in sorted(chosen)]


def _release(row: Any) -> Release:
    release = Release(
        row["task"],
        row["number"],
        row["manifest"],
        row["manifest_bytes"],
        row.get("signature"),
        row.get("signature_bytes", 0),
        tuple(row["groups"]),
        tuple(row["kinds"]),
        row["downgrade"] is True,
    )
    names: list[Any] = [release.task, *release.groups, *release.kinds]
    digests = [release.manifest, *([] if release.signature is None else [release.signature])]
    right = all(isinstance(name, str) and TASK.match(name) for name in names)
    numbers = (release.number, release.manifest_bytes, release.signature_bytes)
    if not right or not all(map(is_digest, digests)) or not all(map(_is_number, numbers)):
        raise ValueError(f"a release is odd: {str(row)[:100]}")
    return release


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_NUMBER


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
