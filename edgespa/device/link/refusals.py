"""What the agent's refusals mean, and what to do about each."""

from __future__ import annotations

from edgespa.device.board import Device
from edgespa.errors import DeviceError, RefusedError

_OTHER_FOLDER_HERE = "set XDG_DATA_HOME to a folder that can be written"
_OTHER_FOLDER = "say where it may keep things: folder in [connection] of the device's profile"

_BY_HAND = f"look at it there, by hand: these are its system's own words; or {_OTHER_FOLDER}"

# Kind -> what has happened, what to do.
_KINDS = {
    "full": ("its disk is full", f"free some space there, or {_OTHER_FOLDER}"),
    "read-only": ("its disk is read-only", f"mount it for writing, or {_OTHER_FOLDER}"),
    "forbidden": ("it may not be written there", f"let its user write there, or {_OTHER_FOLDER}"),
    "unsafe": (
        "others could change what edgespa runs there",
        f"let nobody but its user write to that folder (ls -ld; chown; chmod go-w), or {_OTHER_FOLDER}",
    ),
    "missing": ("something is not there", f"look at that path there, by hand, or {_OTHER_FOLDER}"),
    "busy": ("another edgespa works there", "wait until it is done, then try again"),
    "in-use": (
        "an application there keeps its model from being changed",
        "wait for it longer, --wait-for-lock 5m, say; or end that application; what was in use still is",
    ),
    "memory": ("it is out of memory", "stop other programs there, or add swap"),
    "processes": (
        "its user may start no more processes",
        "raise the limit there: ulimit -u, TasksMax of its systemd service, or pids.max of its control group",
    ),
    "odd": ("what lies there is odd", "look at it by hand, and put it in order"),
    "damaged": ("what has come is damaged", "try again; if it stays so, check its SD card"),
    "unable": (
        "signatures cannot be checked there",
        "install OpenSSH 8.2 or newer there (on Debian: apt-get install openssh-client), "
        "or let it take what nobody has signed: --unsigned",
    ),
    "url": ("it cannot pull from there", "give the http:// or https:// URL of the folder that has index.json"),
    "no-program": (
        "a program cannot be run",
        f"see by hand that it is there, and that its disk may hold programs (noexec); or {_OTHER_FOLDER}",
    ),
}


def refusal(device: Device, kind: str, message: str) -> DeviceError:
    """The error for what the agent answered.

    Args:
        device: That it is on.
        kind: One word, see `edgespa.device.agent.protocol`.
        message: The agent's own.
    """
    if kind == "old":
        return DeviceError(
            f"{device.name}: its Python is {message}; edgespa needs 3.8 or newer there",
            "install a newer one, or say where it is: python in [connection] of the device's profile",
        )
    what, hint = _KINDS.get(kind, ("it cannot do that", _BY_HAND))
    if device.is_local:
        hint = hint.replace(_OTHER_FOLDER, _OTHER_FOLDER_HERE)
    return RefusedError(kind, f"{device.name}: {what}: {message}", hint)
