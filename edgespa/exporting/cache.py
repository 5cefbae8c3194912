"""Converted files by what they were made of: a second export of the same program with the same options finds them.

One file an entry: a line of JSON, the content's digest in it, then the content. An entry that does not fit its digest
is no entry. Writers rename whole files into place, so two at a time do no harm; the entries that were used longest ago
go when there is too much. Nothing in here is trusted: what comes out is proved like what was converted anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.graph.program import Program
from edgespa.system.files import expanded, write_whole
from edgespa.system.sources import own_sources

log = logging.getLogger(__name__)

FOLDER_VARIABLE, SIZE_VARIABLE = "EDGESPA_CACHE", "EDGESPA_CACHE_BYTES"
DEFAULT_BYTES = 2 << 30
_TOOLS = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnxsim",
    "litert-torch",
    "ai-edge-quantizer",
    "ncnn",
    "pnnx",
    "executorch",
)


@dataclasses.dataclass(frozen=True)
class Cache:
    """A folder of entries.

    Attributes:
        folder: Made when it is first written to; None: nothing is kept or found.
        limit: Most bytes of all entries.
    """

    folder: Path | None
    limit: int = DEFAULT_BYTES

    @classmethod
    def of_user(cls) -> Cache:
        """The user's: ``EDGESPA_CACHE``, or ``edgespa`` in the folder for caches; none where that is empty or "off"."""
        named = os.environ.get(FOLDER_VARIABLE)
        size = os.environ.get(SIZE_VARIABLE, "")
        limit = int(size) if size.isdecimal() else DEFAULT_BYTES
        if named is not None:
            return cls(None if named in ("", "off") else expanded(named) / "export", limit)
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return cls(expanded(home) / "edgespa" / "export", limit)

    def restore(self, key: str, path: Path) -> dict[str, Any] | None:
        """Write an entry's content to a file.

        Args:
            key: Of the entry, from `key_of`.
            path: The file.

        Returns:
            What was kept with it; None if there is no such entry, or none that is whole.
        """
        found = self._find(key)
        if found is None:
            return None
        payload, notes = found
        with contextlib.suppress(OSError):
            os.utime(self._path(key))
        path.write_bytes(payload)
        return notes

    def has(self, key: str) -> bool:
        """Whether there is an entry, and it is whole.

        Args:
            key: Of the entry.
        """
        return self._find(key) is not None

    def _find(self, key: str) -> tuple[bytes, dict[str, Any]] | None:
        if self.folder is None:
            return None
        entry = self._path(key)
        try:
            content = entry.read_bytes()
        except OSError:
            return None
        line, _, payload = content.partition(b"\n")
        try:
            header = json.loads(line)
            good = header["sha256"] == hashlib.sha256(payload).hexdigest()
            notes = dict(header["notes"]) if good else None
        except (ValueError, KeyError, TypeError):
            notes = None
        if notes is None:
            log.warning("the cache entry %s is damaged and is removed", entry)
            with contextlib.suppress(OSError):
                entry.unlink(missing_ok=True)
            return None
        return payload, notes

    def store(self, key: str, path: Path, notes: dict[str, Any]) -> None:
        """Keep a file; a cache that cannot be written is no error.

        Args:
            key: Of the entry.
            path: The file.
            notes: What to keep with it, as JSON has it.
        """
        if self.folder is None:
            return
        payload = path.read_bytes()
        header = {"sha256": hashlib.sha256(payload).hexdigest(), "notes": notes}
        content = json.dumps(header).encode() + b"\n" + payload
        if len(content) > self.limit:
            return
        try:
            entry = self._path(key)
            entry.parent.mkdir(parents=True, exist_ok=True)
            write_whole(entry, content)
            self._shrink(self.folder)
        except OSError as error:
            log.warning("the cache %s cannot be written: %s", self.folder, error)

    def beside(self, key: str, suffix: str) -> Path | None:
        """Where something small may be kept that is no entry, and goes when it was not used for long, as they do.

        Args:
            key: Of an entry that there may be or not.
            suffix: What it is.
        """
        return None if self.folder is None else self._path(f"{key}.{suffix}")

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / key

    def _shrink(self, folder: Path) -> None:
        entries = []
        for each in folder.glob("??/*"):
            with contextlib.suppress(OSError):  # another process may have removed it
                state = each.stat()
                entries.append((state.st_mtime, state.st_size, each))
        total = sum(size for _, size, _ in entries)
        for _, size, each in sorted(entries, key=lambda entry: entry[0]):
            if total <= self.limit:
                break
            with contextlib.suppress(OSError):
                each.unlink(missing_ok=True)
            total -= size


def key_of(*parts: object) -> str:
    """A key from all that a result depends on; versions of the tools and of this package's code are added.

    Args:
        *parts: Texts, numbers, tuples of them, bytes, arrays.
    """
    digest = hashlib.sha256(_code_digest().encode())
    for name in _TOOLS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            digest.update(f"{name}={metadata.version(name)}\n".encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}\n".encode())
            digest.update(np.ascontiguousarray(part).data)
        elif isinstance(part, bytes):
            digest.update(f"{len(part)}\n".encode() + part)
        else:
            digest.update(f"{part!r}\n".encode())
    return digest.hexdigest()


def program_parts(program: Program) -> list[object]:
    """What a program is: its code, its inputs, its tensors.

    Args:
        program: The program.
    """
    parts: list[object] = [program.module.code, program.inputs]
    for name, tensor in sorted(program.state().items()):
        parts += [name, tensor.detach().cpu().contiguous().view(-1).numpy(), tuple(tensor.shape)]
    return parts


def _code_digest() -> str:
    digest = hashlib.sha256()
    for part in (("exporting",), ("device", "runner")):  # by the runner's figures files are chosen
        for text in own_sources(*part):
            digest.update(text.encode())
    return digest.hexdigest()
