"""Push to and pull from a real registry, and from stand-ins that break off, lie, and lead elsewhere."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import edgespa as es
from edgespa.cli import main
from edgespa.errors import (
    BundleError,
    ConfigError,
    MissingExtraError,
    OutputExistsError,
    RegistryError,
    SignatureError,
    TaskFileError,
)
from edgespa.registry.artifact import ARTIFACT, CONFIG, FILEPATH, OCI_MANIFEST, WEIGHT, bundle_artifact
from edgespa.registry.memory import known_places, remember_place

pytest.importorskip("oras", reason="REGISTRIES NOT TRIED: no oras")
servers: Any = sys.modules["registry_servers"]


def type_in(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in words])


def same(one: Path, other: Path) -> bool:
    names = sorted(each.relative_to(one) for each in one.rglob("*") if each.is_file())
    assert names == sorted(each.relative_to(other) for each in other.rglob("*") if each.is_file())
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def left_in(folder: Path) -> list[str]:
    """What lies beside an output, hidden things too."""
    return sorted(each.name for each in folder.iterdir())


class TestARealRegistry:
    def test_there_and_back_and_not_again(self, registry: Any, bundle: Path, tmp_path: Path) -> None:
        target = f"oci://{registry.host}/shapes/there:1.0"
        first = type_in("push", bundle, target)
        assert first.exit_code == 0, first.output
        assert "sent: 6 files" in first.stdout
        pulled = type_in("pull", target, "-o", tmp_path / "back")
        assert pulled.exit_code == 0, pulled.output
        assert same(bundle, tmp_path / "back")
        before = len(registry.requests())
        again = json.loads(type_in("push", bundle, target, "--json").stdout)
        asked = registry.requests()[before:]
        assert (again["sent"], again["mounted"]) == ([], [])
        assert again["requests"] == len(asked) == 8
        assert [each.split(" ")[0] for each in asked] == ["HEAD"] * 7 + ["PUT"]
        by_digest = f"oci://{registry.host}/shapes/there@{again['digest']}"
        assert es.pull(by_digest, output=tmp_path / "exact", progress=False).digest == again["digest"]
        assert same(bundle, tmp_path / "exact")

    def test_what_lies_there_is_a_model_pack(self, registry: Any, bundle: Path) -> None:
        pushed = es.push(bundle, target=f"oci://{registry.host}/shapes/pack", progress=False)
        manifest = json.loads(registry.blob(pushed.digest.removeprefix("sha256:")).read_bytes())
        assert manifest["artifactType"] == ARTIFACT
        assert manifest["mediaType"] == OCI_MANIFEST
        assert manifest["config"]["mediaType"] == CONFIG
        paths = {each["annotations"][FILEPATH]: each for each in manifest["layers"]}
        assert set(paths) == {each.name for each in bundle.iterdir()}
        assert paths["model.onnx"]["mediaType"] == WEIGHT
        assert paths["run.py"]["mediaType"].endswith("model.code.v1.raw")
        config = json.loads(registry.blob(manifest["config"]["digest"].removeprefix("sha256:")).read_bytes())
        assert set(config) == {"descriptor", "config", "modelfs"}
        assert config["modelfs"] == {"type": "layers", "diffIds": [each["digest"] for each in manifest["layers"]]}
        assert config["descriptor"]["name"] == "shapes"
        assert config["config"]["capabilities"]["inputTypes"] == ["image"]

    @pytest.mark.parametrize("way", ["mounted", "there"])
    def test_a_second_task_on_the_same_base_sends_itself_alone(
        self, registry: Any, tasks: Path, tmp_path: Path, way: str
    ) -> None:
        names = ("one", "two") if way == "mounted" else ("both", "both")
        first = es.push(
            tasks / "one.spa",
            target=f"oci://{registry.host}/{way}/{names[0]}:1",
            with_base=True,
            trust=True,
            progress=False,
        )
        assert first.sent is not None
        (base,) = (each for each in first.sent if each.startswith("base-"))
        before = len(registry.requests())
        second = es.push(
            tasks / "two.spa",
            target=f"oci://{registry.host}/{way}/{names[1]}:2",
            with_base=True,
            trust=True,
            progress=False,
        )
        assert second.sent == ("two.spa",)
        assert second.mounted == ((base,) if way == "mounted" else ())
        size = (tasks / "two.spa").stat().st_size
        assert second.sent_bytes is not None
        assert size < second.sent_bytes < size + 2000  # its config and its manifest
        assert second.requests == len(registry.requests()) - before == (9 if way == "mounted" else 8)
        for name, tag in ((names[0], "1"), (names[1], "2")):
            place = f"oci://{registry.host}/{way}/{name}:{tag}"
            es.pull(place, output=tmp_path / "tasks", with_base=True, progress=False)
        assert left_in(tmp_path / "tasks") == sorted([base, "one.spa", "two.spa"])
        blobs = [each for each in registry.requests() if "GET" in each and hash_of(tmp_path / "tasks" / base) in each]
        assert len([each for each in blobs if f"/{way}/" in each]) == 1  # the second found it in the folder
        assert (tmp_path / "tasks" / "two.spa").read_bytes() == (tasks / "two.spa").read_bytes()

    def test_a_place_that_does_not_hold_it_any_more_costs_nothing(self, registry: Any, bundle: Path) -> None:
        digest = f"sha256:{hash_of(bundle / 'run.py')}"
        remember_place(registry.host, digest, 1 << 20, "not/there")
        assert known_places(registry.host, digest, "shapes/new") == ("not/there",)
        pushed = es.push(bundle, target=f"oci://{registry.host}/shapes/forgotten", progress=False)
        assert pushed.mounted is not None
        assert "run.py" not in pushed.mounted

    def test_a_tag_that_is_not_there(self, registry: Any, bundle: Path, tmp_path: Path) -> None:
        es.push(bundle, target=f"oci://{registry.host}/shapes/tags:1.0", progress=False)
        es.push(bundle, target=f"oci://{registry.host}/shapes/tags:1.1", progress=False)
        with pytest.raises(RegistryError, match=r"does not have the tag 2\.0") as caught:
            es.pull(f"oci://{registry.host}/shapes/tags:2.0", output=tmp_path / "b", progress=False)
        assert caught.value.hint == "its tags: 1.0, 1.1"
        with pytest.raises(RegistryError, match="has no shapes/nothing"):
            es.pull(f"oci://{registry.host}/shapes/nothing:1", output=tmp_path / "b", progress=False)
        with pytest.raises(RegistryError, match="does not have sha256:00"):
            es.pull(f"oci://{registry.host}/shapes/tags@sha256:{'0' * 64}", output=tmp_path / "b", progress=False)

    def test_a_blob_that_was_exchanged(self, registry: Any, bundle: Path, tmp_path: Path) -> None:
        target = f"oci://{registry.host}/shapes/tampered:1"
        (bundle.parent / "other").mkdir()
        own = Path(shutil.copytree(bundle, bundle.parent / "other" / "own"))
        es.push(own, target=target, progress=False)
        blob = registry.blob(hash_of(own / "model.onnx"))
        good = blob.read_bytes()
        try:
            blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
            with pytest.raises(RegistryError, match=r"model\.onnx has changed: its SHA-256 is another"):
                es.pull(target, output=tmp_path / "out" / "b", progress=False)
            assert left_in(tmp_path / "out") == []
            blob.write_bytes(good[:-7])
            with pytest.raises(RegistryError, match=r"model\.onnx is cut off"):
                es.pull(target, output=tmp_path / "out" / "b", progress=False)
            assert left_in(tmp_path / "out") == []
        finally:
            blob.write_bytes(good)
        es.pull(target, output=tmp_path / "out" / "b", progress=False)
        with pytest.raises(OutputExistsError):
            es.pull(target, output=tmp_path / "out" / "b", progress=False)
        es.pull(target, output=tmp_path / "out" / "b", overwrite=True, progress=False)
        assert same(own, tmp_path / "out" / "b")

    def test_a_damaged_bundle_is_not_pushed(self, registry: Any, bundle: Path) -> None:
        (bundle / "labels.txt").write_text("other\n")
        before = len(registry.requests())
        with pytest.raises(BundleError, match=r"labels\.txt"):
            es.push(bundle, target=f"oci://{registry.host}/shapes/damaged", progress=False)
        assert len(registry.requests()) == before

    def test_signatures_are_asked_for_before_anything_is_fetched(
        self, registry: Any, bundle: Path, tmp_path: Path
    ) -> None:
        if shutil.which("ssh-keygen") is None:
            pytest.skip("SIGNATURES NOT TRIED: no ssh-keygen")
        for name in ("ada", "eve"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(tmp_path / name)]
            subprocess.run(make, check=True, capture_output=True)
            (tmp_path / f"{name}.signers").write_text(f"{name} {(tmp_path / f'{name}.pub').read_text()}")
        assert type_in("sign", bundle, "--key", tmp_path / "ada").exit_code == 0
        target = f"oci://{registry.host}/shapes/signed:1"
        es.push(bundle, target=target, progress=False)
        pulled = es.pull(target, output=tmp_path / "b", signers=tmp_path / "ada.signers", progress=False)
        assert pulled.signed_by == "ada"
        assert same(bundle, tmp_path / "b")
        before = len(registry.requests())
        with pytest.raises(SignatureError):
            es.pull(target, output=tmp_path / "c", signers=tmp_path / "eve.signers", progress=False)
        asked = registry.requests()[before:]
        assert len([each for each in asked if "/blobs/" in each]) == 2  # the manifest and its signature
        assert not (tmp_path / "c").exists()
        said = type_in("pull", target, "-o", tmp_path / "d")
        assert "the signature was not checked" in said.stderr

    def test_a_push_that_is_killed_goes_on(self, bundle: Path, tmp_path: Path) -> None:
        if servers.registry_program() is None:
            pytest.skip("REGISTRIES NOT TRIED: no docker-registry")
        content = os.urandom(3 << 20)
        large = _tiny().write_bundle(
            tmp_path / "large", onnx=_tiny().onnx_bytes(), extra={f"{n}.bin": content[n:] for n in range(4)}
        )
        with servers.registry(tmp_path / "registry") as running:
            target = f"oci://{running.host}/shapes/large:1"
            line = [sys.executable, "-m", "edgespa", "push", str(large), target]
            process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and sum("PUT" in each for each in running.requests()) < 2:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            with pytest.raises(RegistryError):
                es.pull(target, output=tmp_path / "b", progress=False)
            done = es.push(large, target=target, progress=False)
            assert done.sent is not None
            assert len(done.sent) <= done.files - 2
            es.pull(target, output=tmp_path / "b", progress=False)
        assert same(large, tmp_path / "b")


class TestCredentials:
    def test_wrong_ones_and_right_ones(
        self, closed_registry: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = f"oci://{closed_registry.host}/shapes/one:1"
        for user in (None, "eve", "ann"):
            if user is not None:
                _write(tmp_path / "docker", closed_registry.host, user)
                monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
            if user == "ann":
                break
            result = type_in("push", bundle, target)
            assert result.exit_code == 1
            assert "refuses to push to shapes/one" in str(result.exception) + result.stderr
            assert ("your credentials do not allow it" if user else "it asks who you are") in result.stderr
            assert f"docker login {closed_registry.host}" in result.stderr
            assert "secret" not in result.output + result.stderr
        assert type_in("push", bundle, target).exit_code == 0
        es.pull(target, output=tmp_path / "b", progress=False)
        assert same(bundle, tmp_path / "b")
        (tmp_path / "docker" / "config.json").write_text("[")
        with pytest.raises(RegistryError, match=r"credentials for .* cannot be read"):
            es.pull(target, output=tmp_path / "c", progress=False)

    def test_a_token_is_fetched_with_them_and_sent_to_nobody_else(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def answer(asked: Any) -> None:
            if asked.path.startswith("/token"):
                assert asked.headers["Authorization"].startswith("Basic ")
                return asked.say(200, {"token": "t0ken"})
            if asked.headers.get("Authorization") != "Bearer t0ken":
                realm = f'Bearer realm="http://{asked.server.host}/token",service="s",scope="repository:a:pull"'
                return asked.say(401, {}, WWW_Authenticate=realm)
            return asked.say(404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no\x1b[31m manifest"}]})

        with servers.standing_in(answer) as server:
            _write(tmp_path / "docker", server.host, "ann")
            monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
            with pytest.raises(RegistryError, match="has no a"):
                es.pull(f"oci://{server.host}/a:1", output=tmp_path / "b", progress=False)
            assert [path.partition("?")[0] for _, path, _ in server.asked[:3]] == [
                "/v2/a/manifests/1",
                "/token",
                "/v2/a/manifests/1",
            ]
            assert "scope=repository%3Aa%3Apull" in server.asked[1][1]

    def test_what_a_registry_says_back_of_them_is_not_told(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def answer(asked: Any) -> None:
            if asked.path.startswith("/token"):
                return asked.say(200, {"token": "t0ken"})
            came = asked.headers.get("Authorization")
            if came is None:
                return asked.say(
                    401, {}, WWW_Authenticate=f'Bearer realm="http://{asked.server.host}/token",service="s"'
                )
            said = f"you are ann with secret, {basic}, and came with {came}; go away"
            return asked.say(403, {"errors": [{"code": "DENIED", "message": said}]})

        import base64

        basic = base64.b64encode(b"ann:secret").decode()
        with servers.standing_in(answer) as server:
            _write(tmp_path / "docker", server.host, "ann")
            monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
            result = type_in("pull", f"oci://{server.host}/a:1", "-o", tmp_path / "b")
        assert result.exit_code == 1
        assert "go away" in result.stderr
        for each in ("t0ken", basic, "secret"):
            assert each not in result.output + result.stderr

    def test_a_token_service_without_tls_gets_no_credentials(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked_there = []

        def answer(asked: Any) -> None:
            realm = f'Bearer realm="http://localhost:{other.server_address[1]}/token",service="s"'
            asked.say(401, {}, WWW_Authenticate=realm)

        def listen(asked: Any) -> None:
            asked_there.append(asked.path)
            asked.say(200, {"token": "t"})

        with servers.standing_in(listen) as other, servers.standing_in(answer) as server:
            _write(tmp_path / "docker", server.host, "ann")
            monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
            with pytest.raises(RegistryError, match="names a place without TLS: localhost"):
                es.pull(f"oci://{server.host}/a:1", output=tmp_path / "b", progress=False)
        assert asked_there == []


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tiny() -> Any:
    return sys.modules["tiny_bundles_of_registries"]


def _write(folder: Path, host: str, user: str) -> None:
    import base64

    folder.mkdir(exist_ok=True)
    auth = base64.b64encode(f"{user}:secret".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))


class Shelf:
    """A stand-in that gives out an artifact of a bundle, with faults.

    Args:
        bundle: Whose.
        fault: Asked for each blob: None for its content, else the answer is its own.
    """

    def __init__(self, bundle: Path, fault: Any = None) -> None:
        from edgespa.bundle import open_bundle

        with open_bundle(bundle) as opened:
            self.artifact = bundle_artifact(opened)
        self.manifest = self.artifact.manifest
        self.fault = fault

    def __call__(self, asked: Any) -> None:
        """Answer."""
        if "/manifests/" in asked.path:
            return asked.say(200, self.manifest, Content_Type=OCI_MANIFEST)
        if "/blobs/" not in asked.path:
            return asked.say(404, {})
        content = self.artifact.contents[asked.path.rpartition("/")[2]]
        with content.open() as stream:
            whole = stream.read()
        if self.fault is not None and self.fault(asked, content.path, whole):
            return None
        begin = int((asked.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if begin:
            return asked.say(206, whole[begin:], Content_Range=f"bytes {begin}-{len(whole) - 1}/{len(whole)}")
        return asked.say(200, whole)


class TestStandIns:
    @pytest.mark.parametrize("ranges", [True, False])
    def test_a_blob_that_breaks_off_goes_on(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool
    ) -> None:
        monkeypatch.setattr("edgespa.registry.oci._PIECE", 16)
        asked_for: list[str | None] = []

        def fault(asked: Any, path: str, whole: bytes) -> bool:
            if path != "run.py":
                return False
            asked_for.append(asked.headers.get("Range"))
            if len(asked_for) == 1:
                half = whole[: len(whole) // 2]
                asked.say(200, half, Content_Length=str(len(whole)))
                asked.close_connection = True
                asked.connection.shutdown(2)
                return True
            if not ranges:
                asked.say(200, whole)
                return True
            return False

        with servers.standing_in(Shelf(bundle, fault)) as server:
            es.pull(f"oci://{server.host}/a:1", output=tmp_path / "b", progress=False)
        assert same(bundle, tmp_path / "b")
        assert asked_for[0] is None
        assert asked_for[1] is not None
        assert asked_for[1].startswith("bytes=")

    def test_another_part_than_was_asked_for(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgespa.registry.oci._PIECE", 16)

        def fault(asked: Any, path: str, whole: bytes) -> bool:
            if path != "run.py":
                return False
            if "Range" in asked.headers:
                asked.say(206, whole, Content_Range=f"bytes 0-{len(whole) - 1}/{len(whole)}")
                return True
            asked.say(200, whole[: len(whole) // 2], Content_Length=str(len(whole)))
            asked.close_connection = True
            asked.connection.shutdown(2)
            return True

        with (
            servers.standing_in(Shelf(bundle, fault)) as server,
            pytest.raises(RegistryError, match="answers with another part than asked"),
        ):
            es.pull(f"oci://{server.host}/a:1", output=tmp_path / "b", progress=False)

    def test_one_that_always_breaks_off_leaves_nothing(self, bundle: Path, tmp_path: Path) -> None:
        def fault(asked: Any, path: str, whole: bytes) -> bool:
            if path == "run.py":
                asked.close_connection = True
                asked.connection.shutdown(2)
            return path == "run.py"

        with (
            servers.standing_in(Shelf(bundle, fault)) as server,
            pytest.raises(RegistryError, match="cannot be reached, or broke off"),
        ):
            es.pull(f"oci://{server.host}/a:1", output=tmp_path / "out" / "b", progress=False)
        assert left_in(tmp_path / "out") == []

    def test_a_blob_without_an_end(self, bundle: Path, tmp_path: Path) -> None:
        sent = []

        def fault(asked: Any, path: str, whole: bytes) -> bool:
            if path != "model.onnx":
                return False
            asked.send_response(200)
            asked.send_header("Transfer-Encoding", "chunked")
            asked.end_headers()
            for _ in range(1000):
                asked.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
                sent.append(1 << 16)
            return True

        with (
            servers.standing_in(Shelf(bundle, fault)) as server,
            pytest.raises(RegistryError, match=r"model\.onnx has more than"),
        ):
            es.pull(f"oci://{server.host}/a:1", output=tmp_path / "out" / "b", progress=False)
        assert left_in(tmp_path / "out") == []
        assert len(sent) < 1000

    def test_a_manifest_without_an_end(self, tmp_path: Path) -> None:
        def answer(asked: Any) -> None:
            asked.send_response(200)
            asked.send_header("Transfer-Encoding", "chunked")
            asked.end_headers()
            for _ in range(1000):
                asked.wfile.write(b"10000\r\n" + b" " * (1 << 16) + b"\r\n")

        with (
            servers.standing_in(answer) as server,
            pytest.raises(RegistryError, match="answers with more than 4,194,304 bytes"),
        ):
            es.pull(f"oci://{server.host}/a:1", output=tmp_path / "b", progress=False)

    def test_the_manifest_is_the_one_that_was_asked_for(self, bundle: Path, tmp_path: Path) -> None:
        shelf = Shelf(bundle)
        digest = shelf.artifact.digest
        shelf.manifest = shelf.manifest.replace(b'"schemaVersion":2', b'"schemaVersion": 2')
        with (
            servers.standing_in(shelf) as server,
            pytest.raises(RegistryError, match="the registry gives sha256:"),
        ):
            es.pull(f"oci://{server.host}/a@{digest}", output=tmp_path / "b", progress=False)

    def test_layers_are_the_files_of_the_bundle(self, bundle: Path, tmp_path: Path) -> None:
        shelf = Shelf(bundle)
        for change, what in (
            (lambda values: values["layers"].pop(), "is missing"),
            (lambda values: values["layers"][-1]["annotations"].update({FILEPATH: "more.bin"}), "more.bin is not in"),
            (lambda values: values["layers"][-1].update(size=3), "is another file than"),
            (lambda values: values["layers"][-1].update(digest=f"sha256:{'0' * 64}"), "is another file than"),
        ):
            values = json.loads(shelf.artifact.manifest)
            change(values)
            shelf.manifest = json.dumps(values).encode()
            with (
                servers.standing_in(shelf) as server,
                pytest.raises(RegistryError, match=what),
            ):
                es.pull(f"oci://{server.host}/a:1", output=tmp_path / "b", progress=False)
            blobs = [path for _, path, _ in server.asked if "/blobs/" in path]
            assert len(blobs) == 1  # the bundle's manifest, and nothing else
        assert not (tmp_path / "b").exists()

    def test_it_does_not_go_to_a_place_without_tls(self, bundle: Path, tmp_path: Path) -> None:
        reached = []

        def fault(asked: Any, path: str, whole: bytes) -> bool:
            asked.say(307, Location=f"http://localhost:{other.server_address[1]}/blob")
            return True

        def listen(asked: Any) -> None:
            reached.append(asked.path)
            asked.say(200, b"")

        with (
            servers.standing_in(listen) as other,
            servers.standing_in(Shelf(bundle, fault)) as server,
            pytest.raises(RegistryError, match="names a place without TLS: localhost"),
        ):
            es.pull(f"oci://{server.host}/a:1", output=tmp_path / "b", progress=False)
        assert reached == []

    @pytest.mark.parametrize("status", [500, 503, 429])
    def test_what_a_registry_complains_of_is_told(self, bundle: Path, status: int) -> None:
        def answer(asked: Any) -> None:
            asked.say(status, {"errors": [{"code": "X", "message": "the\x1b[31m disk\nis full"}]})

        with servers.standing_in(answer) as server:
            result = type_in("push", bundle, f"oci://{server.host}/a:1")
        assert result.exit_code == 1
        assert ("too many requests" if status == 429 else f"HTTP {status}") in result.stderr
        assert "\x1b" not in result.stderr

    def test_nothing_listens_there(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        begun = time.process_time()
        result = type_in("push", bundle, "oci://127.0.0.1:1/a:1")
        assert result.exit_code == 1
        assert "127.0.0.1:1 cannot be reached" in result.stderr
        assert time.process_time() - begun < 5


class TestWhatIsSaid:
    def test_options_that_do_not_go_together(self, bundle: Path, tasks: Path, tmp_path: Path) -> None:
        for options, words in (
            ((bundle, "oci://localhost:1/a", "--public"), "is of the hub"),
            ((bundle, "hf://a/b", "--plain-http"), "is of a registry"),
            ((bundle, "oci://localhost:1/a", "--with-base"), "is of TASK files"),
            ((tasks / "one.spa", "oci://localhost:1/a", "--base", "x.py:y"), "is of --with-base"),
        ):
            result = type_in("push", *options)
            assert result.exit_code == 2, result.output
            assert words in result.stderr
        for options in ({"with_base": True}, {"license": "MIT"}, {"base_model": "a/b"}, {"datasets": ["a/b"]}):
            with pytest.raises(ConfigError):
                es.push(bundle, target="oci://localhost:1/a", progress=False, **options)  # type: ignore[arg-type]

    def test_a_task_is_looked_at_before_it_is_in_its_place(self, registry: Any, tasks: Path, tmp_path: Path) -> None:
        from edgespa.registry.artifact import task_artifact
        from edgespa.registry.oci import push_artifact
        from edgespa.registry.references import RegistryReference

        broken = tmp_path / "broken.spa"
        broken.write_bytes((tasks / "one.spa").read_bytes()[:-3] + b"abc")
        facts = {"created": "2026-01-01T00:00:00+00:00", "parameters": 1, "image": True}
        artifact = task_artifact("one.spa", broken, facts)
        push_artifact(artifact, RegistryReference(registry.host, "broken/one", "1"))
        with pytest.raises(TaskFileError):
            es.pull(f"oci://{registry.host}/broken/one:1", output=tmp_path / "t", progress=False)
        assert left_in(tmp_path / "t") == []
        with pytest.raises(RegistryError, match="holds no base"):
            es.pull(f"oci://{registry.host}/broken/one:1", output=tmp_path / "t", with_base=True, progress=False)

    def test_a_client_that_is_not_installed(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name, *rest: None if name == "oras" else find(name, *rest)
        )
        for call in (
            lambda: es.push(bundle, target="oci://localhost:1/a", progress=False),
            lambda: es.pull("oci://localhost:1/a", output=tmp_path / "b", progress=False),
        ):
            with pytest.raises(MissingExtraError) as caught:
                call()
            assert "[oci]" in str(caught.value.hint)
