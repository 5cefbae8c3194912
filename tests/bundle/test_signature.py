"""Signatures with real keys and the real ssh-keygen; what is not signed by those who may is refused, and says why."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespa.bundle import BundleWriter, Signer, open_bundle, pack, read_manifest, sign_bundle, verify_files
from edgespa.bundle.files import seal_of
from edgespa.bundle.signature import NAMESPACE, namespace_of
from edgespa.bundle.signers import certificate_of, lines_of, time_of, why_not
from edgespa.errors import BundleError, OutputExistsError, SignatureError

needs_openssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="SIGNATURES NOT TRIED: no ssh-keygen")
pytestmark = needs_openssh


def keygen(*options: str | Path) -> None:
    subprocess.run(["ssh-keygen", "-q", *options], check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of ada and bob, a locked one, and a file of signers with ada and bob."""
    folder = tmp_path_factory.mktemp("keys")
    for name, phrase in (("ada", ""), ("bob", ""), ("eve", ""), ("locked", "open sesame")):
        keygen("-t", "ed25519", "-N", phrase, "-C", name, "-f", folder / name)
    lines = [f"{name}@example.com {(folder / f'{name}.pub').read_text()}" for name in ("ada", "bob")]
    (folder / "signers").write_text("# who may\n" + "".join(lines))
    return folder


def sign(bundle: Path, key: Path) -> None:
    sign_bundle(bundle, Signer.open(key))


def check(bundle: Path, keys: Path, identity: str | None = None) -> str:
    with open_bundle(bundle, signers=keys / "signers", identity=identity) as opened:
        assert opened.signed is not None
        return opened.signed.identity


def test_signed_is_verified(bundle: Path, keys: Path, tmp_path: Path) -> None:
    sign(bundle, keys / "bob")
    assert check(bundle, keys) == "bob@example.com"
    assert check(bundle, keys, "bob@example.com") == "bob@example.com"
    with open_bundle(bundle, signers=keys / "signers") as opened:
        assert opened.signed is not None
        assert Signer.open(keys / "bob").fingerprint in opened.signed.key
    pack(bundle, tmp_path / "b.tar")
    assert check(tmp_path / "b.tar", keys) == "bob@example.com"


def test_openssh_alone_can_check_it(bundle: Path, keys: Path) -> None:
    sign(bundle, keys / "ada")
    command = ["ssh-keygen", "-Y", "verify", "-f", keys / "signers", "-I", "ada@example.com", "-n", NAMESPACE]
    with (bundle / "manifest.json").open("rb") as stream:
        subprocess.run([*command, "-s", bundle / "manifest.json.sig"], stdin=stream, check=True, capture_output=True)


def test_a_bundle_is_written_signed_or_not_at_all(bundle: Path, keys: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)

    def write(target: Path, signer: object) -> None:
        with BundleWriter(target, sign=signer) as writer:  # type: ignore[arg-type]
            for entry in manifest.files:
                shutil.copy(bundle / entry.path, writer.path / entry.path)
            writer.commit(manifest)

    write(tmp_path / "signed", Signer.open(keys / "ada"))
    assert check(tmp_path / "signed", keys) == "ada@example.com"
    with pytest.raises(SignatureError, match="cannot sign"):
        write(tmp_path / "unsigned", Signer(tmp_path / "gone", ""))
    assert sorted(os.listdir(tmp_path)) == ["good", "signed"]


@pytest.mark.parametrize("change", ["manifest", "signature", "file", "exchanged"])
def test_a_change_after_signing_is_noticed(bundle: Path, make_bundle: object, keys: Path, change: str) -> None:
    import json

    sign(bundle, keys / "ada")
    if change == "manifest":  # by one who knows how it is sealed
        values = json.loads((bundle / "manifest.json").read_text())
        values["task"] = "another"
        values["seal"] = seal_of(values)
        (bundle / "manifest.json").write_text(json.dumps(values))
        verify_files(bundle)
    elif change == "signature":
        text = (bundle / "manifest.json.sig").read_text()
        blob = bytearray(base64.b64decode("".join(text.splitlines()[1:-1])))
        blob[-1] ^= 1
        (bundle / "manifest.json.sig").write_text(
            "\n".join((text.splitlines()[0], base64.b64encode(blob).decode(), text.splitlines()[-1], ""))
        )
    elif change == "exchanged":
        subprocess.run(
            ["ssh-keygen", "-Y", "sign", "-f", keys / "ada", "-n", NAMESPACE, bundle / "labels.txt"],
            check=True,
            capture_output=True,
        )
        (bundle / "labels.txt.sig").rename(bundle / "manifest.json.sig")
    else:
        (bundle / "labels.txt").write_text("other\n")
        with pytest.raises(BundleError, match=r"labels\.txt"):
            check(bundle, keys)
        return
    with pytest.raises(SignatureError, match="is not one of this manifest"):
        check(bundle, keys)


def test_who_may_not(bundle: Path, keys: Path) -> None:
    sign(bundle, keys / "eve")
    fingerprint = Signer.open(keys / "eve").fingerprint
    with pytest.raises(SignatureError, match=re.escape(fingerprint)) as caught:
        check(bundle, keys)
    assert "not that of anyone in" in caught.value.message
    sign_bundle(bundle, Signer.open(keys / "ada"), overwrite=True)
    with pytest.raises(SignatureError, match=r"not that of 'bob@example\.com'"):
        check(bundle, keys, "bob@example.com")


FUTURE, PAST = "20990101", "20200101"


@pytest.mark.parametrize("identity", [None, "ada@example.com"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (f'valid-before="{PAST}"', "it is the key of ada@example.com, which expired at 2020-01-01"),
        (f'valid-before="{PAST}0000Z"', "expired at 2020-01-01 00:00"),
        (f'valid-after="{FUTURE}"', "is not valid before 2099-01-01"),
        (f'VALID-AFTER="{PAST}",valid-before="{PAST}123000"', "expired at 2020-01-01 12:30"),
        ('namespaces="git,file"', "may only sign for git,file, not for edgespa-bundle"),
        ('namespaces="edgespa-*,!edgespa-bundle"', "may only sign for"),
        (f"valid-before={FUTURE}", "ssh-keygen does not take line 2 as it stands"),
    ],
)
def test_why_a_key_is_not_accepted(
    bundle: Path, keys: Path, tmp_path: Path, options: str, words: str, identity: str | None
) -> None:
    sign(bundle, keys / "ada")
    lines = [f"bob@example.com {(keys / 'bob.pub').read_text()}", f"ada@example.com {options} {_public(keys, 'ada')}"]
    (tmp_path / "some").write_text("".join(lines))
    with (
        pytest.raises(SignatureError) as caught,
        open_bundle(bundle, signers=tmp_path / "some", identity=identity),
    ):
        pass
    assert words in caught.value.message
    assert Signer.open(keys / "ada").fingerprint in caught.value.message
    assert "trust its owner" not in str(caught.value.hint)  # it is known


@pytest.mark.parametrize(
    "options",
    [
        "",
        f'valid-before="{FUTURE}"',
        f'valid-after="{PAST}",valid-before="{FUTURE}Z"',
        'namespaces="git,edgespa-bundle"',
        'namespaces="edgespa-*"',
    ],
)
def test_keys_with_options_that_hold_are_accepted(bundle: Path, keys: Path, tmp_path: Path, options: str) -> None:
    sign(bundle, keys / "ada")
    (tmp_path / "some").write_text(f'"ada*,bob" {options} {_public(keys, "ada")}'.replace("  ", " "))
    with open_bundle(bundle, signers=tmp_path / "some") as opened:
        assert opened.signed is not None


def test_the_key_of_another_and_lines_that_are_none(bundle: Path, keys: Path, tmp_path: Path) -> None:
    sign(bundle, keys / "ada")
    with pytest.raises(SignatureError, match=r"it is the key of ada@example\.com, not that of 'bob@example\.com'"):
        check(bundle, keys, "bob@example.com")
    (tmp_path / "some").write_text(f"bob@example.com {_public(keys, 'bob')}ada@example.com\n")
    with (
        pytest.raises(SignatureError, match=r"not that of anyone in .*; line 2 of it cannot be read"),
        open_bundle(bundle, signers=tmp_path / "some"),
    ):
        pass


def test_revoked_keys(bundle: Path, keys: Path, tmp_path: Path) -> None:
    sign(bundle, keys / "ada")
    keygen("-k", "-f", tmp_path / "krl", keys / "ada.pub")
    (tmp_path / "list").write_text(_public(keys, "ada"))
    for name in ("krl", "list"):
        with (
            pytest.raises(SignatureError, match=f"which .*{name} revokes"),
            open_bundle(bundle, signers=keys / "signers", revoked=tmp_path / name),
        ):
            pass
    (tmp_path / "list").write_text(_public(keys, "bob"))
    with open_bundle(bundle, signers=keys / "signers", revoked=tmp_path / "list") as opened:
        assert opened.signed is not None
    with (
        pytest.raises(SignatureError, match="no such file of revoked keys"),
        open_bundle(bundle, signers=keys / "signers", revoked=tmp_path / "gone"),
    ):
        pass


@pytest.mark.parametrize(
    ("validity", "words"), [("20200101:20200201", "its certificate expired"), ("always:forever", "")]
)
def test_certificates(bundle: Path, keys: Path, tmp_path: Path, validity: str, words: str) -> None:
    for name in ("authority", "key"):
        keygen("-t", "ed25519", "-N", "", "-f", tmp_path / name)
    keygen("-s", tmp_path / "authority", "-I", "x", "-n", "ada@example.com", "-V", validity, tmp_path / "key.pub")
    sign(bundle, tmp_path / "key-cert.pub")
    public = (tmp_path / "authority.pub").read_text()
    (tmp_path / "some").write_text(f"ada@example.com cert-authority {public}")
    if words:
        with pytest.raises(SignatureError, match=words), open_bundle(bundle, signers=tmp_path / "some"):
            pass
    else:
        with open_bundle(bundle, signers=tmp_path / "some") as opened:
            assert opened.signed is not None


@given(text=st.text(max_size=200), key=st.binary(max_size=200))
def test_fuzz_files_of_signers_and_keys(text: str, key: bytes) -> None:
    lines, _ = lines_of(text)
    why_not(lines, key, "ada", NAMESPACE)
    certificate_of(b"\0\0\0\x20ssh-ed25519-cert-v01@openssh.com" + key)
    time_of(text)


def _public(keys: Path, name: str) -> str:
    return (keys / f"{name}.pub").read_text()


def test_no_signature_and_no_signers(bundle: Path, keys: Path) -> None:
    with pytest.raises(SignatureError, match="is not signed"):
        check(bundle, keys)
    sign(bundle, keys / "ada")
    with (
        pytest.raises(SignatureError, match="there is no such file of signers"),
        open_bundle(bundle, signers=keys / "nobody"),
    ):
        pass
    with pytest.raises(OutputExistsError):
        sign(bundle, keys / "ada")


def test_a_signature_for_something_else(bundle: Path, keys: Path) -> None:
    command = ["ssh-keygen", "-Y", "sign", "-f", keys / "ada", "-n", "git", bundle / "manifest.json"]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(SignatureError, match="was made for 'git'"):
        check(bundle, keys)


def test_a_damaged_bundle_is_not_signed(bundle: Path, keys: Path) -> None:
    (bundle / "labels.txt").write_text("other\n")
    with pytest.raises(BundleError, match=r"labels\.txt"):
        sign(bundle, keys / "ada")
    assert not (bundle / "manifest.json.sig").exists()


def test_keys_that_cannot_sign(bundle: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "no-agent"))
    monkeypatch.setenv("SSH_ASKPASS", "/bin/false")
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    with pytest.raises(SignatureError, match="there is no such key"):
        Signer.open(tmp_path / "none")
    (tmp_path / "text").write_text("not a key\n")
    with pytest.raises(SignatureError, match="is not an OpenSSH key"):
        Signer.open(tmp_path / "text")
    with pytest.raises(SignatureError, match="passphrase") as caught:
        sign(bundle, keys / "locked")
    assert "ssh-add" in str(caught.value.hint)
    shutil.copy(keys / "ada.pub", tmp_path / "ada.pub")
    with pytest.raises(SignatureError, match="No private key found") as caught:
        sign(bundle, tmp_path / "ada.pub")
    assert "agent" in str(caught.value.hint)
    shutil.copy(keys / "ada", tmp_path / "open")
    (tmp_path / "open").chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH)
    with pytest.raises(SignatureError, match="too open") as caught:
        sign(bundle, tmp_path / "open")
    assert "chmod 600" in str(caught.value.hint)
    assert not (bundle / "manifest.json.sig").exists()


@pytest.fixture
def agent(keys: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An agent that holds ada's key; it ends with the test."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("THE AGENT WAS NOT TRIED: no ssh-agent")
    text = subprocess.run(["ssh-agent", "-s"], check=True, capture_output=True, text=True).stdout
    for name in ("SSH_AUTH_SOCK", "SSH_AGENT_PID"):
        found = re.search(rf"{name}=([^;]+);", text)
        assert found is not None
        monkeypatch.setenv(name, found.group(1))
    try:
        subprocess.run(["ssh-add", "-q", keys / "ada"], check=True, capture_output=True)
        yield
    finally:
        subprocess.run(["ssh-agent", "-k"], check=True, capture_output=True)


def test_the_agent_signs_with_the_public_half(agent: None, bundle: Path, keys: Path, tmp_path: Path) -> None:
    shutil.copy(keys / "ada.pub", tmp_path / "only.pub")
    sign(bundle, tmp_path / "only.pub")
    assert check(bundle, keys) == "ada@example.com"


def test_without_openssh(bundle: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sign(bundle, keys / "ada")
    monkeypatch.setenv("PATH", str(tmp_path))
    for act in (lambda: sign(bundle, keys / "ada"), lambda: check(bundle, keys)):
        with pytest.raises((SignatureError, OutputExistsError), match="ssh-keygen is not installed") as caught:
            act()
        assert "OpenSSH" in str(caught.value.hint)


def test_an_old_openssh(bundle: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "ssh-keygen"
    old.write_text('#!/bin/sh\necho "unknown option -- Y" >&2\nexit 1\n')
    old.chmod(0o755)
    sign(bundle, keys / "ada")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SignatureError, match="too old"):
        check(bundle, keys)


def armour(blob: bytes) -> bytes:
    text = base64.encodebytes(blob).decode()
    return f"-----BEGIN SSH SIGNATURE-----\n{text}-----END SSH SIGNATURE-----\n".encode()


def test_the_namespace_by_hand() -> None:
    blob = b"SSHSIG\0\0\0\1" + b"\0\0\0\3key" + b"\0\0\0\5hello" + b"rest"
    assert namespace_of(armour(blob), "x") == "hello"


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=60).map(lambda tail: armour(b"SSHSIG\0\0\0\1" + tail))))
def test_fuzz_signatures(content: bytes) -> None:
    with contextlib.suppress(SignatureError):
        assert isinstance(namespace_of(content, "x"), str)
