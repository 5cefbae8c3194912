"""Packed bundles: the same bytes for the same bundle, and nothing is taken that packing does not write."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from edgespa.bundle import open_bundle, pack, unpack, verify_files
from edgespa.bundle.archive import END, header, read_archive
from edgespa.bundle.files import seal_of
from edgespa.errors import BundleError, OutputExistsError

PACK = (
    "import sys; from pathlib import Path; from edgespa.bundle import pack; pack(Path(sys.argv[1]), Path(sys.argv[2]))"
)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_packed_is_unpacked(bundle: Path, tmp_path: Path) -> None:
    size = pack(bundle, tmp_path / "b.tar")
    assert size == (tmp_path / "b.tar").stat().st_size
    manifest = unpack(tmp_path / "b.tar", tmp_path / "new" / "again")
    assert manifest == verify_files(tmp_path / "new" / "again")
    assert files_below(tmp_path / "new" / "again") == files_below(bundle)
    assert os.listdir(tmp_path / "new") == ["again"]


def test_a_signature_comes_along_and_profiles_do_not(bundle: Path, tmp_path: Path) -> None:
    (bundle / "manifest.json.sig").write_bytes(b"signature")
    (bundle / "profiles").mkdir()
    (bundle / "profiles" / "one.json").write_text("{}")
    pack(bundle, tmp_path / "b.tar")
    unpack(tmp_path / "b.tar", tmp_path / "again")
    assert (tmp_path / "again" / "manifest.json.sig").read_bytes() == b"signature"
    assert not (tmp_path / "again" / "profiles").exists()
    # What is measured afterwards does not change what is shipped.
    (bundle / "profiles" / "two.json").write_text("{}")
    pack(bundle, tmp_path / "c.tar")
    assert (tmp_path / "b.tar").read_bytes() == (tmp_path / "c.tar").read_bytes()


def test_any_tar_reads_it(packed: Path, kept_bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(packed) as archive:
        assert archive.getnames()[0] == "manifest.json"
        for member in archive:
            assert (member.uid, member.gid, member.mtime, member.mode) == (0, 0, 0, 0o644)
        archive.extractall(tmp_path / "out", filter="data")
    assert files_below(tmp_path / "out") == files_below(kept_bundle)
    if shutil.which("tar"):
        (tmp_path / "by-tar").mkdir()
        done = subprocess.run(["tar", "xf", packed, "-C", tmp_path / "by-tar"], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert files_below(tmp_path / "by-tar") == files_below(kept_bundle)


def test_a_header_is_what_the_standard_library_writes() -> None:
    ours = tarfile.TarInfo.frombuf(header("models/größe.onnx", 8**11 - 1), "utf-8", "strict")
    assert (ours.name, ours.size, ours.mode, ours.type) == ("models/größe.onnx", 8**11 - 1, 0o644, tarfile.REGTYPE)
    assert (ours.linkname, ours.uname, ours.gname, ours.uid) == ("", "", "", 0)
    for name, size in (("x" * 101, 0), ("", 0), ("a", 8**11), ("a", -1)):
        with pytest.raises(BundleError, match="does not fit"):
            header(name, size)


class TestSameBytes:
    """One bundle, packed in all circumstances that might leave a trace."""

    @pytest.fixture
    def expected(self, kept_bundle: Path, packed: Path) -> bytes:
        return packed.read_bytes()

    def again(self, bundle: Path, target: Path) -> bytes:
        pack(bundle, target)
        return target.read_bytes()

    def test_times_modes_and_place(self, kept_bundle: Path, tmp_path: Path, expected: bytes) -> None:
        copy = tmp_path / "elsewhere" / "of-another-name"
        shutil.copytree(kept_bundle, copy)
        for number, path in enumerate(copy.rglob("*")):
            os.utime(path, (number, 10**9 + number))
            path.chmod(0o600 if path.is_file() else 0o700)
        assert self.again(copy, tmp_path / "b.tar") == expected

    def test_order_of_creation(self, kept_bundle: Path, tmp_path: Path, expected: bytes) -> None:
        copy = tmp_path / "copy"
        for path in sorted(kept_bundle.rglob("*"), reverse=True):
            if path.is_file():
                target = copy / path.relative_to(kept_bundle)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        assert self.again(copy, tmp_path / "b.tar") == expected

    def test_umask_clock_locale_and_hash_seed(self, kept_bundle: Path, tmp_path: Path, expected: bytes) -> None:
        environment = {**os.environ, "TZ": "Pacific/Auckland", "LC_ALL": "C", "PYTHONHASHSEED": "77"}
        command = [sys.executable, "-c", PACK, kept_bundle, tmp_path / "b.tar"]
        subprocess.run(command, check=True, env=environment, umask=0o077)
        assert (tmp_path / "b.tar").read_bytes() == expected

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="ANOTHER USER NOT TRIED: needs root")
    def test_another_user(self, kept_bundle: Path, tmp_path: Path, expected: bytes) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(kept_bundle, copy)
        for path in (copy, *copy.rglob("*")):
            os.chown(path, 12345, 54321)
        assert self.again(copy, tmp_path / "b.tar") == expected

    def test_unpacked_and_packed_again(self, packed: Path, tmp_path: Path, expected: bytes) -> None:
        unpack(packed, tmp_path / "copy")
        assert self.again(tmp_path / "copy", tmp_path / "b.tar") == expected


def test_a_damaged_bundle_is_not_packed(bundle: Path, tmp_path: Path) -> None:
    (bundle / "labels.txt").write_text("changed")
    with pytest.raises(BundleError, match=r"labels\.txt"):
        pack(bundle, tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()


def test_a_file_that_changes_while_it_is_packed(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edgespa.bundle.archive as module

    def verify_then_change(path: Path) -> Any:
        manifest = verify_files(path)
        content = bytearray((path / "model.onnx").read_bytes())
        content[-1] ^= 1
        (path / "model.onnx").write_bytes(content)
        return manifest

    monkeypatch.setattr(module, "verify_files", verify_then_change)
    with pytest.raises(BundleError, match=r"model\.onnx changes while it is packed"):
        pack(bundle, tmp_path / "b.tar")
    assert sorted(os.listdir(tmp_path)) == ["good"]


def test_outputs_that_are_refused(bundle: Path, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "there.tar").write_text("mine")
    with pytest.raises(OutputExistsError):
        pack(bundle, tmp_path / "there.tar")
    assert (tmp_path / "there.tar").read_text() == "mine"
    with pytest.raises(BundleError, match="inside of the bundle"):
        pack(bundle, bundle / "b.tar")
    verify_files(bundle)
    with pytest.raises(OutputExistsError):
        unpack(packed, bundle)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    with pytest.raises(BundleError, match="neither a bundle nor empty"):
        unpack(packed, tmp_path / "mine", overwrite=True)
    unpack(packed, bundle, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["good", "mine", "there.tar"]


# ---- what is not taken


def members(packed: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(packed) as archive:
        return [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]


def rebuilt(packed: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> bytes:
    """The archive with changed members, written by the standard library."""
    found = members(packed)
    change(found)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for member, content in found:
            archive.addfile(member, io.BytesIO(content))
    blocks = stream.getvalue()
    return blocks[: len(blocks.rstrip(b"\0")) // 512 * 512 + 512] + END


def member(name: str, content: bytes = b"x", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def listing(packed: Path, name: str, content: bytes = b"x") -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    """A manifest that lists one more file, which is there: sealed as its maker would."""
    import hashlib

    def change(found: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        values = json.loads(found[0][1])
        entry = {"path": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        values["files"].append(entry)
        values["seal"] = seal_of(values)
        found[0] = member("manifest.json", json.dumps(values).encode())
        found.append(member(name, content))

    return change


LINK = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
EVIL: dict[str, tuple[Callable[[list[Any]], None], str]] = {
    "absolute": (lambda m: m.append(member("/tmp/evil")), "manifest.json has|instead of"),
    "absolute in place": (lambda m: m.__setitem__(1, member("/tmp/evil")), "is not a relative path"),
    "parent": (lambda m: m.__setitem__(1, member("../evil")), "is not a relative path"),
    "parent inside": (lambda m: m.__setitem__(1, member("a/../../evil")), "is not a relative path"),
    "windows": (lambda m: m.__setitem__(1, member("C:evil")), "is not a relative path"),
    "symbolic link": (lambda m: m.__setitem__(1, member("model.onnx", b"", **LINK)), "is a link to '/etc/passwd'"),
    "hard link": (
        lambda m: m.__setitem__(1, member("model.onnx", b"", **{**LINK, "type": tarfile.LNKTYPE})),
        "is a link",
    ),
    "device": (lambda m: m.__setitem__(1, member("model.onnx", b"", type=tarfile.CHRTYPE)), "is a device"),
    "pipe": (lambda m: m.__setitem__(1, member("model.onnx", b"", type=tarfile.FIFOTYPE)), "is a device or a pipe"),
    "folder": (lambda m: m.insert(1, member("models", b"", type=tarfile.DIRTYPE)), "is a folder"),
    "sparse": (lambda m: m.__setitem__(1, member("model.onnx", type=tarfile.GNUTYPE_SPARSE)), "extension"),
    "long name": (lambda m: m.insert(1, member("././@LongLink", b"a", type=tarfile.GNUTYPE_LONGNAME)), "extension"),
    "pax": (lambda m: m.insert(1, member("pax", b"11 path=../\n", type=tarfile.XHDTYPE)), "extension"),
    "pax before all": (lambda m: m.insert(0, member("pax", b"11 path=../\n", type=tarfile.XGLTYPE)), "extension"),
    "executable": (lambda m: setattr(m[1][0], "mode", 0o4755), "a header that"),
    "owner": (lambda m: setattr(m[1][0], "uid", 1000), "a header that"),
    "time": (lambda m: setattr(m[1][0], "mtime", 1), "a header that"),
    "twice": (lambda m: m.append(m[1]), "instead of"),
    "twice in place": (lambda m: m.__setitem__(2, m[1]), "truncated"),
    "manifest twice": (lambda m: m.insert(1, m[0]), "occurs twice"),
    "swapped": (lambda m: m.__setitem__(slice(1, 3), [m[2], m[1]]), "does not stand where it should"),
    "missing": (lambda m: m.pop(), "truncated"),
    "extra": (lambda m: m.insert(2, member("extra")), "instead of"),
    "no manifest": (lambda m: m.pop(0), "begins with"),
    "manifest last": (lambda m: m.append(m.pop(0)), "begins with"),
    "empty": (lambda m: m.clear(), "is empty"),
}


def assert_refused(content: bytes, words: str, tmp_path: Path) -> None:
    """By every way in, with nothing written anywhere."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "evil.tar").write_bytes(content)
    with pytest.raises(BundleError, match=words) as caught:
        read_archive(inner / "evil.tar")
    assert caught.value.hint
    with pytest.raises(BundleError, match=words):
        unpack(inner / "evil.tar", inner / "out")
    with pytest.raises(BundleError, match=words), open_bundle(inner / "evil.tar"):
        pass
    assert os.listdir(inner) == ["evil.tar"]
    assert os.listdir(tmp_path) == ["a"]
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize("kind", EVIL)
def test_what_packing_does_not_write_is_refused(packed: Path, tmp_path: Path, kind: str) -> None:
    change, words = EVIL[kind]
    assert_refused(rebuilt(packed, change), words, tmp_path)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/./b", "manifest.json/x", "Model.ONNX", "run.py/x"])
def test_a_manifest_that_lists_it_does_not_help(packed: Path, tmp_path: Path, name: str) -> None:
    words = "is not a relative path|lies in|capitals do not count"
    assert_refused(rebuilt(packed, listing(packed, name)), words, tmp_path)


def test_the_rebuilding_itself_is_taken(packed: Path, tmp_path: Path) -> None:
    # Else the refusals above might be for another reason than they say.
    (tmp_path / "same.tar").write_bytes(rebuilt(packed, listing(packed, "zzz.txt")))
    unpack(tmp_path / "same.tar", tmp_path / "same")
    assert (tmp_path / "same" / "zzz.txt").read_bytes() == b"x"


def test_a_bomb_is_refused_before_anything_is_written(packed: Path, tmp_path: Path) -> None:
    """A manifest of a few bytes that promises 8 GiB, and a header that does."""
    values = json.loads(members(packed)[0][1])
    values["files"].append({"path": "zzz", "size_bytes": 8**11 - 1, "sha256": "0" * 64})
    values["seal"] = seal_of(values)
    content = json.dumps(values).encode()
    first = header("manifest.json", len(content)) + content + bytes(-len(content) % 512)
    rest = packed.read_bytes()[512 + -(-len(members(packed)[0][1]) // 512) * 512 : -len(END)]
    assert_refused(first + rest + header("zzz", 8**11 - 1) + bytes(512) + END, "truncated", tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.json.sig"])
def test_a_head_that_promises_too_much_is_refused(packed: Path, tmp_path: Path, name: str) -> None:
    content = packed.read_bytes()
    at = content.index(header("labels.txt", 18))
    damaged = header(name, 8**11 - 1) + content[512:] if name == "manifest.json" else None
    if damaged is None:
        end_of_manifest = 512 + -(-len(members(packed)[0][1]) // 512) * 512
        assert at >= end_of_manifest
        damaged = content[:end_of_manifest] + header(name, 8**11 - 1) + content[end_of_manifest:]
    assert_refused(damaged, "more than", tmp_path)


def test_too_little_space_is_told_before_anything_is_written(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 100))  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="are needed and 100 are free"):
        unpack(packed, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_other_files_are_named_for_what_they_are(packed: Path, tmp_path: Path) -> None:
    for content, words in (
        (gzip.compress(packed.read_bytes()), "is a gzip file"),
        (b"PK\x03\x04" + bytes(600), "is a zip file"),
        (b"hello", "is not an archive"),
        (
            safetensors.numpy.save({"weight": np.zeros(999, np.float32)}),
            "is a task file or other tensors, not a bundle",
        ),
        (b"", "is not an archive"),
        (os.urandom(4096), "is not an archive"),
    ):
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(BundleError, match=words):
            read_archive(tmp_path / "x.tar")
    with pytest.raises(BundleError, match="there is no such"):
        read_archive(tmp_path / "nowhere.tar")
    with pytest.raises(BundleError, match="it is not a file"):
        read_archive(tmp_path)


def test_every_truncation_is_refused(packed: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    for size in sorted({*range(0, len(content), 397), *range(0, len(content), 512), len(content) - 1}):
        (tmp_path / "x.tar").write_bytes(content[:size])
        with pytest.raises(BundleError):
            read_archive(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes(content + b"\0")
    with pytest.raises(BundleError, match="instead of"):
        read_archive(tmp_path / "x.tar")


def test_an_open_archive_is_a_folder_for_a_while(packed: Path, kept_bundle: Path) -> None:
    with open_bundle(packed) as opened:
        assert opened.packed
        assert opened.folder.name == "good"
        assert files_below(opened.folder) == files_below(kept_bundle)
    assert not opened.folder.exists()
    with open_bundle(kept_bundle) as opened:
        assert (opened.packed, opened.folder) == (False, kept_bundle)
