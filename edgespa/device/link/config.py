"""What a profile of somebody else may have ssh read: where and who a host is, and nothing that runs here.

A configuration of OpenSSH can name programs (``ProxyCommand``, ``Match exec``, ``KnownHostsCommand``, libraries of
keys), read others, and hand over variables of this machine. So of a file that comes with a profile each line must be
one of those that only say how a host is reached, and its values must mean nothing to a shell. A profile among the
user's own has been put there, and may name what it likes.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgespa.device.board import NO_SHELL, user_folder
from edgespa.errors import ConfigError
from edgespa.system.bounds import shown

_MOST_BYTES = 1 << 20
_HARMLESS = {
    "addressfamily", "batchmode", "bindaddress", "casignaturealgorithms", "certificatefile", "checkhostip",
    "ciphers", "compression", "connectionattempts", "connecttimeout", "forwardagent", "globalknownhostsfile",
    "hashknownhosts", "host", "hostkeyalgorithms", "hostkeyalias", "hostname", "identitiesonly", "identityfile",
    "ipqos", "kbdinteractiveauthentication", "kexalgorithms", "loglevel", "macs", "numberofpasswordprompts",
    "passwordauthentication", "port", "preferredauthentications", "proxyjump", "pubkeyacceptedalgorithms",
    "pubkeyacceptedkeytypes", "pubkeyauthentication", "rekeylimit", "serveralivecountmax", "serveraliveinterval",
    "stricthostkeychecking", "tcpkeepalive", "user", "userknownhostsfile", "visualhostkey",
}  # fmt: skip
_LINE = re.compile(r"[ \t]*([A-Za-z][A-Za-z0-9]*)(?:[ \t]+|[ \t]*=[ \t]*)(.*)")
# OpenSSH puts these into the command line of a shell where a host is reached through another.
_NAMES = frozenset(("host", "hostname", "hostkeyalias", "user", "proxyjump"))


def require_plain(profile: Path, config: Path) -> None:
    """Refuse a file that has ssh do more than connect, unless its profile is among the user's own.

    Args:
        profile: The device's.
        config: What it names as ``ssh_config``; one that cannot be read is left to ssh, which says so.

    Raises:
        ConfigError: It names the line.
    """
    if profile.absolute().parent == user_folder().absolute():
        return
    try:
        with config.open("rb") as stream:
            text = stream.read(_MOST_BYTES + 1).decode("utf-8", "surrogateescape")
    except OSError:
        return
    odd = "it is large" if len(text) > _MOST_BYTES else next(filter(None, map(_oddity, text.split("\n"))), None)
    if odd is not None:
        raise ConfigError(
            f"{profile}: its ssh_config does more than say how a host is reached: {odd}",
            f"look at {config}; if it is yours, put the profile where yours are: {user_folder()}",
        )


def _oddity(line: str) -> str | None:
    """What is wrong with a line; None for a harmless one."""
    line = line.strip(" \t\r")
    if not line or line.startswith("#"):
        return None
    found = _LINE.fullmatch(line)
    if found is None or found[1].lower() not in _HARMLESS:
        return shown(line)
    if found[1].lower() in _NAMES and not all(re.fullmatch(NO_SHELL, each) for each in found[2].split()):
        return shown(line)
    return None
