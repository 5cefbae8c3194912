"""Signatures of a manifest, and through its digests of the whole bundle, with the user's OpenSSH keys.

``manifest.json.sig`` is what ``ssh-keygen -Y sign -n edgespa-bundle`` makes (OpenSSH's PROTOCOL.sshsig), so a bundle
can be checked without edgespa too. ssh-keygen does all cryptography: keys in files, in an agent or on a token work as
they do for ssh.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from edgespa.bundle.files import read_manifest_bytes, verify_files
from edgespa.bundle.paths import SIGNATURE
from edgespa.bundle.signers import lines_of, why_not
from edgespa.errors import OutputExistsError, SignatureError
from edgespa.system.files import expanded, write_whole
from edgespa.system.guarded import private_folder

NAMESPACE = "edgespa-bundle"
"""A signature that was made for something else, a git commit or a file, is none of a bundle."""

MAX_SIGNATURE_BYTES = 64 << 10
_SECONDS = 60  # checking asks nobody; signing may wait for a passphrase or a touch
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_INSTALL = "install OpenSSH 8.2 or newer (on Debian: apt-get install openssh-client)"


@dataclass(frozen=True)
class Signer:
    """Signs with one key; from a manifest's bytes to its signature.

    Attributes:
        key: The key's file: private, or public where an agent or token has the private half.
        fingerprint: Of the key, as ``ssh-keygen -l`` shows it.
        namespace: What its signatures are made for.
    """

    key: Path
    fingerprint: str
    namespace: str = NAMESPACE

    @classmethod
    def open(cls, key: Path, namespace: str = NAMESPACE) -> Self:
        """Look at a key without using it, so that a wrong name is told before any work is done.

        Args:
            key: Its file.
            namespace: What signatures are made for.

        Raises:
            SignatureError: There is no such key, it is none, or ssh-keygen is not installed.
        """
        key = Path(os.path.abspath(expanded(key)))
        if not key.is_file():
            raise SignatureError(f"{key}: there is no such key", "name an OpenSSH key, for example ~/.ssh/id_ed25519")
        done = _ssh_keygen(["-l", "-f", str(key)])
        found = re.search(r"\b(SHA256|MD5):\S+", done.stdout)
        if done.returncode or found is None:
            raise SignatureError(
                f"{key} is not an OpenSSH key{_said(done)}", "make one with: ssh-keygen -t ed25519 -f KEY"
            )
        return cls(key, found.group(), namespace)

    def __call__(self, content: bytes) -> bytes:
        """The signature of some bytes.

        Raises:
            SignatureError: The key cannot be used; the message has ssh-keygen's reason.
        """
        done = _ssh_keygen(["-Y", "sign", "-f", str(self.key), "-n", self.namespace], content, seconds=None)
        if done.returncode or _BEGIN not in done.stdout:
            raise SignatureError(f"cannot sign with {self.key}{_said(done)}", _hint_for(done.stderr))
        return done.stdout.encode()

    def made(self, content: bytes, signature: bytes) -> bool:
        """Whether a signature is a good one of some bytes, by this very key and for the same.

        Args:
            content: The bytes.
            signature: As a call gives it.
        """
        with private_folder() as folder:
            file = folder / SIGNATURE
            file.write_bytes(signature)
            done = _ssh_keygen(["-Y", "check-novalidate", "-s", str(file), "-n", self.namespace], content)
        found = re.search(r"\b(SHA256|MD5):\S+", done.stdout)
        return done.returncode == 0 and found is not None and found.group() == self.fingerprint


@dataclass(frozen=True)
class Signed:
    """By whom a manifest is signed.

    Attributes:
        identity: As the file of signers names them.
        key: Type and fingerprint of the key, in ssh-keygen's words.
    """

    identity: str
    key: str


def sign_bundle(bundle: Path, signer: Signer, *, overwrite: bool = False) -> None:
    """Put a signature beside the manifest of a bundle whose files are all as they should be.

    Args:
        bundle: The bundle's folder.
        signer: The key.
        overwrite: Replace a signature that is there.

    Raises:
        BundleError: The bundle is damaged.
        OutputExistsError: It is signed already.
        SignatureError: The key cannot be used.
    """
    if (bundle / SIGNATURE).exists() and not overwrite:
        raise OutputExistsError(bundle / SIGNATURE)
    before = read_manifest_bytes(bundle)
    verify_files(bundle)
    if read_manifest_bytes(bundle) != before:
        raise SignatureError(f"{bundle} changes while it is signed", "let only one program write there")
    write_whole(bundle / SIGNATURE, signer(before))


def check_signature(
    content: bytes,
    signature: bytes | None,
    signers: Path,
    identity: str | None,
    where: str,
    *,
    revoked: Path | None = None,
) -> Signed:
    """Find out who signed, and that it was one of those who may.

    Args:
        content: The manifest's bytes.
        signature: Of them; None where there is none.
        signers: Who may: lines of ``name key-type key``, see "ALLOWED SIGNERS" in ssh-keygen(1).
        identity: Only this one of them; None for any.
        where: The bundle, for messages.
        revoked: Keys that are not accepted any more: public keys, one each line, or a KRL of ssh-keygen's.

    Raises:
        SignatureError: It is not signed, not by one of them, for something else, or changed since; or the key has
            expired, is not valid yet, may not sign bundles, or is revoked. The message says which.
    """
    signers = Path(os.path.abspath(expanded(signers)))
    if not signers.is_file():
        raise SignatureError(
            f"{signers}: there is no such file of signers", 'write it: one line each, "name key-type key"'
        )
    if revoked is not None:
        revoked = Path(os.path.abspath(expanded(revoked)))
        if not revoked.is_file():
            raise SignatureError(
                f"{revoked}: there is no such file of revoked keys", "write it: one public key each line, or a KRL"
            )
    if signature is None:
        raise SignatureError(f"{where} is not signed", "its maker signs it with: edgespa sign BUNDLE --key KEY")
    made_for = namespace_of(signature, where)
    if made_for != NAMESPACE:
        raise SignatureError(
            f"{where}: its signature was made for {made_for!r}, not for {NAMESPACE!r}",
            "sign it anew with: edgespa sign BUNDLE --key KEY --overwrite",
        )
    with private_folder() as folder:
        file = folder / SIGNATURE
        file.write_bytes(signature)
        return _check(content, file, signers, identity, where, revoked)


def namespace_of(signature: bytes, where: str) -> str:
    """What a signature was made for.

    Args:
        signature: In OpenSSH's armour: base64 of the bytes ``SSHSIG``, a version, and length-prefixed strings, of
            which the second is the namespace.
        where: The bundle, for messages.

    Raises:
        SignatureError: It is no OpenSSH signature.
    """
    try:
        blob = _blob(signature)
        if blob[:10] != b"SSHSIG\0\0\0\1":
            raise ValueError("it does not begin like one")
        return _string(blob, 10 + 4 + len(_string(blob, 10))).decode("utf-8")
    except (ValueError, binascii.Error) as error:
        raise SignatureError(
            f"{where}: its signature is not one of OpenSSH, or damaged: {error}",
            "copy the bundle again, or sign it anew with: edgespa sign BUNDLE --key KEY --overwrite",
        ) from error


def _blob(signature: bytes) -> bytes:
    """What is in the armour."""
    text = signature[:MAX_SIGNATURE_BYTES].decode("ascii").strip()
    if not (text.startswith(_BEGIN) and text.endswith(_END)):
        raise ValueError("it has not the armour of one")
    return base64.b64decode("".join(text[len(_BEGIN) : -len(_END)].split()), validate=True)


def _string(blob: bytes, start: int) -> bytes:
    """A length-prefixed string of the SSH protocol (RFC 4251, section 5)."""
    size = int.from_bytes(blob[start : start + 4], "big")
    found = blob[start + 4 : start + 4 + size]
    if len(blob) < start + 4 or len(found) < size:
        raise ValueError("it is cut off")
    return found


def _check(content: bytes, file: Path, signers: Path, identity: str | None, where: str, revoked: Path | None) -> Signed:
    to_list = ["-f", str(signers), "-s", str(file)]
    candidates = [identity] if identity is not None else []
    if identity is None:
        candidates = _ssh_keygen(["-Y", "find-principals", *to_list]).stdout.splitlines()
    for name in candidates:
        done = _ssh_keygen(["-Y", "verify", *to_list, "-I", name, "-n", NAMESPACE], content)
        if done.returncode == 0:
            found = re.search(r" with (.+ key \S+)", done.stdout)
            if revoked is not None:
                _refuse_revoked([*to_list, "-I", name, "-n", NAMESPACE], content, revoked, where, found)
            return Signed(name, found.group(1) if found else "")
    plain = _ssh_keygen(["-Y", "check-novalidate", "-s", str(file), "-n", NAMESPACE], content)
    if plain.returncode:
        raise SignatureError(
            f"{where}: its signature is not one of this manifest: one of them was changed or exchanged",
            "do not use this bundle; fetch it again from its maker",
        )
    key = re.search(r"(SHA256|MD5):\S+", plain.stdout)
    what = f"key {key.group()}" if key else "a key"
    who = f"'{identity}' in {signers}" if identity is not None else f"anyone in {signers}"
    known, odd = lines_of(signers.read_text(encoding="utf-8", errors="replace"))
    why = why_not(known, _string(_blob(file.read_bytes()), 10), identity, NAMESPACE)
    if why is not None:
        raise SignatureError(
            f"{where} is signed with {what}, which is not accepted: {why}",
            f"ask its maker to sign it anew, or correct the key's line in {signers}, if you know why it stands so",
        )
    reason = (_said(done) if candidates else "") + (f"; line {odd[0]} of it cannot be read" if odd else "")
    raise SignatureError(
        f"{where} is signed with {what}, which is not that of {who}{reason}",
        "do not use it, or add the key to that file if you know and trust its owner",
    )


def _refuse_revoked(
    options: Sequence[str], content: bytes, revoked: Path, where: str, key: re.Match[str] | None
) -> None:
    done = _ssh_keygen(["-Y", "verify", *options, "-r", str(revoked)], content)
    if done.returncode:
        what = key.group(1) if key else "a key"
        raise SignatureError(
            f"{where} is signed with {what}, which {revoked} revokes{_said(done)}",
            "do not use it: somebody else may have that key; fetch the bundle again, signed with another",
        )


def _ssh_keygen(
    options: Sequence[str], content: bytes = b"", seconds: float | None = _SECONDS
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["ssh-keygen", *options], input=content, capture_output=True, check=False, timeout=seconds, env=environment
        )
    except FileNotFoundError as error:
        raise SignatureError("ssh-keygen is not installed", _INSTALL) from error
    except subprocess.TimeoutExpired as error:
        raise SignatureError(f"ssh-keygen did not answer in {seconds:.0f} s", "run it by hand to see why") from error
    out, err = (text.decode("utf-8", errors="replace") for text in (done.stdout, done.stderr))
    if "unknown option -- Y" in err or "Unsupported operation for -Y" in err:
        raise SignatureError("this ssh-keygen is too old to sign", _INSTALL)
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """What ssh-keygen said of a failure, in one line."""
    noise = ("Signing data on", "Could not verify signature", "@@@", "@ ")
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip() and not line.startswith(noise)]
    return f": {'; '.join(lines[:3])}" if lines else ""


def _hint_for(said: str) -> str:
    if "passphrase" in said:
        return "unlock it with ssh-add, and sign through the agent; or run this in a terminal that can ask"
    if "No private key found" in said and "too open" not in said:
        return "put the private half beside it, or into the agent with ssh-add"
    if "too open" in said:
        return "let nobody else read it: chmod 600 KEY"
    return "name an OpenSSH key that you can use, for example ~/.ssh/id_ed25519"


__all__ = ["NAMESPACE", "Signed", "Signer", "check_signature", "namespace_of", "sign_bundle"]
