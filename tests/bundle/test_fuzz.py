"""Readers of what came from elsewhere, fed with mutations: the project's own error or the original content, no third.

Some hundred inputs each by default; ``make fuzz`` tries a hundred times as many.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgespa.bundle import Manifest, open_bundle
from edgespa.bundle.archive import END, read_archive
from edgespa.bundle.files import parse_manifest, seal_of
from edgespa.device import runner
from edgespa.errors import BundleError

SCALE = max(1, settings().max_examples // 100)


def examples(count: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=count * SCALE,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
tempting = st.sampled_from(
    [-1, 0, 2**63, 10**400, "", "..", "/etc/passwd", "all", "float32", [], {}, None, True, 1e308, "\ud800", "\0", 10**4]
)


@st.composite
def mutated(draw: st.DrawFn, original: bytes) -> bytes:
    """A few changes of bytes: flipped, cut, doubled, put in, moved."""
    content = bytearray(original)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.sampled_from([1, 2, 8, 100, 512]))
        kind = draw(st.sampled_from(["flip", "cut", "end", "double", "insert", "zero", "move"]))
        if kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[at : at + length]
        elif kind == "end":
            del content[at:]
        elif kind == "double":
            content[at:at] = content[at : at + length]
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "zero":
            content[at : at + length] = bytes(len(content[at : at + length]))
        else:
            piece = content[at : at + length]
            del content[at : at + length]
            to = draw(st.integers(0, len(content)))
            content[to:to] = piece
    return bytes(content)


def paths_in(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [path, *(found for key, value in items for found in paths_in(value, (*path, key)))]


@st.composite
def edited(draw: st.DrawFn, original: Any) -> Any:
    """JSON with a few values replaced, removed, added or doubled."""
    values = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths_in(values)[1:] or [()]))
        if not path:
            break
        *parents, last = path
        place = values
        for key in parents:
            place = place[key]
        kind = draw(st.sampled_from(["replace", "tempt", "remove", "add", "double"]))
        if kind == "remove":
            del place[last]
        elif kind == "add" and isinstance(place, dict):
            place[draw(st.text(max_size=6))] = draw(json_values)
        elif kind == "double" and isinstance(place, list):
            place.append(copy.deepcopy(place[last]))
        else:
            place[last] = draw(json_values if kind == "replace" else tempting)
    return values


def dumped(values: Any, *, seal: bool) -> bytes:
    if seal and isinstance(values, dict):
        values = {**values, "seal": seal_of(values)}
    return json.dumps(values).encode()


def read(content: bytes) -> Manifest | None:
    try:
        return parse_manifest(content, "manifest.json")
    except BundleError as error:
        return expect(error, "manifest.json")


def expect(error: BundleError, words: str) -> None:
    """An error that helps: it names the file, and what to do."""
    assert words in error.message
    assert error.hint


@pytest.fixture(scope="module")
def original(kept_bundle: Path) -> bytes:
    return (kept_bundle / "manifest.json").read_bytes()


@examples(500)
@given(data=st.data())
def test_fuzz_manifest_bytes(original: bytes, data: st.DataObject) -> None:
    found = read(data.draw(mutated(original)))
    assert found is None or found == parse_manifest(original, "x")  # no more than white space


@examples(300)
@given(data=st.data())
def test_fuzz_manifest_edited_by_hand(original: bytes, data: st.DataObject) -> None:
    values = json.loads(original)
    changed = data.draw(edited(values))
    found = read(dumped(changed, seal=False))
    assert found is None or json.dumps(changed, sort_keys=True) == json.dumps(values, sort_keys=True)


@examples(500)
@given(data=st.data())
def test_fuzz_manifest_of_one_who_can_seal(original: bytes, data: st.DataObject) -> None:
    """What is taken says consistent things, and can be written and read again."""
    found = read(dumped(data.draw(edited(json.loads(original))), seal=True))
    if found is None:
        return
    assert not [failure for variant in found.variants for failure in variant.parity.failures()]
    assert {variant.file for variant in found.variants} <= {entry.path for entry in found.files}
    root = Path("/bundle")
    assert all((root / entry.path).resolve().is_relative_to(root) for entry in found.files)
    again = found.model_dump(mode="json")
    assert read(dumped(again, seal=True)) is not None


@examples(100)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode), json_values.map(json.dumps)))
def test_fuzz_manifest_of_anything(content: bytes | str) -> None:
    assert read(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")) is None


@examples(500)
@given(data=st.data())
def test_fuzz_archive_bytes(packed: Path, tmp_path: Path, data: st.DataObject) -> None:
    """An archive that is taken has the original's files, whatever was done to it."""
    content = data.draw(mutated(packed.read_bytes()))
    assert taken(content, tmp_path) in (None, taken(packed.read_bytes(), tmp_path))


@examples(150)
@given(data=st.data())
def test_fuzz_bundle_folder(kept_bundle: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Files cut, flipped, exchanged, renamed, taken away or put in: never verified."""
    folder = tmp_path / "b"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept_bundle, folder)
    names = sorted(path.name for path in folder.iterdir())
    name, other = data.draw(st.permutations(names))[:2]
    kind = data.draw(st.sampled_from(["flip", "end", "longer", "exchange", "rename", "remove", "add", "empty", "link"]))
    path, content = folder / name, (folder / name).read_bytes()
    if kind == "flip":
        at = data.draw(st.integers(0, len(content) - 1))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << data.draw(st.integers(0, 7))]) + content[at + 1 :])
    elif kind == "end":
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    elif kind == "longer":
        path.write_bytes(content + data.draw(st.binary(min_size=1, max_size=4)))
    elif kind == "exchange":
        path.write_bytes((folder / other).read_bytes())
        (folder / other).write_bytes(content)
    elif kind == "rename":
        path.rename(folder / f"{name}2")
    elif kind == "add":
        (folder / data.draw(st.sampled_from(["x", ".hidden", "model.onnx.bak"]))).write_bytes(content)
    elif kind == "link":
        path.rename(tmp_path / name)
        path.symlink_to(tmp_path / name)
    else:
        path.unlink() if kind == "remove" else path.write_bytes(b"")
    try:
        with open_bundle(folder) as opened:
            # All that is left: white space of the manifest.
            assert (name, kind in ("flip", "end", "longer")) == ("manifest.json", True)
            assert opened.manifest == parse_manifest((kept_bundle / "manifest.json").read_bytes(), "x")
    except BundleError as error:
        expect(error, "b")


KINDS = [
    tarfile.REGTYPE,
    tarfile.AREGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.FIFOTYPE,
    tarfile.CONTTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_SPARSE,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    b"\xff",
]
names = st.one_of(
    st.sampled_from(["manifest.json", "manifest.json.sig", "model.onnx", "run.py", "../x", "/x", "a//b", "profiles/x"]),
    st.text(alphabet="ab./\\:é\0\n", min_size=1, max_size=12),
)


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(draw(names))
    content = draw(st.binary(max_size=20))
    info.size = draw(st.sampled_from([len(content), 0, 8**11 - 1]))
    info.type, info.mode = draw(st.sampled_from(KINDS)), draw(st.sampled_from([0o644, 0o777]))
    info.linkname = draw(st.sampled_from(["", "/etc", ".."]))
    return info, content


@examples(300)
@given(data=st.data())
def test_fuzz_archive_members(packed: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Foreign members put between the original ones, or in place of them."""
    stream = io.BytesIO()
    blocks = _member_blocks(packed)
    for index, block in enumerate(blocks):
        for info, content in data.draw(st.lists(members(), max_size=2)) if index else []:
            stream.write(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict") + content + bytes(-len(content) % 512))
        if data.draw(st.integers(0, 9)):
            stream.write(block)
    stream.write(END)
    content = stream.getvalue()
    assert taken(content, tmp_path) in (None, taken(packed.read_bytes(), tmp_path))
    if content != packed.read_bytes():
        assert taken(content, tmp_path) is None


def _member_blocks(packed: Path) -> list[bytes]:
    content = packed.read_bytes()
    with tarfile.open(packed) as archive:
        offsets = [member.offset for member in archive] + [len(content) - len(END)]
    return [content[start:stop] for start, stop in itertools.pairwise(offsets)]


class _Kept(io.BytesIO):
    def close(self) -> None:
        self.final = self.getvalue()


def taken(content: bytes, tmp_path: Path) -> dict[str, Any] | None:
    """What an archive gives; None if it is refused. The manifest is taken for what it says."""
    (tmp_path / "x.tar").write_bytes(content)
    sunk: dict[str, _Kept] = {}

    def sink(name: str, size: int) -> _Kept:
        return sunk.setdefault(name, _Kept())

    try:
        manifest = read_archive(tmp_path / "x.tar", sink).manifest
    except BundleError as error:
        return expect(error, "x.tar")
    files = {name: stream.final for name, stream in sunk.items() if not name.startswith("manifest.json")}
    return {**files, "manifest": manifest}


@examples(200)
@given(data=st.data(), action=st.sampled_from(["--selfcheck", "--bench", "--input", "list"]))
def test_fuzz_runner(
    kept_bundle: Path,
    original: bytes,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    data: st.DataObject,
    action: str,
) -> None:
    """run.py meets manifests of one who can seal: an answer or one line of error, never a traceback."""
    values = json.loads(original)
    changed = data.draw(st.one_of(edited(values), mutated(original).map(_loaded)))
    for name in ("model.onnx", "selfcheck.npz", "labels.txt"):
        if not (tmp_path / name).exists():
            (tmp_path / name).write_bytes((kept_bundle / name).read_bytes())
    (tmp_path / "manifest.json").write_bytes(changed if isinstance(changed, bytes) else dumped(changed, seal=True))
    options = {"--bench": ["--runs", "1"], "--input": [str(tmp_path / "selfcheck.npz")]}.get(action, [])
    arguments = [] if action == "list" else [action, *options]
    assert runner.main([*arguments, "--json"], tmp_path) in (0, 1)
    out, err = capfd.readouterr()
    assert len(out.splitlines()) + len([line for line in err.splitlines() if line.startswith("error")]) == 1
    assert "Traceback" not in err


def _loaded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content
