"""The systemd units by which a device pulls every now and then."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from edgespa.device.agent.disk import make_folder
from edgespa.device.agent.protocol import AgentError

SERVICE, TIMER = "edgespa-pull.service", "edgespa-pull.timer"
_EVERY = re.compile(r"^[1-9][0-9]{0,5}(s|min|h|d)$")


def unit_texts(python: str, agent: Path, root: Path, every: str) -> dict[str, str]:
    """File name -> text of a service and its timer.

    Args:
        python: That runs the agent.
        agent: The file that pulls.
        root: Where edgespa keeps things.
        every: From the end of a pull to the next: ``30min``, ``1h``, ``1d``. By a clock that nobody sets, so that a
            wrong date does no harm; and up to a tenth later, so that not all devices ask at once.

    Raises:
        AgentError: It is no such time.
    """
    # KillMode=process: what watches a version in its health window goes on when the pull has ended.
    if not _EVERY.match(every):
        raise AgentError("usage", f"{every!r} is no time: 30min, 1h or 1d, say")
    command = " ".join(quoted(word) for word in (python, "-E", str(agent), "pull", "--folder", str(root)))
    seconds = int(re.sub(r"\D", "", every)) * {"s": 1, "min": 60, "h": 3600, "d": 86400}[re.sub(r"\d", "", every)]
    service = f"""[Unit]
Description=edgespa: pull tasks
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart={command}
Nice=10
IOSchedulingClass=idle
KillMode=process
TimeoutStartSec=2h
"""
    timer = f"""[Unit]
Description=edgespa: pull tasks every {every}

[Timer]
OnStartupSec=2min
OnUnitInactiveSec={every}
RandomizedDelaySec={max(1, seconds // 10)}s

[Install]
WantedBy=timers.target
"""
    return {SERVICE: service, TIMER: timer}


def quoted(word: str) -> str:
    """A word of ExecStart=, see systemd.service(5): specifiers, variables and quotes mean themselves."""
    plain = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return plain if re.match(r"^[A-Za-z0-9_./-]+$", word) else f'"{plain}"'


def unit_folder() -> Path:
    """Where units of this user belong: the system's for root."""
    if os.geteuid() == 0:
        return Path("/etc/systemd/system")
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base) / "systemd" / "user"


def write_units(folder: Path, texts: dict[str, str]) -> list[str]:
    """Write units, each whole or not at all; their paths."""
    make_folder(folder)
    for name, text in texts.items():
        new = folder / f".{name}.tmp"
        new.write_text(text, encoding="utf-8")
        os.replace(str(new), str(folder / name))
    return [str(folder / name) for name in texts]


def units_to_enable() -> str:
    """What is typed on the device so that the timer runs, now and after each start."""
    if os.geteuid() == 0:
        return f"systemctl daemon-reload && systemctl enable --now {TIMER}"
    return f"systemctl --user daemon-reload && systemctl --user enable --now {TIMER} && loginctl enable-linger"


def own_python() -> str:
    """The Python that runs this, by its path."""
    return sys.executable or "/usr/bin/python3"
