"""What ssh says when it cannot, what has happened then, and what to do. Pure.

Only lines as ssh itself writes them are looked for: a banner, a picture of a host key or a program on the device may
say "permission denied" or "host key" too.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Way:
    """How a device is reached, as ssh has resolved it; for hints.

    Attributes:
        at: What ssh is given: user and host.
        host: Without the user.
        by_hand: The command that connects by hand.
        jump: The hosts in between, as they are written in the configuration; None for none.
    """

    at: str
    host: str
    by_hand: str
    jump: str | None = None


@dataclass(frozen=True)
class Complaint:
    """What has happened.

    Attributes:
        what: In words.
        line: The line of ssh that says so.
        hint: What to do.
        sure: Whether that is the reason, and not only what came of it.
    """

    what: str
    line: str
    hint: str
    sure: bool = True


AGAIN = "try again: what has been sent stays there"

# What ssh says -> what has happened, and what to do; the first that is found holds. Groups of the pattern are {0}, {1}.
_COMPLAINTS: tuple[tuple[str, str, str], ...] = (
    (
        r"^Host key for (\S+) has changed",
        "its host key has changed: this may be another device, or somebody in between",
        "if the device was set up anew: {forget}, then compare the new key: {ssh}",
    ),
    (
        r"marked as revoked",
        "its host key is revoked: it is not to be trusted any more",
        "find out who has revoked it, and why, before anything else",
    ),
    (
        r"^Certificate invalid: (.+)",
        "its host certificate is not valid: {0}",
        "have it renewed, and see that the clocks on both sides are right",
    ),
    (
        r"^No \S+ host key is known for|^Host key verification failed|^The authenticity of host",
        "its host key is not known",
        "connect once by hand and compare the key with the device's: {ssh}",
    ),
    (
        r"^Permissions \d+ for '(.+)' are too open",
        "the key for it may be read by others, so ssh does not use it",
        "chmod 600 {0}",
    ),
    (
        r'^Load key "(.+)": (.+)',
        "the key for it cannot be used",
        "look at that file; a key with a passphrase must be in the agent: ssh-add {0}",
    ),
    (
        r"Too many authentication failures",
        "ssh offered it too many keys, and it let none in",
        "name the right one for it in ~/.ssh/config: IdentityFile, and IdentitiesOnly yes",
    ),
    (
        r"^sign_and_send_pubkey: .*(agent refused|signing failed|communication with agent failed)",
        "the agent does not sign with the key for it",
        "unlock or confirm it, or add it again: ssh-add",
    ),
    (
        r"[Ss]ystem is booting up|[Uu]nprivileged users are not permitted to log in yet|pam_nologin",
        "it is still starting",
        "wait a minute, then try again",
    ),
    (
        r"^This account is currently not available|^\S*nologin: ",
        "its user has no login shell",
        "give it one there: sudo chsh -s /bin/sh USER, or name another user in [connection] of the device's profile",
    ),
    (
        r"[Pp]assword has expired|Password change required|required to change your password",
        "the password of its user has expired, and must be changed first",
        "connect once by hand, and change it: {ssh}",
    ),
    (r"account has expired", "the account of its user has expired", "ask who looks after it, or name another user"),
    (
        r"^\S+@\S+: Permission denied \(|^(.*: )?No more authentication methods|^\S+@\S+: Permission denied,",
        "it does not let us in",
        "install your key there: ssh-copy-id {at}; a key with a passphrase must be in the agent: ssh-add",
    ),
    (
        r"^(ssh: )?connect to (host|address) .*Connection refused",
        "nothing listens there",
        "start its SSH server, or correct the port: {ssh}",
    ),
    (
        r"^(ssh: )?connect to (host|address) .*timed out|^Timeout, server|^Connection timed out during banner exchange|"
        r"^Connection to \S+ port \d+ timed out|did not respond|^ssh_dispatch_run_fatal: .*timed out",
        "it does not answer",
        "see whether it is on and in this network; then try again",
    ),
    (
        r"^(ssh: )?connect to (host|address) .*(No route to host|Network is unreachable|Host is down)",
        "there is no way to it",
        "see whether it is on",
    ),
    (
        r"Could not resolve hostname",
        "its address is not known",
        'write host = "ADDRESS" below [connection] in the device\'s profile, or Host {host} in ~/.ssh/config',
    ),
    (
        r"Bad configuration option|^Can't open user config|^Bad owner or permissions|terminating, .* bad configuration|"
        r"^command-line line \d+|keyword \S+ extra arguments",
        "ssh does not take its configuration",
        "correct the file that is named",
    ),
    (
        r"^Unable to negotiate with|no matching (host key type|key exchange method|cipher|MAC) found",
        "it speaks only what this ssh no longer does",
        "renew its SSH server, or allow in ~/.ssh/config what the message offers; try it by hand: {ssh}",
    ),
    (
        r"^(Received disconnect from|Disconnected from) .*: (.+)",
        "it ended the connection: {1}",
        "try it by hand: {ssh}",
    ),
    (
        r"^safely_chroot|^Could not chdir|^chroot\(",
        "its SSH server cannot begin a session",
        "look into the server's configuration there; by hand: {ssh}",
    ),
)

_BROKE = (
    r"[Cc]onnection (to .* )?(closed|reset)|Broken pipe|read from master failed|master is dead|^mux_client|"
    r"kex_exchange_identification|packet_write|lost connection|^client_loop: "
)
_JUMPS = (
    (
        r"open failed: administratively prohibited",
        "does not pass connections on",
        "allow it there (AllowTcpForwarding, PermitOpen)",
    ),
    (r"open failed: connect failed: (.*)", "does not reach it: {0}", "see whether the device is on, from there"),
)


def lines_of(said: str) -> list[str]:
    """What was said, without frames and empty lines."""
    return [line.strip() for line in said.splitlines() if line.strip(" @\t\r")]


def explain(lines: Sequence[str], way: Way) -> Complaint | None:
    """What has happened, from the lines of ssh; None where they do not tell.

    Args:
        lines: Of ssh.
        way: How the device is reached.
    """
    for pattern, what, hint in _COMPLAINTS:
        found = [(line, match) for line in lines if (match := re.search(pattern, line))]
        if found:
            line, match = found[-1]
            words = {"at": way.at, "host": way.host, "ssh": way.by_hand, "forget": _forget(lines, match)}
            return Complaint(_filled(what, match), line, _filled(hint, match, words))
    broke = [line for line in lines if re.search(_BROKE, line)]
    return Complaint("the connection broke", broke[-1], AGAIN, sure=False) if broke else None


def explain_closed(lines: Sequence[str], way: Way) -> Complaint | None:
    """A server that closes each connection before it has said who it is; None where it is something else.

    Args:
        lines: Of ssh, of a second try.
        way: How the device is reached.
    """
    closed = [line for line in lines if re.search(r"^kex_exchange_identification: .*(closed|reset)", line)]
    if not closed:
        return None
    why = "it may refuse this address (fail2ban, hosts.deny), have too many connections, or be starting"
    return Complaint("its SSH server closes the connection at once", closed[-1], f"{why}; by hand: {way.by_hand}")


def explain_jump(lines: Sequence[str], way: Way) -> Complaint | None:
    """How a jump host that let us in has refused to go on; None where it has not.

    Args:
        lines: Of ssh, and of the one that it has started for the jump host.
        way: How the device is reached.
    """
    for pattern, what, hint in _JUMPS:
        for line in lines:
            match = re.search(pattern, line)
            if match:
                by_hand = f"by hand: ssh {shlex.quote(way.jump or '')}"
                return Complaint(f"its jump host {way.jump} {_filled(what, match)}", line, f"{hint}; {by_hand}")
    return None


def _filled(text: str, match: re.Match[str], words: dict[str, str] | None = None) -> str:
    groups = [shlex.quote(each) if words is not None and each else each or "" for each in match.groups()]
    return text.format(*groups, **(words or {}))


def _forget(lines: Sequence[str], match: re.Match[str]) -> str:
    """The command that forgets a host key: by the name, with the port, and in the file that ssh looked into."""
    if not match.groups() or match.group(1) is None:
        return "ssh-keygen -R HOST"
    files = [found.group(1) for line in lines if (found := re.match(r"Offending \S+ key in (.+):\d+$", line))]
    usual = not files or files[-1].endswith("/.ssh/known_hosts")
    return shlex.join(["ssh-keygen", *([] if usual else ["-f", files[-1]]), "-R", match.group(1)])
