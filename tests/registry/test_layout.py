"""OCI image layouts: written as tools for registries read them, and read as strictly as registries are."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgespa.bundle import Approval, open_bundle
from edgespa.cli import main
from edgespa.errors import BundleError, EdgespaError, OutputExistsError, RegistryError
from edgespa.registry.artifact import ARTIFACT, CONFIG, FILEPATH, OCI_MANIFEST, bundle_artifact, read_artifact
from edgespa.registry.fetching import fetch_bundle
from edgespa.registry.layout import LayoutSource, write_layout
from edgespa.system.recognised import is_layout

_tiny: Any = sys.modules["tiny_bundles_of_registries"]
servers: Any = sys.modules["registry_servers"]


def type_in(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in words])


def files_in(folder: Path) -> dict[str, bytes]:
    found = sorted(each for each in folder.rglob("*") if each.is_file())
    return {each.relative_to(folder).as_posix(): each.read_bytes() for each in found}


@pytest.fixture
def layout(bundle: Path, tmp_path: Path) -> Path:
    """Of the bundle."""
    folder = tmp_path / "layout"
    with open_bundle(bundle) as opened:
        write_layout(bundle_artifact(opened), folder, "latest")
    return folder


def manifest_of(layout: Path) -> tuple[Path, dict[str, Any]]:
    index = json.loads((layout / "index.json").read_text())
    blob = layout / "blobs" / "sha256" / index["manifests"][0]["digest"].removeprefix("sha256:")
    return blob, json.loads(blob.read_text())


def put(layout: Path, content: bytes, **changes: Any) -> None:
    """Make these bytes the manifest of a layout, with the right digest."""
    index = json.loads((layout / "index.json").read_text())
    sha256 = hashlib.sha256(content).hexdigest()
    (layout / "blobs" / "sha256" / sha256).write_bytes(content)
    index["manifests"][0] |= {"digest": f"sha256:{sha256}", "size": len(content), **changes}
    (layout / "index.json").write_text(json.dumps(index))


class TestWhatIsWritten:
    def test_there_and_back(self, bundle: Path, tmp_path: Path) -> None:
        packed = type_in("pack", bundle, "--layout", "oci", "-o", tmp_path / "b.oci", "--json")
        assert packed.exit_code == 0, packed.output
        said = json.loads(packed.stdout)
        assert said["size_bytes"] == sum(len(each) for each in files_in(tmp_path / "b.oci").values())
        back = type_in("unpack", tmp_path / "b.oci", "-o", tmp_path / "back")
        assert back.exit_code == 0, back.output
        assert files_in(tmp_path / "back") == files_in(bundle)
        # Written again, and from what came back: the same bytes.
        for number, source in enumerate((bundle, tmp_path / "back")):
            again = type_in("pack", source, "--layout", "oci", "-o", tmp_path / f"{number}", "--json")
            assert json.loads(again.stdout)["sha256"] == said["sha256"]
            assert files_in(tmp_path / f"{number}") == files_in(tmp_path / "b.oci")

    def test_what_the_specification_asks_for(self, bundle: Path, layout: Path) -> None:
        assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
        index = json.loads((layout / "index.json").read_text())
        assert index["schemaVersion"] == 2
        assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
        (described,) = index["manifests"]
        assert described["mediaType"] == OCI_MANIFEST
        assert described["artifactType"] == ARTIFACT
        assert described["annotations"] == {"org.opencontainers.image.ref.name": "latest"}
        blob, manifest = manifest_of(layout)
        assert described["size"] == blob.stat().st_size
        assert manifest["config"]["mediaType"] == CONFIG
        for each in (manifest["config"], *manifest["layers"]):
            content = (layout / "blobs" / "sha256" / each["digest"].removeprefix("sha256:")).read_bytes()
            assert f"sha256:{hashlib.sha256(content).hexdigest()}" == each["digest"]
            assert len(content) == each["size"]
        assert len(files_in(layout)) == 3 + 1 + len({each["digest"] for each in manifest["layers"]})
        contents = files_in(bundle)
        for each in manifest["layers"]:
            path = each["annotations"][FILEPATH]
            assert (layout / "blobs" / "sha256" / each["digest"][7:]).read_bytes() == contents[path]
        assert is_layout(layout)

    def test_a_registrys_tool_finds_the_same_artifact(self, layout: Path) -> None:
        if shutil.which("skopeo") is None:
            pytest.skip("SKOPEO NOT TRIED: it is not installed")
        found = subprocess.run(
            ["skopeo", "inspect", "--raw", f"oci:{layout}:latest"], capture_output=True, check=True, text=True
        )
        assert json.loads(found.stdout) == manifest_of(layout)[1]

    def test_profiles_stay_out_and_equal_files_are_one_blob(self, bundle: Path, tmp_path: Path) -> None:
        (bundle / "profiles").mkdir()
        (bundle / "profiles" / "pi.json").write_text("{}")
        assert type_in("pack", bundle, "--layout", "oci", "-o", tmp_path / "a").exit_code == 0
        paths = [each["annotations"][FILEPATH] for each in manifest_of(tmp_path / "a")[1]["layers"]]
        assert not [each for each in paths if each.startswith("profiles")]
        (tmp_path / "twice").mkdir()
        twice = _tiny.write_bundle(
            tmp_path / "twice" / "b", onnx=_tiny.onnx_bytes(), extra={"one.bin": b"same", "two.bin": b"same"}
        )
        assert type_in("pack", twice, "--layout", "oci", "-o", tmp_path / "b").exit_code == 0
        assert type_in("unpack", tmp_path / "b", "-o", tmp_path / "back").exit_code == 0
        assert files_in(tmp_path / "back") == files_in(Path(twice))
        digests = [each["digest"] for each in manifest_of(tmp_path / "b")[1]["layers"]]
        assert len(digests) == len(set(digests)) + 1

    def test_the_registry_gets_the_same_bytes(self, registry: Any, bundle: Path, layout: Path) -> None:
        pytest.importorskip("oras", reason="REGISTRIES NOT TRIED: no oras")
        import edgespa as es

        pushed = es.push(bundle, target=f"oci://{registry.host}/layouts/same", progress=False)
        blob, _ = manifest_of(layout)
        assert pushed.digest == f"sha256:{blob.name}"
        for name, content in files_in(layout / "blobs" / "sha256").items():
            assert registry.blob(name).read_bytes() == content

    def test_outputs_that_are_there(self, bundle: Path, tmp_path: Path) -> None:
        line = ("pack", bundle, "--layout", "oci", "-o", tmp_path / "out")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("years")
        assert type_in(*line).exit_code == 1
        refused = type_in(*line, "--overwrite")
        assert refused.exit_code == 1
        assert "is neither an OCI layout nor empty and is not replaced" in refused.stderr
        assert files_in(tmp_path / "out") == {"thesis.txt": b"years"}
        (tmp_path / "out" / "thesis.txt").unlink()
        assert type_in(*line, "--overwrite").exit_code == 0
        assert type_in(*line).exit_code == 1
        (tmp_path / "next").mkdir()
        other = _tiny.write_bundle(tmp_path / "next" / "b", onnx=_tiny.onnx_bytes(), extra={"x": b"x"})
        assert type_in("pack", other, "--layout", "oci", "-o", tmp_path / "out", "--overwrite").exit_code == 0
        assert type_in("unpack", tmp_path / "out", "-o", tmp_path / "back").exit_code == 0
        assert files_in(tmp_path / "back") == files_in(Path(other))
        (tmp_path / "link").symlink_to(tmp_path / "out")
        assert type_in("pack", other, "--layout", "oci", "-o", tmp_path / "link", "--overwrite").exit_code == 1

    def test_a_damaged_bundle_leaves_nothing(self, bundle: Path, tmp_path: Path) -> None:
        (bundle / "labels.txt").write_text("other\n")
        assert type_in("pack", bundle, "--layout", "oci", "-o", tmp_path / "new" / "out").exit_code == 1
        assert not (tmp_path / "new").exists()

    def test_a_file_that_changes_meanwhile_leaves_nothing(self, bundle: Path, tmp_path: Path) -> None:
        with open_bundle(bundle) as opened:
            artifact = bundle_artifact(opened)
            (bundle / "labels.txt").write_text("other\n")
            with pytest.raises(BundleError, match=r"labels\.txt changes while it is written"):
                write_layout(artifact, tmp_path / "out", "latest")
        assert not (tmp_path / "out").exists()
        assert sorted(each.name for each in tmp_path.iterdir()) == ["good"]


class TestWhatIsRead:
    def refused(self, layout: Path, what: str, tmp_path: Path) -> EdgespaError:
        with pytest.raises(RegistryError, match=what) as caught:
            fetch_bundle(LayoutSource(layout), tmp_path / "out" / "b", Approval(layout, None, None, None))
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
        assert "\x1b" not in str(caught.value)
        return caught.value

    def test_blobs_that_are_not_what_they_are_called(self, layout: Path, tmp_path: Path) -> None:
        layers = {each["annotations"][FILEPATH]: each for each in manifest_of(layout)[1]["layers"]}
        blob = layout / "blobs" / "sha256" / layers["model.onnx"]["digest"][7:]
        good = blob.read_bytes()
        for content, what in (
            (good[:-1] + bytes([good[-1] ^ 1]), "has changed: its SHA-256 is another"),
            (good[:-1], "is cut off"),
            (good + b"x", "has more than"),
        ):
            blob.write_bytes(content)
            self.refused(layout, rf"model\.onnx {what}", tmp_path)
        blob.unlink()
        self.refused(layout, r"the blob of model\.onnx is missing", tmp_path)
        (tmp_path / "elsewhere").write_bytes(good)
        blob.symlink_to(tmp_path / "elsewhere")
        self.refused(layout, r"the blob of model\.onnx is missing", tmp_path)
        blob.unlink()
        os.mkfifo(blob)
        self.refused(layout, r"the blob of model\.onnx is missing", tmp_path)

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            (b"{", "cannot be read"),
            (b"[" * 100_000, "cannot be read"),
            (b'{"manifests": []}', "holds 0 artifacts"),
            (b'{"manifests": [{}, {}]}', "holds 2 artifacts"),
            (b'{"manifests": [1]}', "cannot be read"),
            (b'{"manifests": "x"}', "cannot be read"),
            (b'{"manifests": [{"digest": "sha256:../../x", "size": 1}]}', "names no manifest by its sha256"),
            (b'{"manifests": [{"digest": "md5:00", "size": 1}]}', "names no manifest by its sha256"),
            (b'{"manifests": [{"digest": 5, "size": 1}]}', "names no manifest by its sha256"),
            (b'{"manifests": [{"digest": "sha256:%s", "size": 1}]}' % (b"0" * 64), "is missing"),
            (b'{"manifests": []}' + b" " * (1 << 20), "cannot be read"),
        ],
    )
    def test_indexes(self, layout: Path, tmp_path: Path, content: bytes, what: str) -> None:
        (layout / "index.json").write_bytes(content)
        self.refused(layout, what, tmp_path)

    @pytest.mark.parametrize(("change", "what"), [
        (lambda it: it["layers"][1]["annotations"].update({FILEPATH: "../../x"}), "would be written to"),
        (lambda it: it["layers"][1]["annotations"].update({FILEPATH: "/etc/x"}), "would be written to"),
        (lambda it: it["layers"][1]["annotations"].update({FILEPATH: "a\\b"}), "would be written to"),
        (lambda it: it["layers"][1]["annotations"].update({FILEPATH: "C:x"}), "would be written to"),
        (lambda it: it["layers"][1]["annotations"].update({FILEPATH: "a\x1b[31m"}), "would be written to"),
        (lambda it: it["layers"][1]["annotations"].update({FILEPATH: "x" * 5000}), "would be written to"),
        (lambda it: it["layers"][1]["annotations"].pop(FILEPATH), "not a file as it is with"),
        (lambda it: it["layers"][1].update(mediaType=f"{CONFIG[:-7]}.tar"), "not a file as it is"),
        (lambda it: it["layers"].append(it["layers"][0]), "two layers are"),
        (lambda it: it["layers"].extend([it["layers"][0]] * 8_000), "cannot be read"),
        (lambda it: it["layers"][1].update(size=-1), "cannot be read"),
        (lambda it: it["layers"][1].update(size=1 << 60), "cannot be read"),
        (lambda it: it["layers"][1].update(size="5"), "cannot be read"),
        (lambda it: it["layers"][1].update(digest="sha256:../../x"), "cannot be read"),
        (lambda it: it["layers"].pop(), "is missing"),
        (lambda it: it.update(schemaVersion=1), "cannot be read"),
        (lambda it: it.update(manifests=[]), "is an index or an image for containers"),
        (lambda it: it.update(artifactType="a/b", config={**it["config"], "mediaType": "c/\x1b[31m"}), "not a model"),
    ])  # fmt: skip
    def test_manifests(self, layout: Path, tmp_path: Path, change: Callable[[Any], object], what: str) -> None:
        _, manifest = manifest_of(layout)
        change(manifest)
        put(layout, json.dumps(manifest).encode())
        self.refused(layout, what, tmp_path)

    @pytest.mark.parametrize(
        "content", [b"", b"5", b"{", b"\xff", b'{"schemaVersion": ' + b"9" * 5000 + b"}", b"[" * 9999]
    )
    def test_manifests_that_are_none(self, content: bytes) -> None:
        with pytest.raises(RegistryError, match="its manifest cannot be read"):
            read_artifact(content, "it")

    def test_a_size_that_is_not_the_manifests(self, layout: Path, tmp_path: Path) -> None:
        blob, _ = manifest_of(layout)
        for size, what in (
            (5, "has more than"),
            (1 << 60, "is cut off"),
            (-5, "has more than"),
            (None, "has more than"),
        ):
            put(layout, blob.read_bytes(), size=size)
            self.refused(layout, what, tmp_path)

    def test_what_is_no_layout(self, bundle: Path, tmp_path: Path) -> None:
        result = type_in("unpack", bundle, "-o", tmp_path / "back")
        assert result.exit_code == 1
        assert "Traceback" not in result.output
        assert not (tmp_path / "back").exists()

    def test_it_is_not_put_over_something(self, layout: Path, tmp_path: Path) -> None:
        (tmp_path / "back").mkdir()
        (tmp_path / "back" / "x").write_text("x")
        with pytest.raises((OutputExistsError, BundleError)):
            fetch_bundle(LayoutSource(layout), tmp_path / "back", Approval(layout, None, None, None))
        assert files_in(tmp_path / "back") == {"x": b"x"}
