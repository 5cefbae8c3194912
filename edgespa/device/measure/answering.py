"""Batches of a data set on a device: sent by their digest, run through a file there, and what it says fetched.

What is there already is not sent, and what was answered there is not run again: whatever ends a run, the next one goes
on. `edgespa.device.runner.batches` is the other side, and says what lies where.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import re
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edgespa.device.agent.answers import MOST_GIVEN
from edgespa.device.link.payload import Payload, Sending
from edgespa.device.measure.answers import Ended, decode
from edgespa.device.measure.results import Listed
from edgespa.device.measure.site import STALL_S, Site
from edgespa.device.ours import runner_command, runner_text
from edgespa.errors import DeviceError, UnreachableError

BATCH_S = 600.0
"""Of one batch."""
TRIES = 3
"""That the way to the device may break for the same call."""
_KEPT = 64  # folders of batches that stay on a device, of runs that were given up
_WAIT_S = 2.0
T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """A file of the bundle in one runtime.

    Attributes:
        variant: Name of the file.
        runtime: Name and version of the runtime there.
        named: The runtime's name, where it is not the usual one.
        threads: Of it.
    """

    variant: str
    runtime: str
    named: str | None
    threads: int

    @property
    def folder(self) -> str:
        """Where its answers lie: those of another version of the runtime, or of edgespa's runner, are others."""
        digest = hashlib.sha256(f"{self.variant} {self.runtime} {self.threads} {runner_text()}".encode()).hexdigest()
        return f"{re.sub('[^A-Za-z0-9_-]+', '-', self.variant)[:60]}-{digest[:16]}"


def asked_of(listed: Sequence[Listed], runtimes: Sequence[str], threads: int) -> list[Asked]:
    """What can run on a device: each file in its usual runtime, and in those that are named.

    Args:
        listed: What the device says of each file.
        runtimes: Names of runtimes beside the usual ones.
        threads: Of each.
    """
    found = []
    for each in listed:
        if each.runtime is not None:
            found.append(Asked(each.name, each.runtime, None, threads))
        found += [Asked(each.name, name, name, threads) for name in runtimes if name in each.others]
    return found


class Answering:
    """Some batches on a device, and files that answer them.

    Args:
        site: The bundle, ready there.
        manifest: Digest of its manifest: other files have other answers.
        root: Where edgespa keeps things there.
        timeout_s: Of one batch.
    """

    def __init__(self, site: Site, manifest: str, root: str, *, timeout_s: float = BATCH_S) -> None:
        self._site, self._manifest, self._root, self._timeout_s = site, manifest, root, timeout_s

    def place(self, batches: Sequence[Payload], progress: Sending | None) -> tuple[str, int]:
        """Have batches there.

        Args:
            batches: Files, in their order.
            progress: Told what is sent.

        Returns:
            Name of the folder, and how many bytes went over.
        """
        digest = hashlib.sha256("\n".join([self._manifest, *(each.sha256 for each in batches)]).encode())
        name = digest.hexdigest()[:32]
        files = {f"{number:06d}.batch": each for number, each in enumerate(batches)}
        _, sent = self._again(lambda: self._site.connection.deliver(f"evaluations/{name}", files, progress))
        return name, sent.bytes_sent

    def run(self, folder: str, asked: Asked, count: int) -> str:
        """Answer those of a folder's batches that have no answer yet; in which numbers it was computed.

        Args:
            folder: From `place`.
            asked: By which file, in which runtime.
            count: How many batches there are.

        Raises:
            DeviceError: It cannot be run there.
        """
        options = [
            "--batches",
            f"{self._root}/evaluations/{folder}",
            "--into",
            asked.folder,
            "--variant",
            asked.variant,
        ]
        options += ["--threads", str(asked.threads), "--timeout", f"{self._timeout_s:g}"]
        options += ["--runtime", asked.named] if asked.named is not None else []
        argv, by_hand = runner_command(self._site.python, self._site.folder, options)
        seconds = self._timeout_s * (count + 1)
        small = not self._site.connection.device.is_local
        request = {"argv": argv, "timeout_s": seconds, "stall_s": STALL_S, "small": small}
        done = self._again(
            lambda: self._site.connection.ask("execute", request, hold=True, timeout_s=seconds + STALL_S)
        )
        ended = Ended(int(done["status"]), str(done["stdout"]), str(done["stderr"]), by_hand, done["killed"])
        return str(decode(ended, "answered", f"{self._site.name}: {asked.variant}")["arithmetic"])[:20]

    def fetch(self, folder: str, asked: Asked, numbers: Sequence[int], most: int) -> list[bytes]:
        """What a file says of batches.

        Args:
            folder: From `place`.
            asked: By which file.
            numbers: Of the batches in the folder.
            most: Bytes that each may be.

        Raises:
            DeviceError: One is larger, or cannot be had.
        """
        files = [f"{folder}/{asked.folder}/{number:06d}.answer" for number in numbers]
        content, sizes = b"", [1] * len(files)
        while len(content) < sum(sizes):
            request = {"files": files, "offset": len(content)}
            answer = self._again(lambda ask=request: self._site.connection.ask("answers-give", ask))  # type: ignore[misc]
            try:
                sizes = [int(size) for size in answer["sizes_bytes"]]
                piece = zlib.decompressobj().decompress(base64.b64decode(answer["piece"]), MOST_GIVEN)
            except (binascii.Error, zlib.error, LookupError, TypeError, ValueError) as error:
                raise DeviceError(f"{self._site.connection.where}: its answer is odd: {error}", _ODD) from error
            if len(sizes) != len(files) or max(sizes) > most or min(sizes) < 1 or not piece:
                raise DeviceError(f"{self._site.connection.where}: answers of {max(sizes, default=0):,} bytes", _ODD)
            content += piece
        edges = [0, *itertools.accumulate(sizes)]
        return [content[start:end] for start, end in itertools.pairwise(edges)]

    def forget(self, folder: str, batches: Sequence[Payload], *, keep: bool) -> None:
        """Remove a folder of batches and answers there.

        Args:
            folder: From `place`.
            batches: Those in it.
            keep: The contents of the batches stay, by their digest, for another file or bundle.
        """
        digests = [] if keep else [each.sha256 for each in batches]
        self._again(
            lambda: self._site.connection.ask("answers-forget", {"folder": folder, "digests": digests}, timeout_s=300)
        )

    def sweep(self) -> None:
        """Remove what runs that were given up have left there, but the newest."""
        self._again(lambda: self._site.connection.ask("sweep", {"folder": "evaluations", "keep": _KEPT}, timeout_s=300))

    def _again(self, work: Callable[[], T]) -> T:
        """Do something; where the way to the device breaks, once more."""
        for left in range(TRIES - 1, -1, -1):
            try:
                return work()
            except UnreachableError:
                if not left:
                    raise
                time.sleep(_WAIT_S)
        raise AssertionError("it is given or raised")


_ODD = "is it the device that you think it is? run it again"
