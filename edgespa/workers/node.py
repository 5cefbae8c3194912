"""A job on a node: what it reads is there, or is taken from the object store once; what it writes goes back.

Nothing is copied where the node sees the same files under the same names.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgespa.errors import ConfigError, DataError, EdgespaError
from edgespa.models.elsewhere import Elsewhere, recorded_as
from edgespa.system.files import expanded, folder_beside, hold, is_held, plain_text, whole_file
from edgespa.workers.calling import carried_out
from edgespa.workers.carried import Carried, digest_of_contents, inside, is_digest, look, unpack
from edgespa.workers.job import Failure

MARK = ".on-nodes"
"""A file in the folder of the jobs, while they run: who sees it with the right word in it sees the folder."""
UNUSED_S = 14 * 86400
"""Copies that no job has used for so long are removed when another one comes."""
MOST_BACK = 16 << 30
"""Bytes that a job may bring back."""
_SPARE = 256 << 20
_CONTENTS, _FILES = "contents.json", "files"
_Get = Callable[[Any], Any]


def on_node(call: str, arguments: Mapping[str, Any], travel: Mapping[str, Any], get: _Get) -> dict[str, Any]:
    """Carry out a job, whatever of its files is seen here; raises nothing but an interrupt.

    Args:
        call: See `edgespa.workers.job.Job`.
        arguments: Likewise, with the paths of whoever asks.
        travel: ``reads``: of each ``spec``, its parts ``head``, ``name`` and ``tail``, ``real``, ``signature`` and
            ``size_bytes``, and once they were put into the store ``digest``, ``contents`` and ``pieces``, for `get`.
            ``folder``, ``real`` and ``word`` of the folder
            that is written to, ``writes``, and ``sent``, what lies there: ``[name, rights, content]``.
        get: Takes something from the object store.

    Returns:
        As `carried_out`, with ``files`` and ``gone`` where the folder is not seen here; or ``needs``, what has to be
        put into the store first: nothing was done then.
    """
    began = time.monotonic()
    try:
        seen = _sees(travel)
        specs, missing = _places(travel["reads"], get)
        if missing or (not seen and "sent" not in travel):
            return {"needs": {"reads": missing, "sent": not seen and "sent" not in travel}}
        if seen:
            return _done(call, arguments, travel, specs, None)
        with folder_beside(_cache() / "job") as beside:
            work = beside / "work"
            work.mkdir()
            before = _lay_out(work, get(travel["sent"]))
            answer = _done(call, arguments, travel, specs, work)
            answer["files"], answer["gone"] = _changed(work, travel["writes"], before)
            return answer
    except EdgespaError as error:
        failure = Failure(error.message, error.hint, True, type(error).__name__)
    except OSError as error:
        failure = Failure(
            f"{error.filename or _cache()}: {error.strerror or error}",
            "make room there, or name another folder for copies on that node: EDGESPA_CACHE",
            True,
            type(error).__name__,
        )
    return {"value": None, "failure": vars(failure), "seconds": time.monotonic() - began, "said": []}


def _done(
    call: str, arguments: Mapping[str, Any], travel: Mapping[str, Any], specs: Mapping[str, str], work: Path | None
) -> dict[str, Any]:
    said = {
        specs[each["spec"]]: (each["spec"], each["real"])
        for each in travel["reads"] if specs[each["spec"]] != each["spec"]
    }  # fmt: skip
    folder = str(travel["folder"])
    stands_for = None if work is None else Path(str(travel["real"]))
    with recorded_as(Elsewhere(said, work, stands_for)):
        return carried_out(call, replaced(arguments, specs, folder, work))


def replaced(arguments: Mapping[str, Any], specs: Mapping[str, str], folder: str, work: Path | None) -> dict[str, Any]:
    """Arguments of a job with the paths that hold here.

    Args:
        arguments: With those of whoever asks.
        specs: What is read -> where it is here.
        folder: That is written to, there.
        work: And here; None where it is the same.
    """

    def here(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: here(each) for name, each in value.items()}
        if isinstance(value, list):
            return [here(each) for each in value]
        if isinstance(value, str):
            if value in specs:
                return specs[value]
            if work is not None and (value == folder or value.startswith(f"{folder}/")):
                return str(inside(work, value.removeprefix(folder).lstrip("/"))) if value != folder else str(work)
        return value

    found: dict[str, Any] = here(arguments)
    return found


def _sees(travel: Mapping[str, Any]) -> bool:
    if travel["folder"] is None:  # it writes nothing there
        return True
    with contextlib.suppress(OSError, ValueError):
        return plain_text(Path(str(travel["folder"])) / MARK) == str(travel["word"])
    return False


def _places(reads: Sequence[Mapping[str, Any]], get: _Get) -> tuple[dict[str, str], list[str]]:
    """Where what is read lies here, and what of it is not here and cannot be fetched yet."""
    found: dict[str, str] = {}
    missing: list[str] = []
    for each in reads:
        spec = str(each["spec"])
        own = _look(spec)
        if own is not None and own.signature == each["signature"]:
            found[spec] = spec
        elif "digest" not in each:
            missing.append(spec)
        elif own is not None and digest_of_contents(own.contents()) == each["digest"]:
            found[spec] = spec
        else:
            found[spec] = f"{each['head']}{fetched(each, get) / each['name']}{each['tail']}"
    return found, missing


def _look(spec: str) -> Carried | None:
    with contextlib.suppress(OSError, EdgespaError):
        return look(spec)
    return None


def fetched(each: Mapping[str, Any], get: _Get) -> Path:
    """The folder with a copy; it is fetched where there is none that is whole.

    Args:
        each: ``digest``, ``size_bytes``, ``contents``, ``pieces``.
        get: See `on_node`.

    Raises:
        DataError: What arrives is not what was put there.
        ConfigError: It has no room here, or copies are not to be kept.
        OSError: It cannot be written.
    """
    digest = str(each["digest"])
    if not is_digest(digest):
        raise DataError(f"{digest[:80]!r} is no digest", "install the same edgespa everywhere")
    cache = _cache()
    place = cache / digest
    with _alone(cache / f"{digest}.lock"):  # of several jobs on this node one fetches it
        if not _is_whole(place):
            if place.exists():
                shutil.rmtree(place)
            _remove_unused(cache)
            _require_room(cache, int(each["size_bytes"]))
            with folder_beside(place) as beside:
                whole = beside / "whole"
                (whole / _FILES).mkdir(parents=True)
                contents = get(each["contents"])
                if digest_of_contents(contents) != digest:
                    raise DataError(f"{each['spec']} has arrived as something else", "do it again")
                unpack(contents, (get(piece) for piece in each["pieces"]), whole / _FILES)
                with whole_file(whole / _CONTENTS) as stream:
                    stream.write(json.dumps(contents).encode())
                whole.rename(place)
        os.utime(place)
    return place / _FILES


def _is_whole(place: Path) -> bool:
    """Whether all files of a copy are there, by their sizes: what is not whole was never renamed into its place."""
    try:
        contents = json.loads((place / _CONTENTS).read_bytes())
        whole = digest_of_contents(contents) == place.name
        return whole and all((place / _FILES / name).stat().st_size == size for name, size, _ in contents)
    except (OSError, ValueError, TypeError):
        return False


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Nobody else on this node fetches it; a lock ends with its process."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        hold(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def _cache() -> Path:
    """The folder of copies on this node, which is this user's alone."""
    named = os.environ.get("EDGESPA_CACHE")
    if named in ("", "off"):
        raise ConfigError(
            "this node does not see the files of the job, and EDGESPA_CACHE=off keeps no copies",
            "name a folder for them on that node, or put the files where all nodes see them",
        )
    home = expanded(named) if named else expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "edgespa"
    folder = (home / "nodes").absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.geteuid() or state.st_mode & 0o022:
        raise ConfigError(f"{folder} can be written by others", "name another folder on that node: EDGESPA_CACHE")
    return folder


def _require_room(cache: Path, size_bytes: int) -> None:
    free = shutil.disk_usage(cache).free
    if size_bytes + _SPARE > free:
        raise ConfigError(
            f"{cache} has {free / 2**20:,.0f} MiB left, and a copy of the job's files needs {size_bytes / 2**20:,.0f}",
            "make room there, or name another folder for copies on that node: EDGESPA_CACHE",
        )


def _remove_unused(cache: Path) -> None:
    for each in cache.iterdir():
        with contextlib.suppress(OSError):
            lock = cache / f"{each.name}.lock"
            if is_digest(each.name) and time.time() - each.stat().st_mtime > UNUSED_S and not is_held(lock):
                shutil.rmtree(each)
                lock.unlink(missing_ok=True)


def _lay_out(work: Path, sent: Sequence[Sequence[Any]]) -> dict[str, tuple[int, int, int]]:
    for name, rights, content in sent:
        path = inside(work, str(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(int(rights) & 0o777)
    return {name: state for name, state in _states(work)}


def _states(work: Path) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for each in work.rglob("*"):
        if each.is_file() and not each.is_symlink():
            state = each.stat()
            yield each.relative_to(work).as_posix(), (state.st_size, state.st_mtime_ns, state.st_ino)


def _changed(
    work: Path, writes: Sequence[str], before: Mapping[str, tuple[int, int, int]]
) -> tuple[list[tuple[str, int, bytes]], list[str]]:
    """What a job made, in the order of `writes` (clocks of file systems are too coarse), and what it removed."""
    now = {name: state for name, state in _states(work) if belongs(name, writes)}
    new = sorted((_turn(name, writes), name) for name, state in now.items() if before.get(name) != state)
    if (size := sum(now[name][0] for _, name in new)) > MOST_BACK:
        raise DataError(f"the job made {size / 2**30:,.0f} GiB, too much to be brought back", "use a shared folder")
    files = [(name, (work / name).stat().st_mode & 0o777, (work / name).read_bytes()) for _, name in new]
    return files, sorted(name for name in before if name not in now)


def _turn(name: str, writes: Sequence[str]) -> int:
    """The last place in a list of files and folders that a file belongs to."""
    return max(at for at, each in enumerate(writes) if belongs(name, [each]))


def belongs(name: str, writes: Sequence[str]) -> bool:
    """Whether a file is one that a job says that it writes.

    Args:
        name: Of the file, below the folder.
        writes: Names of files and folders.
    """
    return any(name == each or name.startswith(f"{each}/") for each in writes) and not re.search(r"\.tmp-", name)
