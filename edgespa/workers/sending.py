"""What nodes are told of a job's files, and given where they do not see them: once each, by Ray's object store."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgespa.errors import DataError
from edgespa.system.files import write_whole
from edgespa.workers.carried import Carried, digest_of_contents, inside, look
from edgespa.workers.job import Job
from edgespa.workers.node import MARK, belongs

log = logging.getLogger(__name__)


class Sending:
    """The files of all jobs, from the side of whoever asks.

    Args:
        ray: The module: its ``put`` keeps what a node fetches.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._word = secrets.token_hex(16)
        self._marked: set[Path] = set()
        self._put: dict[tuple[str, str], dict[str, Any]] = {}

    def of(self, job: Job, needs: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """What a node is told of a job's files; None where it has none.

        Args:
            job: It.
            needs: What a node has said that it does not see; that is put into the store, unless it is there.

        Raises:
            DataError: There is too much of it, it cannot be read, or it changed meanwhile.
        """
        if not job.reads and job.folder is None:
            return None
        try:
            return self._told_of(job, needs)
        except OSError as error:
            raise DataError(
                f"{error.filename or job.name}: {error.strerror or error}", "what a job reads has to be readable here"
            ) from error

    def _told_of(self, job: Job, needs: Mapping[str, Any] | None) -> dict[str, Any]:
        found = [each for spec in dict.fromkeys(job.reads) if (each := look(spec)) is not None]
        wanted = () if needs is None else needs["reads"]
        reads = []
        for each in found:
            if each.spec in wanted and (each.spec, each.signature) not in self._put:
                self._put[each.spec, each.signature] = self._in_store(each)
            reads.append(_told(each) | self._put.get((each.spec, each.signature), {}))
        travel: dict[str, Any] = {"reads": reads, "folder": None, "writes": list(job.writes)}
        if job.folder is not None:
            folder = Path(job.folder)
            self._mark(folder)
            travel |= {"folder": job.folder, "real": str(folder.resolve()), "word": self._word}
            if needs is not None and needs["sent"]:
                travel["sent"] = self._ray.put(_lying(folder, job.writes))
        return travel

    def take(self, job: Job, answer: Mapping[str, Any]) -> None:
        """Write what a job has made on a node that does not see its folder, in the order in which it was made there.

        Args:
            job: It.
            answer: Of `edgespa.workers.node.on_node`.

        Raises:
            DataError: It has a name that is none of the job's.
            OSError: It cannot be written.
        """
        files, gone = answer.get("files", ()), answer.get("gone", ())
        if not files and not gone:
            return
        folder = Path(str(job.folder))
        for name in [*(each[0] for each in files), *gone]:
            if job.folder is None or not belongs(str(name), job.writes):
                raise DataError(f"{job.name}: a node sent {str(name)[:80]!r}", "install the same edgespa everywhere")
        for name in gone:
            inside(folder, name).unlink(missing_ok=True)
        for name, rights, content in files:
            path = inside(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content, mode=int(rights) & 0o777)

    def close(self) -> None:
        """Leave nothing in the folders, and nothing in the store."""
        self._put.clear()
        for folder in self._marked:
            with contextlib.suppress(OSError):
                (folder / MARK).unlink()
        self._marked.clear()

    def _mark(self, folder: Path) -> None:
        if folder not in self._marked:
            write_whole(folder / MARK, self._word.encode())
            self._marked.add(folder)

    def _in_store(self, each: Carried) -> dict[str, Any]:
        """Put it there: it stays as long as this does."""
        contents = each.contents()
        log.info("%s: %.1f MiB are sent to nodes that do not see it", each.spec, each.size_bytes / 2**20)
        return {
            "digest": digest_of_contents(contents),
            "contents": self._ray.put(contents),
            "pieces": [self._ray.put(piece) for piece in each.pieces()],
        }


def _told(each: Carried) -> dict[str, Any]:
    return {
        "spec": each.spec,
        "real": each.real,
        "signature": each.signature,
        "head": each.head,
        "name": each.path.name,
        "tail": each.tail,
        "size_bytes": each.size_bytes,
    }


def _lying(folder: Path, writes: Sequence[str]) -> list[tuple[str, int, bytes]]:
    """What of a job's own lies in the folder already, such as the state of a training: name, rights, content."""
    found = []
    for name in writes:
        path = folder / name
        for each in [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []:
            own = each.relative_to(folder).as_posix()
            if each.is_file() and not each.is_symlink() and belongs(own, writes):
                found.append((own, each.stat().st_mode & 0o777, each.read_bytes()))
    return found
