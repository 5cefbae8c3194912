"""sign, verify --signers, pack, unpack, and archives where folders go: as a user types them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgespa.cli import pack, profile, sign, unpack, verify
from edgespa.errors import BundleError, OutputExistsError, SignatureError

# The tiny bundles of the device tests: pytest shares fixtures between sister folders only through the root's conftest.
_spec = importlib.util.spec_from_file_location("tiny_bundles", Path(__file__).parents[1] / "device" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)
bundle, bad_bundle, make_bundle = _tiny.bundle, _tiny.bad_bundle, _tiny.make_bundle


def invoke(module: Any, *arguments: str | Path) -> Result:
    return CliRunner().invoke(module.command, [str(each) for each in arguments])


@pytest.fixture
def key(tmp_path: Path) -> Path:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("SIGNATURES NOT TRIED: no ssh-keygen")
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada", "-f", tmp_path / "key"]
    subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "signers").write_text(f"ada@example.com {(tmp_path / 'key.pub').read_text()}")
    return tmp_path / "key"


def test_from_a_bundle_to_an_archive_and_back(bundle: Path, key: Path, tmp_path: Path) -> None:
    signed = invoke(sign, bundle, "--key", key)
    assert signed.exit_code == 0, signed.output
    assert "is signed with SHA256:" in signed.stdout
    assert isinstance(invoke(sign, bundle, "--key", key).exception, OutputExistsError)
    assert invoke(sign, bundle, "--key", key, "--overwrite").exit_code == 0
    packed = invoke(pack, bundle, "-o", tmp_path / "b.tar")
    assert packed.exit_code == 0, packed.output
    result = json.loads(invoke(pack, bundle, "-o", tmp_path / "c.tar", "--json").stdout)
    assert result["sha256"] in packed.stdout
    assert result["size_bytes"] == (tmp_path / "b.tar").stat().st_size
    for where in (bundle, tmp_path / "b.tar"):
        checked = invoke(verify, where, "--signers", tmp_path / "signers")
        assert checked.exit_code == 0, checked.output
        assert "signed by ada@example.com with ED25519 key SHA256:" in checked.stdout
        assert "passed" in checked.stdout
        assert checked.stderr == ""
    values = json.loads(invoke(verify, tmp_path / "b.tar", "--signers", tmp_path / "signers", "--json").stdout)
    assert values["signature"]["status"] == "good"
    assert values["signature"]["identity"] == "ada@example.com"
    assert values["bundle"] == str(tmp_path / "b.tar")
    assert values["passed"] is True
    out = invoke(unpack, tmp_path / "b.tar", "-o", tmp_path / "again")
    assert out.exit_code == 0, out.output
    assert invoke(verify, tmp_path / "again", "--signers", tmp_path / "signers").exit_code == 0


def test_an_unchecked_signature_is_said(bundle: Path, key: Path) -> None:
    assert json.loads(invoke(verify, bundle, "--json").stdout)["signature"]["status"] == "absent"
    invoke(sign, bundle, "--key", key)
    result = invoke(verify, bundle)
    assert result.exit_code == 0
    assert "the signature was not checked" in result.stderr


def test_signers_are_asked_before_anything_runs(bundle: Path, key: Path, tmp_path: Path) -> None:
    result = invoke(verify, bundle, "--signers", tmp_path / "signers")
    assert isinstance(result.exception, SignatureError)
    assert result.stdout == ""
    wrong = invoke(verify, bundle, "--identity", "ada@example.com")
    assert wrong.exit_code == 2
    assert "--signers" in wrong.stderr
    invoke(sign, bundle, "--key", key)
    result = invoke(verify, bundle, "--signers", tmp_path / "signers", "--identity", "bob")
    assert isinstance(result.exception, SignatureError)


def test_an_archive_is_verified_like_a_folder(bad_bundle: Path, tmp_path: Path) -> None:
    invoke(pack, bad_bundle, "-o", tmp_path / "bad.tar")
    result = invoke(verify, tmp_path / "bad.tar", "--json")
    assert isinstance(result.exception, BundleError)
    assert "bad.tar: the self-check fails" in result.exception.message
    content = bytearray((tmp_path / "bad.tar").read_bytes())
    content[-3000] ^= 1
    (tmp_path / "bad.tar").write_bytes(content)
    result = invoke(verify, tmp_path / "bad.tar", "--no-run")
    assert isinstance(result.exception, BundleError)


def test_an_archive_is_profiled(bundle: Path, tmp_path: Path) -> None:
    invoke(pack, bundle, "-o", tmp_path / "b.tar")
    before = (tmp_path / "b.tar").read_bytes()
    result = invoke(profile, tmp_path / "b.tar", "--runs", "10")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("b: ")
    assert "not saved: " in result.stderr
    both = invoke(profile, bundle, "--against", tmp_path / "b.tar", "--runs", "10", "--no-save", "--rounds", "1")
    assert both.exit_code == 0, both.output
    assert "p50 of good / p50 of b" in both.stdout
    assert (tmp_path / "b.tar").read_bytes() == before


def test_a_foreign_runner_is_told_and_not_run(make_bundle: Any, tmp_path: Path) -> None:
    runner = f"open({str(tmp_path / 'was-run')!r}, 'w')\n"
    foreign = make_bundle(tmp_path / "foreign", onnx=_tiny.onnx_bytes(), runner=runner)
    result = invoke(verify, foreign)
    assert result.exit_code == 0, result.output
    assert "its run.py is not that of this edgespa" in result.stderr
    assert not (tmp_path / "was-run").exists()


def test_unpack_and_profile_refuse_what_others_signed(bundle: Path, tmp_path: Path) -> None:
    for name in ("ada", "eve"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    for name in ("ada", "eve"):
        public = (tmp_path / f"{name}.pub").read_text()
        (tmp_path / f"{name}s").write_text(f"{name}@example.com {public}")
    invoke(sign, bundle, "--key", tmp_path / "ada")
    invoke(pack, bundle, "-o", tmp_path / "b.tar")
    for module, what, options in (
        (profile, bundle, ("--no-save", "--runs", "10")),
        (profile, tmp_path / "b.tar", ("--no-save", "--runs", "10")),
        (unpack, tmp_path / "b.tar", ("-o", tmp_path / "there")),
    ):
        for refused in (("--signers", tmp_path / "eves"), ("--signers", tmp_path / "adas", "--identity", "bob")):
            result = invoke(module, what, *options, *refused)
            assert isinstance(result.exception, SignatureError), result.output
            assert not (tmp_path / "there").exists()
        assert invoke(module, what, *options, "--identity", "ada@example.com").exit_code == 2
        result = invoke(module, what, *options, "--signers", tmp_path / "adas")
        assert result.exit_code == 0, result.output
    assert "signature was not checked" in invoke(unpack, tmp_path / "b.tar", "-o", tmp_path / "unasked").stderr


WITHOUT = '''
import sys

class Refuse:
    """Nothing of these can be imported, as where they are not installed."""
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "safetensors", "scipy", "sklearn", "litert_torch", "torchvision"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from edgespa.cli import main
main(sys.argv[1:], prog_name="edgespa")
'''


@pytest.mark.more
def test_a_runtime_is_all_that_is_needed(bundle: Path, key: Path, tmp_path: Path) -> None:
    """Every command of this page in a process where torch cannot be imported."""

    def edgespa(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    for arguments in (
        ("sign", bundle, "--key", key),
        ("pack", bundle, "-o", tmp_path / "b.tar"),
        ("unpack", tmp_path / "b.tar", "-o", tmp_path / "again"),
        ("verify", bundle, "--signers", tmp_path / "signers"),
        ("verify", tmp_path / "b.tar", "--json"),
        ("profile", bundle, "--runs", "10", "--no-save"),
    ):
        done = edgespa(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    (tmp_path / "x.py").write_text("f = None\n")
    assert "torch" in edgespa("export", f"{tmp_path}/x.py:f", "-o", tmp_path / "x").stderr  # else nothing was refused


def test_the_obvious_mistakes(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 a photo")
    for module, arguments, words in (
        (verify, [tmp_path / "nowhere"], "there is no such folder"),
        (verify, [tmp_path / "photo.jpg"], "is not an archive"),
        (verify, [tmp_path], "has no manifest.json"),
        (unpack, [bundle, "-o", tmp_path / "x"], "it is not a file"),
        (unpack, [tmp_path / "nowhere", "-o", tmp_path / "x"], "there is no such file"),
        (pack, [tmp_path / "photo.jpg", "-o", tmp_path / "x.tar"], "not a bundle"),
        (sign, [bundle, "--key", tmp_path / "photo.jpg"], "is not an OpenSSH key"),
        (profile, [tmp_path / "photo.jpg"], "is not an archive"),
    ):
        result = invoke(module, *arguments)
        assert isinstance(result.exception, BundleError), (arguments, result.exception)
        assert words in result.exception.message, result.exception.message
        assert result.exception.hint
    assert sorted(os.listdir(tmp_path)) == ["good", "photo.jpg"]
