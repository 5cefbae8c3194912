"""States of unfinished runs, as far as they can be looked at without torch: what they are of, and how they go on.

A state is a safetensors file whose text (JSON, `edgespa.tasks.checkpoint`) has under ``command`` what was asked for. It
may name code, such as ``net.py:build``, and going on runs it. So what is asked for is marked with a key that only this
user has; of a state without that mark, such as one from another machine, no command is taken.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import os
import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgespa.errors import TaskFileError, UnfinishedError
from edgespa.models.imports import nearest_path
from edgespa.system.files import expanded, is_held, sibling, write_whole

SUFFIX = ".resume"
KEY = "edgespa-checkpoint"
"""Under which a state's text stands among the metadata of its file."""

_COMMANDS = ("adapt", "prune", "heal")
_MOST_HEADER_BYTES = 64 << 20


def state_path(output: Path) -> Path:
    """Where the state of an unfinished run lies."""
    return output.with_name(output.name + SUFFIX)


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """What a state says of its run.

    Attributes:
        path: Of the state.
        facts: Its text.
    """

    path: Path
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Unfinished:
        """Look at a state; its tensors are not read, and so neither is its digest checked.

        Raises:
            TaskFileError: If it is none, or cannot be read.
        """
        try:
            with path.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                if not 2 <= size <= min(_MOST_HEADER_BYTES, os.fstat(stream.fileno()).st_size - 8):
                    raise ValueError("no safetensors file")
                header = json.loads(stream.read(size))
            facts = json.loads(header["__metadata__"][KEY])
            if not isinstance(facts, dict):
                raise TypeError(KEY)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise TaskFileError(
                f"{path}: not the state of an unfinished run, or damaged: {error}", "start anew with --fresh"
            ) from error
        return cls(path, facts)

    @property
    def command(self) -> tuple[str, tuple[str, ...], str] | None:
        """Name and arguments of the command, and its folder as seen from the state; None if it is not this user's."""
        told = self.facts.get("command")
        if not isinstance(told, dict) or not isinstance(told.get("mark"), str):
            return None
        content = {name: told.get(name) for name in ("name", "arguments", "folder")}
        key = _own_key(make=False)
        if key is None or not hmac.compare_digest(told["mark"], _mark(key, content)):
            return None
        return str(content["name"]), tuple(map(str, content["arguments"] or ())), str(content["folder"])

    @property
    def folder(self) -> Path | None:
        """The folder that the command was given in, if it is there."""
        found = self.command
        place = Path(os.path.normpath(self.path.absolute().parent / found[2])) if found is not None else None
        return place if place is not None and place.is_dir() else None

    @property
    def has_work(self) -> bool:
        """Whether anything would be lost with it."""
        facts = self.facts
        return bool(facts.get("epoch") or facts.get("steps_done") or "epoch" not in facts)

    @property
    def progress(self) -> str:
        """How far the run has come, in words."""
        facts = self.facts
        if "epoch" in facts:
            epochs, steps = _plain(facts.get("config"), "epochs"), facts.get("steps_done")
            inside = f" and {steps} step{'' if steps == 1 else 's'} of the next" if steps else ""
            return f"{facts['epoch']} of {epochs} epochs{inside} are done"
        count = len(facts.get("done") or ())
        return "1 layer is done" if count == 1 else f"{count} layers are done"

    @property
    def how(self) -> str:
        """The command that goes on with it."""
        name = _plain(self.facts.get("command"), "name")  # of a stranger's state, too: it is to be typed
        return f"edgespa {name if name in _COMMANDS else _COMMANDS[0]} --resume {shlex.quote(str(self.path))}"


def refuse_unfinished(output: Path, *, resume: bool, fresh: bool) -> None:
    """Raise before any work is done if a state would be lost, or is to be gone on with and is not there.

    Args:
        output: What the run writes in the end.
        resume: The state is to be gone on with.
        fresh: It is given up.

    Raises:
        UnfinishedError: It names both ways.
    """
    path = state_path(output)
    if resume and fresh:
        raise UnfinishedError(f"{path} cannot be gone on with and be given up", "give one of --resume and --fresh")
    if resume and not path.exists():
        raise nothing_to_resume(path)
    refuse_in_use(path)
    if path.exists() and not (resume or fresh):
        try:
            found = Unfinished.read(path)
        except TaskFileError as error:
            raise UnfinishedError(
                f"{path} is in the way: it may be the state of an unfinished run, and cannot be read",
                "move it away, or start anew and give it up with --fresh",
            ) from error
        if not found.has_work:
            return
        raise UnfinishedError(
            f"{path} is the state of an unfinished run: {found.progress}",
            f"go on with: {found.how}; or start anew and give it up with --fresh",
        )


def refuse_in_use(path: Path) -> None:
    """Raise where a run that is going on now has a state in use.

    Args:
        path: The state.

    Raises:
        UnfinishedError: With what to do.
    """
    if is_held(path):
        raise UnfinishedError(
            f"{path} is the state of a run that is going on now",
            "wait for that run or end it, or name another --output",
        )


def nothing_to_resume(path: Path) -> UnfinishedError:
    """The error for a state that is not there, with those that are."""
    folder = path.absolute().parent
    others = sorted(each.name for each in folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    if others:
        more = f"; states there: {', '.join(others[:5])}"
    else:
        near = nearest_path(path)
        more = f"; {near}" if near else ""
    return UnfinishedError(
        f"there is no state to go on with: {path}", f"check -o, or leave out --resume to start anew{more}"
    )


def marked(name: str, arguments: Sequence[str], output: Path) -> dict[str, Any]:
    """What a state records of the command that it is of.

    Args:
        name: ``adapt``.
        arguments: What follows it, given in the current folder.
        output: What the run writes in the end.
    """
    folder = os.path.relpath(Path.cwd(), output.absolute().parent)
    content = {"name": name, "arguments": list(arguments), "folder": folder}
    key = _own_key(make=True)
    return content if key is None else {**content, "mark": _mark(key, content)}


def _mark(key: bytes, content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True).encode("utf-8", errors="surrogatepass")
    return hmac.new(key, text, hashlib.sha256).hexdigest()


def _own_key(*, make: bool) -> bytes | None:
    """The user's key; None where there is none, or none can be kept."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    path = expanded(home) / "edgespa" / "key"
    try:
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _make_once(path, secrets.token_bytes(32))
        found = path.read_bytes()
    except (OSError, RuntimeError):
        return None
    return found if len(found) == 32 else None


def _make_once(path: Path, content: bytes) -> None:
    """Of several processes that make a file at the same time, the first one's is the one that all read."""
    own = sibling(path, "new")
    try:
        write_whole(own, content, mode=0o600)
        os.link(own, path)
    except FileExistsError:
        pass
    finally:
        own.unlink(missing_ok=True)


def _plain(found: object, name: str) -> Any:
    return found.get(name, "?") if isinstance(found, Mapping) else "?"
