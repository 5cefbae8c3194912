"""What can be known of a device before anything long begins, or is sent: disk, base, runtimes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgespa.device.board import DEFAULT_FOLDER
from edgespa.device.link.payload import Payload
from edgespa.device.link.transport import Connection
from edgespa.device.runner.runtimes import runtimes_of
from edgespa.errors import ConfigError, DeviceError

_IMPORT_FROM = 4 << 20  # bytes to be sent from which a runtime is first loaded to see that it can be
_SECONDS = 120.0
_ANOTHER = "say where it may keep things: folder in [connection] of the device's profile"

# Looks for each format whether one of its runtimes is there, in the Python that would run it.
_LOOK = """
import importlib, importlib.util, json, os, sys
wanted, load = json.loads(sys.argv[1]), sys.argv[2] == "load"
def load_it(name):  # in a process of its own: an import may end it
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except Exception as error:
            text = (str(error).splitlines() or [type(error).__name__])[0]
            os.write(there, text.encode("utf-8", "replace")[:1000])
        os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as file:
        text = file.read().decode("utf-8", "replace")
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        raise ImportError("its import is ended by signal %d" % os.WTERMSIG(status))
    if text:
        raise ImportError(text)
def wrong(name):
    try:
        if importlib.util.find_spec(name.split(".")[0]) is None:
            return "No module named '" + name.split(".")[0] + "'"
        if load:
            load_it(name)
    except Exception as error:
        return name.split(".")[0] + ": " + (str(error).splitlines() or [type(error).__name__])[0]
first = wrong("numpy")
found = {kind: [] if first else [wrong(name) for name in names] for kind, names in wanted.items()}
print(json.dumps({"numpy": first, "formats": found}))
"""


@dataclass(frozen=True)
class Ready:
    """A device that could take a shipment.

    Attributes:
        bases: Digest of a base -> the SHA-256 of its file there.
        notes: What the user should know, in sentences.
    """

    bases: Mapping[str, str]
    notes: tuple[str, ...]


def require_ready(
    connection: Connection,
    python: Sequence[str],
    formats: Collection[str],
    files: Collection[Payload] = (),
    *,
    volatile: bool = False,
) -> Ready:
    """Look whether a device can take a shipment.

    Args:
        connection: To the device.
        python: The Python there that has the runtimes, as the beginning of an argument list.
        formats: Of the files that are to run there: one of them must find its runtime.
        files: To be there afterwards.
        volatile: Whether it may be one whose writes are gone after a reboot.

    Raises:
        DeviceError: It cannot be reached, has no space, its file system cannot hold versions or forgets them, or it has
            no runtime.
    """
    rows = [{"sha256": each.sha256, "size_bytes": each.size_bytes} for each in files]
    found = connection.ask("ready", {"files": rows})
    storage = found["storage"]
    if found["lacking"]:
        where = f"{connection.folder} on {storage['mount']} ({storage['type']})"
        raise DeviceError(
            f"{connection.where}: versions cannot be kept in {where}: {'; '.join(found['lacking'])}",
            f"choose a folder on another file system, such as ext4: {_ANOTHER}",
        )
    notes = _memory(connection, storage, volatile)
    _require_runtime(connection, python, formats, load=found["missing_bytes"] >= _IMPORT_FROM)
    return Ready({digest: str(row["sha256"]) for digest, row in found["bases"].items()}, notes)


def _memory(connection: Connection, storage: Mapping[str, Any], volatile: bool) -> tuple[str, ...]:
    why = storage["in_memory"]
    if why is None:
        return ()
    # A folder of that kind that the profile names was chosen: nobody names an overlay's by accident, but it is one.
    chosen = connection.folder != DEFAULT_FOLDER and storage["type"] in ("tmpfs", "ramfs")
    if not (chosen or volatile):
        raise DeviceError(
            f"{connection.where}: what is written there is gone after a reboot: {why}",
            "turn its overlay file system off (sudo raspi-config, Performance Options), ship, and turn it on again; "
            f"or {_ANOTHER}; or ship until the next reboot: --volatile",
        )
    return (f"it will be gone after a reboot: {why}",)


def _require_runtime(connection: Connection, python: Sequence[str], formats: Collection[str], *, load: bool) -> None:
    if not formats:
        raise ConfigError(
            "nothing in it runs on devices: its files are to go on from in PyTorch",
            "export it with --format onnx or tflite too",
        )
    wanted = {kind: [each.module for each in runtimes_of(kind)] for kind in sorted(formats)}
    argv = [*python, "-c", _LOOK, json.dumps(wanted), "load" if load else "look"]
    request = {"argv": argv, "timeout_s": _SECONDS, "small": not connection.device.is_local}
    done = connection.ask("execute", request, hold=True, timeout_s=_SECONDS + 30)
    try:
        answer = json.loads(str(done["stdout"]).strip().splitlines()[-1])
        reasons = {kind: list(each) for kind, each in answer["formats"].items()}
        first = answer["numpy"]
    except (ValueError, LookupError, TypeError, AttributeError):
        last = " / ".join(str(done["stderr"]).strip().splitlines()[-3:])
        status = int(done["status"])
        how = done["killed"] or (f"ended by signal {-status}" if status < 0 else f"ended with status {status}")
        raise no_runtime(connection, f"{python[0]} {how} when it was to load a runtime: {last}") from None
    if first:
        raise no_runtime(connection, str(first))
    if reasons and all(all(each) for each in reasons.values()):
        texts = [f"no runtime for {kind} files ({'; '.join(map(str, each))})" for kind, each in reasons.items()]
        raise no_runtime(connection, "; ".join(texts))


def require_base(connection: Connection, ready: Ready, task: str, digest: str) -> None:
    """Look whether a device has the base of a task.

    Args:
        connection: To the device.
        ready: What is known of it.
        task: The task's name.
        digest: Of the base.

    Raises:
        DeviceError: It has not.
    """
    if digest not in ready.bases:
        raise no_base(connection, task)


def no_base(connection: Connection, task: str, size_bytes: int | None = None) -> DeviceError:
    """The error for a device without the base of a task.

    Args:
        connection: To the device.
        task: The task's name.
        size_bytes: Of the base's file, if it is known.
    """
    size = f" ({size_bytes:,} bytes)" if size_bytes is not None else ""
    return DeviceError(
        f"{connection.where} does not have the base that {task} was made on",
        f"send it too, once for all tasks on it{size}: add --with-base",
    )


def no_runtime(connection: Connection, why: str) -> DeviceError:
    """The error for a device without what a bundle runs in.

    Args:
        connection: To the device.
        why: In words.
    """
    return DeviceError(
        f"{connection.where}: {why}", f"install the runtimes there: edgespa devices setup {connection.device.asked}"
    )
