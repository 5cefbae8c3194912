"""Files of signers ("ALLOWED SIGNERS" in ssh-keygen(1)): why a key in one of them was not accepted, by name.

ssh-keygen decides; of a key that has expired it says in some versions no more than of one that nobody knows.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase

_KEY_TYPE = re.compile(r"(ssh|ecdsa|sk|rsa|webauthn)-[a-z0-9@.-]+$")
_LATEST = 253_402_300_799  # the end of the year 9999: a certificate for ever says more
_CERTIFICATE = b"-cert-v01@openssh.com"
# Strings of the public key in a certificate, behind its type and a nonce.
_FIELDS = {
    b"ssh-ed25519": 1,
    b"ssh-rsa": 2,
    b"ssh-dss": 4,
    b"sk-ssh-ed25519@openssh.com": 2,
    b"sk-ecdsa": 3,
    b"ecdsa": 2,
}


@dataclass(frozen=True)
class Line:
    """One line of a file of signers.

    Attributes:
        number: From 1.
        principals: The names, or patterns of names.
        options: By their lower-case names; without a value the text is empty.
        key: Base64 of the public key.
    """

    number: int
    principals: str
    options: dict[str, str]
    key: str


@dataclass(frozen=True)
class Certificate:
    """What an OpenSSH certificate says of its key.

    Attributes:
        authority: The key that signed it, as the bytes that files of keys have in base64.
        valid_after: Seconds since 1970.
        valid_before: Likewise.
    """

    authority: bytes
    valid_after: int
    valid_before: int


def lines_of(text: str) -> tuple[tuple[Line, ...], tuple[int, ...]]:
    """The lines of a file of signers, and the numbers of those that are none."""
    found, odd = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = re.findall(r'(?:[^\s"]|"[^"]*")+', line)
        at = next((i for i in (1, 2) if i < len(words) and _KEY_TYPE.match(words[i])), None)
        if at is None or at + 1 >= len(words):
            odd.append(number)
            continue
        options = {}
        for option in re.findall(r'(?:[^,"]|"[^"]*")+', words[1] if at == 2 else ""):
            name, _, value = option.partition("=")
            options[name.strip().lower()] = value.strip('"')
        found.append(Line(number, words[0].strip('"'), options, words[at + 1]))
    return tuple(found), tuple(odd)


def why_not(
    lines: tuple[Line, ...], key: bytes, identity: str | None, namespace: str, now: datetime | None = None
) -> str | None:
    """Why nobody in a file of signers is accepted for a key that is in it; None where it is not in it.

    Args:
        lines: Of the file.
        key: The public key of a signature, or its certificate.
        identity: Who was asked for; None for anyone.
        namespace: What the signature was made for.
        now: The time; None for the present one.
    """
    now = now or datetime.now(UTC)
    certificate = certificate_of(key)
    wanted = certificate.authority if certificate is not None else key
    reasons: list[str] = []
    for line in lines:
        if _decoded(line.key) != wanted or ("cert-authority" in line.options) != (certificate is not None):
            continue
        own = list(_reasons(line, identity, namespace, now))
        if not own and certificate is None:
            return f"ssh-keygen does not take line {line.number} as it stands: are its options quoted?"
        # A line about somebody else says the least.
        other = identity is not None and not _matches(identity, line.principals)
        reasons = [*reasons, *own[:1]] if other else [*own[:1], *reasons]
    if certificate is not None and not reasons:
        for word, at in (("is not valid before", certificate.valid_after), ("expired at", certificate.valid_before)):
            if (now.timestamp() < at) == (word != "expired at") and at < _LATEST:
                reasons.append(f"its certificate {word} {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC")
    return reasons[0] if reasons else None


def _reasons(line: Line, identity: str | None, namespace: str, now: datetime) -> Iterator[str]:
    whose = f"it is the key of {line.principals}"
    if identity is not None and not _matches(identity, line.principals):
        yield f"{whose}, not that of '{identity}'"
    if "namespaces" in line.options and not _matches(namespace, line.options["namespaces"]):
        yield f"{whose}, which may only sign for {line.options['namespaces']}, not for {namespace}"
    for name, expired in (("valid-before", True), ("valid-after", False)):
        if name not in line.options:
            continue
        at = time_of(line.options[name])
        if at is None:
            yield f"{whose}, and {name}={line.options[name]} is no time"
        elif (now >= at) == expired:
            yield f"{whose}, which " + (
                f"expired at {at:%Y-%m-%d %H:%M}" if expired else f"is not valid before {at:%Y-%m-%d %H:%M}"
            )


def time_of(text: str) -> datetime | None:
    """A time as ssh-keygen takes it, ``YYYYMMDD[HHMM[SS]][Z]``: local, or UTC with Z; None for what is none."""
    digits, universal = text.removesuffix("Z").removesuffix("z"), text[-1:] in ("Z", "z")
    form = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(len(digits))
    if form is None or not digits.isdigit():
        return None
    try:
        found = datetime.strptime(digits, form)  # it gets its zone below
        return found.replace(tzinfo=UTC) if universal else found.astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def certificate_of(key: bytes) -> Certificate | None:
    """What a public key says if it is a certificate; None for a plain key."""
    try:
        parts = _Parts(key)
        kind = parts.string()
        if not kind.endswith(_CERTIFICATE):
            return None
        count = next(number for name, number in _FIELDS.items() if kind.startswith(name))
        for _ in range(1 + count):
            parts.string()
        parts.number(8)  # serial
        parts.number(4)  # of a user or a host
        parts.string()
        parts.string()
        after, before = parts.number(8), parts.number(8)
        for _ in range(3):
            parts.string()
        return Certificate(parts.string(), after, before)
    except (ValueError, StopIteration):
        return None


class _Parts:
    """Reads the strings and numbers of the SSH protocol, one behind the other (RFC 4251, section 5)."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def number(self, size: int) -> int:
        if self._at + size > len(self._content):
            raise ValueError("it is cut off")
        self._at += size
        return int.from_bytes(self._content[self._at - size : self._at], "big")

    def string(self) -> bytes:
        size = self.number(4)
        if self._at + size > len(self._content):
            raise ValueError("it is cut off")
        self._at += size
        return self._content[self._at - size : self._at]


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return b""


def _matches(name: str, patterns: str) -> bool:
    """Whether a name is one of a list of patterns; one that begins with ``!`` excludes."""
    found = False
    for pattern in patterns.split(","):
        if fnmatchcase(name, pattern.removeprefix("!").replace("[", "[[]")):
            if pattern.startswith("!"):
                return False
            found = True
    return found
