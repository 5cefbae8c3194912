from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgespa import __version__
from edgespa.bundle import (
    Base,
    BundleWriter,
    Compaction,
    FileEntry,
    Manifest,
    Parity,
    Quality,
    TensorSpec,
    Variant,
    read_manifest,
    sha256_file,
    verify_files,
)
from edgespa.bundle.files import seal_of
from edgespa.config import Preprocess
from edgespa.errors import BundleError, OutputExistsError, ParityError

MODEL = b"\x00\x01 not a model, but bytes are bytes"


def parity(**changes: Any) -> Parity:
    values = {
        "inputs": "32 images of toy:test",
        "count": 32,
        "max_abs_error": 2e-6,
        "relative_error": 1e-6,
        "cosine": 0.999,
        "top1_agreement": 1.0,
        "bound": {"relative_error": 1e-4, "cosine": 0.99},
    }
    return Parity.model_validate({**values, **changes})


def variant(**changes: Any) -> Variant:
    values = {
        "name": "onnx-fp32",
        "file": "models/model.onnx",
        "format": "onnx",
        "precision": "fp32",
        "opset": 20,
        "inputs": (TensorSpec(name="x", shape=("batch", 3, 8, 8), dtype="float32", layout="NCHW"),),
        "outputs": (TensorSpec(name="y", shape=("batch", 3), dtype="float32"),),
        "runtime": "onnxruntime 1.31.1",
        "size_bytes": len(MODEL),
        "parity": parity(),
        "accuracy": Quality(value=0.9, count=100, data="toy:test"),
    }
    return Variant.model_validate({**values, **changes})


def manifest(**changes: Any) -> Manifest:
    values = {
        "task": "toy",
        "created": "2026-11-21T02:30:00+00:00",
        "base": Base(spec="models.py:net", digest="sha256:00", weights="net.safetensors"),
        "preprocessing": Preprocess(height=8, width=8, channels=1, mean=(0.5,), std=(0.25,)),
        "inputs": variant().inputs,
        "outputs": variant().outputs,
        "variants": (variant(),),
        "compaction": Compaction(parameters=10, macs=5, base_parameters=40, base_macs=50, channel_density=0.5),
        "reference_accuracy": None,
        "provenance": {"seed": 0, "nested": {"list": [1, "zwei", None]}},
    }
    return Manifest.model_validate({**values, **changes})


def fill(writer: BundleWriter) -> None:
    (writer.path / "models").mkdir()
    (writer.path / "models" / "model.onnx").write_bytes(MODEL)
    (writer.path / "run.py").write_text("pass\n")


def write(target: Path, **changes: Any) -> Manifest:
    with BundleWriter(target) as writer:
        fill(writer)
        return writer.commit(manifest(**changes))


def write_until(target: Path, act: Callable[[BundleWriter], object], *, overwrite: bool = False) -> None:
    """Write the files, then do something that is expected to raise."""
    with BundleWriter(target, overwrite=overwrite) as writer:
        fill(writer)
        act(writer)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write(tmp_path / "bundle")
    return tmp_path / "bundle"


def edit(bundle: Path, change: Callable[[dict[str, Any]], None], *, seal: bool = True) -> None:
    """Change the manifest as one would who knows how it is sealed; or as one who does not."""
    file = bundle / "manifest.json"
    values = json.loads(file.read_text())
    change(values)
    if seal:
        values["seal"] = seal_of(values)
    file.write_text(json.dumps(values))


def test_written_is_read(tmp_path: Path) -> None:
    written = write(tmp_path / "new" / "bundle")
    assert os.listdir(tmp_path / "new") == ["bundle"]
    read = verify_files(tmp_path / "new" / "bundle")
    assert read == written
    assert [entry.path for entry in read.files] == ["models/model.onnx", "run.py"]
    assert read.files[0].sha256 == sha256_file(tmp_path / "new" / "bundle" / "models" / "model.onnx")
    assert read.edgespa_version == __version__
    assert read.model_copy(update={"files": (), "seal": None}) == manifest()
    assert read.variant("onnx-fp32").file == "models/model.onnx"


def test_sha256_is_the_published_value(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "abc") == expected


def test_densities_by_hand() -> None:
    compaction = manifest().compaction
    assert (compaction.parameter_density, compaction.mac_density) == (0.25, 0.1)
    empty = Compaction(parameters=0, macs=0, base_parameters=0, base_macs=0)
    assert (empty.parameter_density, empty.mac_density) == (1, 1)


def test_the_bundle_has_ordinary_permissions(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert stat.S_IMODE(bundle.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_what_a_later_version_says_besides_is_kept_and_means_nothing(bundle: Path) -> None:
    def later(values: dict[str, Any]) -> None:
        values["of_later"] = {"a": [1, "two"]}
        values["variants"][0]["of_later"] = 3.5
        values["variants"][0]["parity"]["of_later"] = True

    edit(bundle, later)
    manifest = verify_files(bundle)
    values = manifest.model_dump()
    assert values["of_later"] == {"a": [1, "two"]}
    assert values["variants"][0]["of_later"] == 3.5
    # The seal is over it too; what normalises, and what reads boxes, is understood or refused.
    edit(bundle, lambda values: values.update(of_later=4), seal=False)
    with pytest.raises(BundleError, match="was edited"):
        verify_files(bundle)
    how = Preprocess(height=8, width=8, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3).model_dump()
    edit(bundle, lambda values: values.update(preprocessing={**how, "of_later": 1}))
    with pytest.raises(BundleError, match="of_later"):
        verify_files(bundle)


def _remove_file(bundle: Path) -> None:
    (bundle / "models" / "model.onnx").unlink()


def _truncate(bundle: Path) -> None:
    (bundle / "models" / "model.onnx").write_bytes(MODEL[:-1])


def _lengthen(bundle: Path) -> None:
    (bundle / "models" / "model.onnx").write_bytes(MODEL + b"x")


def _flip_a_bit(bundle: Path) -> None:
    (bundle / "models" / "model.onnx").write_bytes(bytes([MODEL[0] ^ 1]) + MODEL[1:])


def _add(bundle: Path) -> None:
    (bundle / "models" / "extra.bin").write_bytes(b"")


def _link(bundle: Path) -> None:
    model = bundle / "models" / "model.onnx"
    model.rename(bundle.parent / "elsewhere")
    model.symlink_to(bundle.parent / "elsewhere")


def _link_folder(bundle: Path) -> None:
    (bundle / "models").rename(bundle.parent / "elsewhere")
    (bundle / "models").symlink_to(bundle.parent / "elsewhere")


def _link_profiles(bundle: Path) -> None:
    (bundle / "profiles").symlink_to(bundle.parent)


def _pipe(bundle: Path) -> None:
    os.mkfifo(bundle / "models" / "pipe")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove_file, "models/model.onnx is missing"),
        (_truncate, f"models/model.onnx is truncated: {len(MODEL) - 1} of {len(MODEL)} bytes"),
        (_lengthen, "models/model.onnx is too long"),
        (_flip_a_bit, "models/model.onnx has changed"),
        (_add, "models/extra.bin is not in the manifest"),
        (_link, "models/model.onnx is a link"),
        (_link_folder, "models is a link"),
        (_link_profiles, "profiles is a link"),
        (_pipe, "models/pipe is not a plain file"),
    ],
)
def test_damage_is_named(bundle: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(bundle)
    with pytest.raises(BundleError) as caught:
        verify_files(bundle)
    assert message in caught.value.message
    assert caught.value.hint


def test_profiles_and_signature_stand_outside(bundle: Path) -> None:
    (bundle / "profiles").mkdir()
    (bundle / "profiles" / "one.json").write_text("{}")
    (bundle / "manifest.json.sig").write_text("signature")
    verify_files(bundle)


@pytest.mark.parametrize("version", [2, 99])
def test_a_newer_schema_is_refused_with_its_version(bundle: Path, version: int) -> None:
    def newer(values: dict[str, Any]) -> None:
        values["schema_version"] = version
        values["a_key_of_the_future"] = 1

    edit(bundle, newer)
    with pytest.raises(BundleError, match=f"schema version {version}") as caught:
        read_manifest(bundle)
    assert "update edgespa" in str(caught.value.hint)


@pytest.mark.parametrize(
    "text", ["", "{", "\xff", '{"schema_version": NaN}', '{"a": 1e999}', '{"a": 1, "a": 1}', "[" * 100_000]
)
def test_malformed_json(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match="is not valid JSON"):
        read_manifest(bundle)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"schema_version": "1"}', '{"schema_version": true}'])
def test_json_that_is_no_manifest(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="has no schema version"):
        read_manifest(bundle)


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    *parents, last, value = path

    def change(values: Any) -> None:
        for key in parents:
            values = values[key]
        values[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (_set("files", 0, "size_bytes", "33"), "files.0.size_bytes"),
        (_set("files", 0, "sha256", "abc"), "files.0.sha256"),
        (_set("variants", 0, "parity", "count", 1.5), "variants.0.parity.count"),
        (_set("variants", 0, "parity", "bound", {"ssim": 1}), "variants.0.parity.bound.ssim"),
        (_set("variants", 0, "inputs", 0, "shape", [1, None]), "variants.0.inputs.0.shape"),
        (_set("preprocessing", "std", [0.0]), "preprocessing"),
        (_set("variants", []), "variants"),
        (_set("files", []), "files"),
        (_set("created", "yesterday"), "created"),
    ],
)
def test_wrong_values_are_named(bundle: Path, change: Callable[[dict[str, Any]], None], where: str) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError) as caught:
        verify_files(bundle)
    assert where in caught.value.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("variants", 0, "file", "models/other.onnx"), "is not among the files"),
        (_set("variants", 0, "size_bytes", 1), "size_bytes is not the size"),
        (_set("variants", [variant().model_dump()] * 2), "variant 'onnx-fp32' is listed twice"),
        (_set("variants", 0, "name", "all"), "cannot be named 'all'"),
        (_set("files", 1, "path", "profiles/x.json"), "cannot be among the files"),
        (_set("files", 1, "path", "models/model.onnx"), "listed twice"),
    ],
)
def test_inconsistent_manifests_are_refused(
    bundle: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=message):
        read_manifest(bundle)


@pytest.mark.parametrize(
    "change",
    [
        _set("task", "another"),
        _set("created", "2027-01-01"),
        _set("variants", 0, "parity", "bound", {"relative_error": 5e-4}),
        _set("variants", 0, "accuracy", "value", 0.99),
        _set("provenance", "seed", 1),
        _set("seal", "0" * 64),
        _set("seal", None),
    ],
)
def test_a_manifest_edited_by_hand_is_refused(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    edit(bundle, lambda values: None, seal=False)
    read_manifest(bundle)  # white space is no edit
    edit(bundle, change, seal=False)
    with pytest.raises(BundleError, match="was edited"):
        read_manifest(bundle)


def test_a_bound_that_allows_everything_proves_nothing(bundle: Path) -> None:
    for bound in ({"relative_error": 0.5}, {"cosine": 0.5}):
        edit(bundle, _set("variants", 0, "parity", "bound", bound))
        with pytest.raises(BundleError, match="needs a bound on relative_error"):
            read_manifest(bundle)
    edit(bundle, _set("variants", 0, "parity", "bound", {"relative_error": 1e-7}))
    with pytest.raises(BundleError, match="does not keep its own bounds"):
        read_manifest(bundle)


def test_a_manifest_too_large_to_be_one_is_not_read(bundle: Path) -> None:
    with (bundle / "manifest.json").open("r+b") as stream:
        stream.truncate(20 << 20)
    with pytest.raises(BundleError, match="larger than 4 MiB"):
        read_manifest(bundle)


@pytest.mark.parametrize("path", ["RUN.PY", "Models/model.onnx", "models/MODEL.onnx", "run.py/x", "MANIFEST.json"])
def test_files_that_are_one_on_another_system_are_refused(bundle: Path, path: str) -> None:
    edit(bundle, lambda values: values["files"].append({**values["files"][0], "path": path}))
    if path.startswith("Models"):
        edit(bundle, _set("files", 2, "path", "Models/model.onnx/x"))
    with pytest.raises(BundleError, match=r"capitals do not count|lies in"):
        read_manifest(bundle)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../run.py", "a/../../b", "a//b", "./a", "a/.", "", "a\\b", "C:a", "C:/a", "a\nb", "a/"]
)
def test_paths_that_lead_elsewhere_are_refused(bundle: Path, path: str) -> None:
    edit(bundle, _set("files", 1, "path", path))
    with pytest.raises(BundleError, match=r"files\.1\.path"):
        verify_files(bundle)


@given(st.text(alphabet="ab./\\:~\0 é", max_size=12))
def test_every_path_that_is_accepted_stays_inside(text: str) -> None:
    try:
        entry = FileEntry(path=text, size_bytes=0, sha256="0" * 64)
    except ValidationError:
        return
    root = Path("/root/of/bundle")
    assert Path(os.path.normpath(root / entry.path)) == root / text
    assert (root / text).is_relative_to(root)
    assert (root / text) != root


def test_folders_that_are_no_bundles(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no such folder"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"it has no manifest\.json"):
        read_manifest(tmp_path)


def test_a_linked_manifest_is_refused(bundle: Path) -> None:
    (bundle / "manifest.json").rename(bundle.parent / "m.json")
    (bundle / "manifest.json").symlink_to(bundle.parent / "m.json")
    with pytest.raises(BundleError, match="is not a plain file"):
        read_manifest(bundle)


def test_an_unknown_variant_is_answered_with_those_there_are() -> None:
    with pytest.raises(BundleError) as caught:
        manifest().variant("onnx-int8")
    assert "onnx-fp32" in str(caught.value.hint)


class Terminated(BaseException):
    """What a SIGTERM handler may raise."""


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, Terminated])
def test_nothing_is_left_behind_by_an_exception(tmp_path: Path, kind: type[BaseException]) -> None:
    def fail(writer: BundleWriter) -> None:
        assert writer.path.parent == tmp_path
        assert writer.path.name.startswith(".bundle.tmp-")
        raise kind

    with pytest.raises(kind):
        write_until(tmp_path / "bundle", fail)
    assert os.listdir(tmp_path) == []


def test_nothing_is_left_behind_by_sigterm(tmp_path: Path) -> None:
    def handler(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(Terminated):
            write_until(tmp_path / "bundle", lambda writer: os.kill(os.getpid(), signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert os.listdir(tmp_path) == []


def test_nothing_is_there_without_a_commit(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "bundle") as writer:
        fill(writer)
    assert os.listdir(tmp_path) == []
    with pytest.raises(RuntimeError):
        _ = writer.path


def test_an_existing_target_is_refused_at_the_very_beginning(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("folder", "file", "link"):
        with pytest.raises(OutputExistsError, match=name):
            BundleWriter(tmp_path / name)


def test_a_target_that_appears_meanwhile_is_not_touched(tmp_path: Path) -> None:
    def appear(writer: BundleWriter) -> None:
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / "precious").touch()
        writer.commit(manifest())

    with pytest.raises(OutputExistsError):
        write_until(tmp_path / "bundle", appear)
    assert os.listdir(tmp_path) == ["bundle"]
    assert os.listdir(tmp_path / "bundle") == ["precious"]


def test_overwriting_replaces_the_whole_bundle(bundle: Path) -> None:
    (bundle / "profiles").mkdir()
    with BundleWriter(bundle, overwrite=True) as writer:
        fill(writer)
        writer.commit(manifest(task="another"))
    assert verify_files(bundle).task == "another"
    assert not (bundle / "profiles").exists()
    assert os.listdir(bundle.parent) == ["bundle"]


def test_an_interrupted_overwrite_leaves_the_old_bundle(bundle: Path) -> None:
    def interrupt(writer: BundleWriter) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_until(bundle, interrupt, overwrite=True)
    assert verify_files(bundle).task == "toy"
    assert os.listdir(bundle.parent) == ["bundle"]


def test_a_failing_rename_puts_the_old_bundle_back(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def fail_for_the_new_one(source: Path, target: Path) -> None:
        if ".tmp-" in str(source):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_for_the_new_one)
    with pytest.raises(KeyboardInterrupt):
        write_until(bundle, lambda writer: writer.commit(manifest(task="another")), overwrite=True)
    assert verify_files(bundle).task == "toy"
    assert os.listdir(bundle.parent) == ["bundle"]


def test_an_empty_folder_may_be_overwritten(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with BundleWriter(tmp_path / "bundle", overwrite=True) as writer:
        fill(writer)
        writer.commit(manifest())
    verify_files(tmp_path / "bundle")
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize("content", [None, '{"name": "a web page", "icons": []}', "{"])
def test_a_folder_that_is_no_bundle_is_never_overwritten(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "precious").touch()
    if content is not None:
        (tmp_path / "home" / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match="neither a bundle nor empty"):
        BundleWriter(tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "precious").exists()


def test_files_and_links_are_never_overwritten(bundle: Path) -> None:
    link = bundle.parent / "link"
    link.symlink_to(bundle)
    (bundle.parent / "file").touch()
    for target in (link, bundle.parent / "file"):
        with pytest.raises(BundleError, match="is not a folder"):
            BundleWriter(target, overwrite=True)


def test_a_file_that_is_not_proved_is_not_written(tmp_path: Path) -> None:
    far = variant(parity=parity(relative_error=0.5, cosine=0.9))
    with pytest.raises(ParityError) as caught:
        write(tmp_path / "bundle", variants=(far,))
    assert "onnx-fp32" in caught.value.message
    assert "relative_error 0.5 is above 0.0001" in caught.value.message
    assert "cosine 0.9 is below 0.99" in caught.value.message
    assert os.listdir(tmp_path) == []


def test_a_bound_without_a_figure_is_not_kept() -> None:
    assert parity().failures() == ()
    assert parity(top1_agreement=None, bound={"top1_agreement": 0.5}).failures() != ()


def test_a_variant_without_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"models/missing\.onnx is not among the files"):
        write(tmp_path / "bundle", variants=(variant(file="models/missing.onnx"),))
    assert os.listdir(tmp_path) == []


def test_a_figure_that_is_not_a_number_has_no_place() -> None:
    for change in (lambda: parity(cosine=float("nan")), lambda: manifest(provenance={"loss": float("inf")})):
        with pytest.raises(ValidationError, match="finite"):
            change()


def test_text_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be written"):
        write(tmp_path / "bundle", task="\ud800")
    assert os.listdir(tmp_path) == []


def test_a_link_cannot_be_committed(tmp_path: Path) -> None:
    def link(writer: BundleWriter) -> None:
        (writer.path / "link").symlink_to(tmp_path)
        writer.commit(manifest())

    with pytest.raises(BundleError, match="is a link"):
        write_until(tmp_path / "bundle", link)
    assert os.listdir(tmp_path) == []
