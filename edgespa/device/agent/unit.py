"""A unit of systemd that goes on with health windows when the device has started.

Of a user's manager it runs from the login on, or with lingering (``loginctl enable-linger``) from the start of the
device; for root it is one of the system's. Without systemd, or where it says no, nothing depends on it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from edgespa.device.agent.units import quoted, unit_folder

PULLS = "edgespa-agent"  # the program of devices that pull: it takes its words otherwise
UNIT = "edgespa-watch.service"
RUNNING = Path("/run/systemd/system")
LINGERS = Path("/var/lib/systemd/linger")
SYSTEMCTL_S = 20.0


def unit_text(python: str, agent: str, root: str) -> str:
    """The unit: it runs the agent's ``watch``, which ends when no window is open."""
    own = ["watch", "--folder", root] if os.path.basename(agent) == PULLS else [root, "watch"]
    words = " ".join(quoted(each) for each in (python, "-I", "-S", agent, *own))
    lines = [
        "[Unit]",
        "Description=edgespa: health windows of models, gone on with after a restart",
        "",
        "[Service]",
        f"ExecStart={words}",
        "StandardInput=null",
        "Nice=5",
        "",
        "[Install]",
        "WantedBy=default.target" if os.geteuid() else "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def begin_by_unit(root: Path) -> tuple[bool, list[str]]:
    """Write the unit, and start it where it stays when the connection has ended.

    Returns:
        Whether it was started, and notes for the user.
    """
    agent = own_file()
    if agent is None or not RUNNING.is_dir() or shutil.which("systemctl") is None:
        return False, []
    stays = not os.geteuid() or _lingers()
    text = unit_text(sys.executable, agent, str(root))
    try:
        path = unit_folder() / UNIT
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f".{UNIT}.{os.getpid()}")
            new.write_text(text, encoding="utf-8")
            os.replace(str(new), str(path))
            _systemctl("daemon-reload")
        enabled = _systemctl("enable", UNIT)
    except (OSError, UnicodeDecodeError):
        enabled = False
    notes = []
    if not enabled:
        notes.append("after a restart its window is gone on with at the next look: systemd takes no unit")
    elif not stays:
        notes.append("after a restart its window is gone on with at the next login: sudo loginctl enable-linger there")
    return bool(enabled and stays and _systemctl("start", "--no-block", UNIT)), notes


def own_file() -> str | None:
    """Where this agent lies on the device; None where it came along with the command."""
    path = os.path.abspath(getattr(sys.modules.get(__name__), "__file__", None) or "")
    name = os.path.basename(path)
    return path if (name.startswith("agent_") or name == PULLS) and os.path.isfile(path) else None


def _lingers() -> bool:
    with contextlib.suppress(OSError, ImportError, KeyError):
        import pwd

        return (LINGERS / pwd.getpwuid(os.geteuid()).pw_name).exists()
    return False


def _systemctl(*words: str) -> bool:
    user = ["--user"] if os.geteuid() else []
    try:
        argv = ["systemctl", *user, *words]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=SYSTEMCTL_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
