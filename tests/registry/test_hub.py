"""Push to and pull from a hub: a stand-in that answers its own client, and lies where it is told to."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import edgespa as es
from edgespa.cli import main
from edgespa.errors import ConfigError, MissingExtraError, OutputExistsError, RegistryError, SignatureError

huggingface_hub = pytest.importorskip("huggingface_hub", reason="THE HUB NOT TRIED: no huggingface_hub")
servers: Any = sys.modules["registry_servers"]
_tiny: Any = sys.modules["tiny_bundles_of_registries"]
TARGET = "hf://ann/flowers"


def type_in(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in words])


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        each.relative_to(folder).as_posix(): each.read_bytes() for each in sorted(folder.rglob("*")) if each.is_file()
    }


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A stand-in with one repository that nobody has made yet; the client is logged in, its cache is empty."""
    from huggingface_hub import constants

    made = servers.Hub()
    with servers.standing_in(made) as server:
        address = f"http://{server.host}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("edgespa.registry.hub._WAIT_S", 0.0)
        monkeypatch.setenv("HF_TOKEN", made.token)
        made.server = server
        yield made


def asked_for(hub: Any, part: str) -> list[str]:
    return [path for _, path, _ in hub.server.asked if part in path]


class TestThereAndBack:
    def test_a_bundle(self, hub: Any, bundle: Path, tmp_path: Path) -> None:
        pushed = type_in("push", bundle, TARGET, "--base-model", "timm/resnet18.a1_in1k", "--dataset", "ann/petals")
        assert pushed.exit_code == 0, pushed.output
        assert f"page: http://{hub.server.host}/ann/flowers (private)" in pushed.stdout
        assert hub.is_private
        there = hub.branches["main"]
        sealed = {name: content for name, content in there.items() if name not in ("README.md", "README.bundle.md")}
        assert sealed == {name: content for name, content in files_in(bundle).items() if name != "README.md"}
        card = huggingface_hub.ModelCard(there["README.md"].decode())
        assert card.data.base_model == "timm/resnet18.a1_in1k"
        assert card.data.datasets == ["ann/petals"]
        assert card.data.library_name == "edgespa"
        pulled = type_in("pull", TARGET, "-o", tmp_path / "back", "--json")
        assert pulled.exit_code == 0, pulled.output
        assert json.loads(pulled.stdout)["digest"] == hub.commit_of("main")
        assert files_in(tmp_path / "back") == files_in(bundle)
        assert hub.token not in pushed.output + pulled.output

    def test_what_is_there_is_not_sent_again(self, hub: Any, bundle: Path) -> None:
        first = es.push(bundle, target=TARGET, progress=False)
        sent = list(hub.uploads)
        assert hashlib.sha256((bundle / "run.py").read_bytes()).hexdigest() in sent or sent == []
        second = es.push(bundle, target=TARGET, progress=False)
        assert hub.uploads == sent
        assert second.digest == first.digest

    def test_a_readme_of_the_bundle_comes_back_as_it_is_sealed(self, hub: Any, tmp_path: Path) -> None:
        own = _tiny.write_bundle(tmp_path / "own", onnx=_tiny.onnx_bytes(), extra={"README.md": b"# sealed\n"})
        es.push(own, target=TARGET, progress=False)
        assert hub.branches["main"]["README.bundle.md"] == b"# sealed\n"
        assert hub.branches["main"]["README.md"].startswith(b"---\n")
        es.pull(TARGET, output=tmp_path / "back", progress=False)
        assert files_in(tmp_path / "back") == files_in(Path(own))
        # The next one has none: what belonged to the first is not left beside it.
        other = _tiny.write_bundle(tmp_path / "other", onnx=_tiny.onnx_bytes())
        es.push(other, target=TARGET, progress=False)
        assert ("README.bundle.md" in hub.branches["main"]) == (Path(other) / "README.md").exists()
        es.pull(TARGET, output=tmp_path / "again", progress=False)
        assert files_in(tmp_path / "again") == files_in(Path(other))

    def test_a_branch_and_a_commit(self, hub: Any, bundle: Path, tmp_path: Path) -> None:
        es.push(bundle, target=TARGET, progress=False, public=True)
        assert hub.made is not None
        assert not hub.is_private
        first = hub.commit_of("main")
        (tmp_path / "next").mkdir()
        other = _tiny.write_bundle(tmp_path / "next" / "b", onnx=_tiny.onnx_bytes(), extra={"new.txt": b"new"})
        es.push(other, target=f"{TARGET}@v2", progress=False)
        assert hub.commit_of("main") == first
        es.pull(f"{TARGET}@v2", output=tmp_path / "two", progress=False)
        assert files_in(tmp_path / "two") == files_in(Path(other))
        assert es.pull(f"{TARGET}@{first}", output=tmp_path / "one", progress=False).digest == first
        assert files_in(tmp_path / "one") == files_in(bundle)
        with pytest.raises(RegistryError, match="there is no such revision"):
            es.pull(f"{TARGET}@v3", output=tmp_path / "three", progress=False)

    def test_a_task_with_its_base(self, hub: Any, tasks: Path, tmp_path: Path) -> None:
        pushed = es.push(tasks / "one.spa", target=TARGET, with_base=True, trust=True, license="MIT", progress=False)
        assert pushed.files == 3
        (base,) = (each for each in hub.branches["main"] if each.startswith("base-"))
        card = huggingface_hub.ModelCard(hub.branches["main"]["README.md"].decode())
        assert card.data.license == "mit"
        assert "edgespa-task" in card.data.tags
        pulled = es.pull(TARGET, output=tmp_path / "tasks", with_base=True, progress=False)
        assert pulled.base == tmp_path / "tasks" / base
        assert sorted(files_in(tmp_path / "tasks")) == sorted([base, "one.spa"])
        assert (tmp_path / "tasks" / "one.spa").read_bytes() == (tasks / "one.spa").read_bytes()
        assert (tmp_path / "tasks" / base).read_bytes() == hub.branches["main"][base]
        with pytest.raises(OutputExistsError):
            es.pull(TARGET, output=tmp_path / "tasks", progress=False)
        # The second task, on a branch of its own, sends itself and its card alone.
        before = list(hub.uploads)
        es.push(tasks / "two.spa", target="hf://ann/flowers@two", with_base=True, trust=True, progress=False)
        digest = hashlib.sha256((tasks / "two.spa").read_bytes()).hexdigest()
        sent = hub.uploads[len(before) :]
        assert digest in sent
        assert len(sent) == 2
        assert hashlib.sha256((tmp_path / "tasks" / base).read_bytes()).hexdigest() in before
        assert sorted(hub.branches["two"]) == sorted([base, "README.md", "two.spa"])
        # A push without its base leaves none that may be another's.
        es.push(tasks / "two.spa", target="hf://ann/flowers@two", progress=False)
        assert sorted(hub.branches["two"]) == ["README.md", "two.spa"]

    def test_files_of_the_version_before_do_not_stay(self, hub: Any, tmp_path: Path) -> None:
        for n in (1, 2):
            (tmp_path / f"{n}").mkdir()
            made = _tiny.write_bundle(tmp_path / f"{n}" / "b", onnx=_tiny.onnx_bytes(), extra={f"v{n}.txt": b"x"})
            es.push(made, target=TARGET, progress=False)
            hub.branches["main"]["LICENSE"] = b"of the owner"
        assert {"v1.txt", "v2.txt", "LICENSE"} & set(hub.branches["main"]) == {"v2.txt", "LICENSE"}
        es.pull(TARGET, output=tmp_path / "back", progress=False)
        assert files_in(tmp_path / "back") == files_in(tmp_path / "2" / "b")

    @pytest.mark.parametrize("first", ["bundle", "task"])
    def test_one_repository_holds_one_of_them(self, hub: Any, bundle: Path, tasks: Path, first: str) -> None:
        order = [bundle, tasks / "one.spa"] if first == "bundle" else [tasks / "one.spa", bundle]
        es.push(order[0], target=TARGET, progress=False)
        before = hub.commit_of("main")
        with pytest.raises(
            RegistryError, match="holds a bundle" if first == "bundle" else r"holds the task file one\.spa"
        ):
            es.push(order[1], target=TARGET, progress=False)
        if first == "task":
            with pytest.raises(RegistryError, match=r"holds another task file, one\.spa"):
                es.push(tasks / "two.spa", target=TARGET, progress=False)
        assert hub.commit_of("main") == before

    def test_a_signature(self, hub: Any, bundle: Path, tmp_path: Path) -> None:
        if shutil.which("ssh-keygen") is None:
            pytest.skip("SIGNATURES NOT TRIED: no ssh-keygen")
        for name in ("ada", "eve"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(tmp_path / name)]
            subprocess.run(make, check=True, capture_output=True)
            (tmp_path / f"{name}.signers").write_text(f"{name} {(tmp_path / f'{name}.pub').read_text()}")
        assert type_in("sign", bundle, "--key", tmp_path / "ada").exit_code == 0
        es.push(bundle, target=TARGET, progress=False)
        pulled = es.pull(TARGET, output=tmp_path / "b", signers=tmp_path / "ada.signers", progress=False)
        assert pulled.signed_by == "ada"
        assert files_in(tmp_path / "b") == files_in(bundle)
        before = len(hub.server.asked)
        with pytest.raises(SignatureError):
            es.pull(TARGET, output=tmp_path / "c", signers=tmp_path / "eve.signers", progress=False)
        fetched = [path.rpartition("/")[2] for _, path, _ in hub.server.asked[before:] if "/resolve/" in path]
        assert fetched == ["manifest.json", "manifest.json.sig"]
        assert not (tmp_path / "c").exists()
        # Of another bundle, unsigned, the old signature does not stay there.
        (tmp_path / "next").mkdir()
        es.push(_tiny.write_bundle(tmp_path / "next" / "b", onnx=_tiny.onnx_bytes()), target=TARGET, progress=False)
        assert "manifest.json.sig" not in hub.branches["main"]
        with pytest.raises(SignatureError):
            es.pull(TARGET, output=tmp_path / "d", signers=tmp_path / "ada.signers", progress=False)


class TestOffline:
    def test_all_comes_from_the_librarys_cache(
        self, hub: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        es.push(bundle, target=TARGET, progress=False)
        huggingface_hub.snapshot_download("ann/flowers")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        before = len(hub.server.asked)
        for revision in ("", f"@{hub.commit_of('main')}"):
            pulled = es.pull(f"{TARGET}{revision}", output=tmp_path / f"b{revision}", progress=False)
            assert pulled.digest == hub.commit_of("main")
            assert files_in(pulled.path) == files_in(bundle)
        assert len(hub.server.asked) == before
        (cached,) = (tmp_path / "cache").glob("models--*/snapshots/*/model.onnx")
        cached.resolve().write_bytes(bytes(len(cached.read_bytes())))
        with pytest.raises(RegistryError, match=r"model\.onnx has changed"):
            es.pull(TARGET, output=tmp_path / "bad", progress=False)
        cached.unlink()
        with pytest.raises(RegistryError, match=r"model\.onnx is missing"):
            es.pull(TARGET, output=tmp_path / "bad", progress=False)
        assert not (tmp_path / "bad").exists()

    @pytest.mark.parametrize("target", [TARGET, f"{TARGET}@../../../x", f"{TARGET}@{'0' * 40}"])
    def test_what_is_not_there(
        self, hub: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(RegistryError, match=r"is not in the cache, and HF_HUB_OFFLINE says not to ask"):
            es.pull(target, output=tmp_path / "b", progress=False)
        with pytest.raises(RegistryError, match="HF_HUB_OFFLINE says not to ask the hub"):
            es.push(bundle, target=TARGET, progress=False)
        assert hub.server.asked == []

    def test_what_the_cache_holds_is_not_fetched_unless_it_is_damaged(
        self, hub: Any, bundle: Path, tmp_path: Path
    ) -> None:
        es.push(bundle, target=TARGET, progress=False)
        huggingface_hub.snapshot_download("ann/flowers")
        before = len(hub.server.asked)
        es.pull(TARGET, output=tmp_path / "b", progress=False)
        fetched = [path.rpartition("/")[2] for _, path, _ in hub.server.asked[before:] if "/resolve/" in path]
        assert fetched == ["manifest.json"]
        (cached,) = (tmp_path / "cache").glob("models--*/snapshots/*/model.onnx")
        cached.resolve().write_bytes(b"x")
        es.pull(TARGET, output=tmp_path / "c", progress=False)
        assert files_in(tmp_path / "c") == files_in(tmp_path / "b") == files_in(bundle)


class TestHostile:
    @pytest.mark.parametrize(
        ("change", "what"),
        [
            (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "has changed: its SHA-256 is another"),
            (lambda content: content[:-7], "is cut off"),
            (lambda content: content + b"x", "has more than"),
        ],
    )
    def test_another_file_than_was_pushed(self, hub: Any, bundle: Path, tmp_path: Path, change: Any, what: str) -> None:
        es.push(bundle, target=TARGET, progress=False)
        hub.spoil["model.onnx"] = change((bundle / "model.onnx").read_bytes())
        with pytest.raises(RegistryError, match=rf"model\.onnx {what}"):
            es.pull(TARGET, output=tmp_path / "out" / "b", progress=False)
        assert files_in(tmp_path / "out") == {}
        assert not list((tmp_path / "out").iterdir())
        hub.spoil.clear()
        es.pull(TARGET, output=tmp_path / "out" / "b", progress=False)
        assert files_in(tmp_path / "out" / "b") == files_in(bundle)

    def test_sizes_and_digests_are_compared_before_anything_is_fetched(
        self, hub: Any, bundle: Path, tmp_path: Path
    ) -> None:
        es.push(bundle, target=TARGET, progress=False)

        def larger(told: dict[str, Any]) -> None:
            next(each for each in told["siblings"] if each["rfilename"] == "model.onnx")["size"] += 1

        def other(told: dict[str, Any]) -> None:
            each = next(each for each in told["siblings"] if each["rfilename"] == "model.onnx")
            each["lfs"] = {"sha256": "0" * 64, "size": each["size"], "pointerSize": 130}

        def gone(told: dict[str, Any]) -> None:
            told["siblings"] = [each for each in told["siblings"] if each["rfilename"] != "model.onnx"]

        for change, what in ((larger, "is another file than"), (other, "is another file than"), (gone, "is missing")):
            hub.told, before = change, len(hub.server.asked)
            with pytest.raises(RegistryError, match=rf"model\.onnx {what}"):
                es.pull(TARGET, output=tmp_path / "b", progress=False)
            fetched = [path.rpartition("/")[2] for _, path, _ in hub.server.asked[before:] if "/resolve/" in path]
            assert fetched == ["manifest.json"]

    def test_what_is_told_of_a_repository(self, hub: Any, tasks: Path, tmp_path: Path) -> None:
        es.push(tasks / "one.spa", target=TARGET, progress=False)

        def named(name: str, **more: Any) -> Any:
            def change(told: dict[str, Any]) -> None:
                told["siblings"] = [{"rfilename": name, "size": 10, "blobId": "0" * 40, **more}]

            return change

        large = {"lfs": {"sha256": "0" * 64, "size": 1 << 50, "pointerSize": 1}, "size": 1 << 50}
        wrong = {"lfs": {"sha256": "../../x", "size": 10, "pointerSize": 1}}
        many = [{"rfilename": f"{n}.txt", "size": 1, "blobId": "0" * 40} for n in range(100_001)]
        for change, what in (
            (named("../../../one.spa"), "neither a bundle nor a task file"),
            (named("/etc/one.spa"), "neither a bundle nor a task file"),
            (named("a\x1b[31m.spa"), "neither a bundle nor a task file"),
            (named("one.spa", **large), "no digest or size of one.spa|would have"),
            (named("one.spa", **wrong), "no digest or size of one.spa"),
            (named("one.spa", size=1 << 40), "would have"),
            (lambda told: told.update(siblings=many), "holds 100,001 files"),
            (lambda told: told.update(sha="../../../x"), "does not say which commit"),
            (lambda told: told.update(sha=None), "does not say which commit"),
        ):
            hub.told = change
            with pytest.raises(RegistryError, match=what) as caught:
                es.pull(TARGET, output=tmp_path / "t", progress=False)
            assert "\x1b" not in str(caught.value)
        assert not (tmp_path / "t").exists()
        assert [each.name for each in tmp_path.rglob("*.spa")] == []

    def test_headers_of_an_answer_name_no_path_here(self, hub: Any, bundle: Path, tmp_path: Path) -> None:
        es.push(bundle, target=TARGET, progress=False)

        def fault(asked: Any, name: str, content: bytes) -> bool:
            asked.say(200, content, ETag='"../../../../../stolen"', X_Repo_Commit="../../../../../stolen")
            return True

        hub.fault = fault
        (tmp_path / "deep").mkdir()
        es.pull(TARGET, output=tmp_path / "deep" / "b", progress=False)
        assert files_in(tmp_path / "deep" / "b") == files_in(bundle)
        assert [each.name for each in tmp_path.rglob("*stolen*")] == []

    def test_a_file_without_an_end(self, hub: Any, bundle: Path, tmp_path: Path) -> None:
        es.push(bundle, target=TARGET, progress=False)
        sent = []

        def fault(asked: Any, name: str, content: bytes) -> bool:
            if name != endless:
                return False
            asked.send_response(200)
            asked.send_header("Transfer-Encoding", "chunked")
            asked.end_headers()
            for _ in range(1000):
                asked.wfile.write(b"10000\r\n" + b" " * (1 << 16) + b"\r\n")
                sent.append(1 << 16)
            return True

        hub.fault = fault
        for endless in ("manifest.json", "model.onnx"):
            with pytest.raises(RegistryError, match=rf"{endless} has more than"):
                es.pull(TARGET, output=tmp_path / "out" / "b", progress=False)
        assert len(sent) < 1500
        assert not list((tmp_path / "out").iterdir())

    @pytest.mark.parametrize("ranges", [True, False])
    def test_one_that_breaks_off_goes_on(
        self, hub: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool
    ) -> None:
        monkeypatch.setattr("edgespa.registry.hub_transport._PIECE", 16)  # so that some were taken
        es.push(bundle, target=TARGET, progress=False)
        asked_with: list[str | None] = []

        def fault(asked: Any, name: str, content: bytes) -> bool:
            if name != "model.onnx":
                return False
            asked_with.append(asked.headers.get("Range"))
            if len(asked_with) == 1:
                asked.say(200, content[: len(content) // 2], Content_Length=str(len(content)))
                asked.close_connection = True
                asked.connection.shutdown(2)
                return True
            if not ranges:
                asked.say(200, content)
            return not ranges

        hub.fault = fault
        es.pull(TARGET, output=tmp_path / "b", progress=False)
        assert files_in(tmp_path / "b") == files_in(bundle)
        assert asked_with[0] is None
        assert len(asked_with) == 2
        assert (asked_with[1] or "").startswith("bytes=")

    def test_another_part_than_was_asked_for(
        self, hub: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgespa.registry.hub_transport._PIECE", 16)
        es.push(bundle, target=TARGET, progress=False)

        def fault(asked: Any, name: str, content: bytes) -> bool:
            if name != "model.onnx":
                return False
            if "Range" in asked.headers:
                asked.say(206, content, Content_Range=f"bytes 0-{len(content) - 1}/{len(content)}")
                return True
            asked.say(200, content[: len(content) // 2], Content_Length=str(len(content)))
            asked.close_connection = True
            asked.connection.shutdown(2)
            return True

        hub.fault = fault
        with pytest.raises(RegistryError, match="answers with another part than asked"):
            es.pull(TARGET, output=tmp_path / "b", progress=False)

    def test_one_that_always_breaks_off(self, hub: Any, bundle: Path, tmp_path: Path) -> None:
        es.push(bundle, target=TARGET, progress=False)

        def fault(asked: Any, name: str, content: bytes) -> bool:
            if name == "model.onnx":
                asked.close_connection = True
                asked.connection.shutdown(2)
            return name == "model.onnx"

        hub.fault = fault
        with pytest.raises(RegistryError, match="the hub cannot be reached, or broke off"):
            es.pull(TARGET, output=tmp_path / "out" / "b", progress=False)
        assert not list((tmp_path / "out").iterdir())

    def test_a_token_goes_to_nobody_else(
        self, hub: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of two places with TLS, as far as the client knows: what would be sent is looked at where it is sent."""
        es.push(bundle, target=TARGET, progress=False)
        content = (bundle / "model.onnx").read_bytes()
        session = huggingface_hub.get_session()
        seen: list[tuple[str, bool]] = []
        real = session.stream

        def stream(method: str, url: str, **options: Any) -> Any:
            seen.append((url, any(name.lower() == "authorization" for name in options["headers"])))
            assert options["follow_redirects"] is False
            assert options["timeout"]
            return real(method, url.replace("https://cdn.example", f"http://{other.host}"), **options)

        def fault(asked: Any, name: str, content: bytes) -> bool:
            if name == "model.onnx":
                asked.say(302, Location="https://cdn.example/model?signed=1")
            return name == "model.onnx"

        hub.fault = fault
        monkeypatch.setattr(session, "stream", stream)
        with servers.standing_in(lambda asked: asked.say(200, content)) as other:
            es.pull(TARGET, output=tmp_path / "b", progress=False)
            assert [headers.get("Authorization") for _, _, headers in other.asked] == [None]
        assert files_in(tmp_path / "b") == files_in(bundle)
        assert [known for url, known in seen if "cdn.example" in url] == [False]
        assert all(known for url, known in seen if "cdn.example" not in url)

    @pytest.mark.parametrize("place", ["http://localhost:1/x", "ftp://localhost/x", "file:///etc/passwd"])
    def test_it_does_not_go_to_a_place_without_tls(self, hub: Any, bundle: Path, tmp_path: Path, place: str) -> None:
        es.push(bundle, target=TARGET, progress=False)
        hub.fault = lambda asked, name, content: asked.say(302, Location=place) or True
        with pytest.raises(RegistryError, match="names a place without TLS"):
            es.pull(TARGET, output=tmp_path / "b", progress=False)

    @pytest.mark.parametrize(
        ("place", "what"), [("", "without an end"), ("http://[::1", "flowers: "), ("https:///x", "cannot be reached")]
    )
    def test_redirects_that_lead_nowhere(self, hub: Any, bundle: Path, tmp_path: Path, place: str, what: str) -> None:
        es.push(bundle, target=TARGET, progress=False)
        hub.fault = lambda asked, name, content: asked.say(302, Location=place or asked.path) or True
        with pytest.raises(RegistryError, match=what):
            es.pull(TARGET, output=tmp_path / "b", progress=False)

    def test_what_a_hub_complains_of_is_told_without_the_token(self, hub: Any, bundle: Path, tmp_path: Path) -> None:
        es.push(bundle, target=TARGET, progress=False)

        def fault(asked: Any, name: str, content: bytes) -> bool:
            said = f"you came with {asked.headers['Authorization']}\x1b[31m\nand the disk is full"
            asked.say(503, {"error": said})
            return True

        hub.fault = fault
        result = type_in("pull", TARGET, "-o", tmp_path / "b")
        assert result.exit_code == 1
        assert "HTTP 503" in result.stderr
        assert "the disk is full" in result.stderr
        assert hub.token not in result.output + result.stderr
        assert "\x1b" not in result.stderr


class TestWhatIsSaid:
    def test_nobody_is_logged_in(self, hub: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
        result = type_in("push", bundle, TARGET)
        assert result.exit_code == 1
        assert "nobody is logged in to the hub" in result.stderr
        assert "hf auth login" in result.stderr
        assert hub.made is None

    def test_a_token_that_may_not(self, hub: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_of_eve")
        result = type_in("push", bundle, TARGET)
        assert result.exit_code == 1
        assert "hf auth login" in result.stderr
        assert "hf_of_eve" not in result.output + result.stderr

    def test_a_repository_that_is_not_there(self, hub: Any, tmp_path: Path) -> None:
        result = type_in("pull", TARGET, "-o", tmp_path / "b")
        assert result.exit_code == 1
        assert "there is no such repository, or it is not yours to see" in result.stderr
        assert len(result.stderr.splitlines()) <= 4

    def test_nothing_listens_there(
        self, hub: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
        result = type_in("pull", TARGET, "-o", tmp_path / "b")
        assert result.exit_code == 1
        assert "the hub cannot be reached, or broke off" in result.stderr

    def test_a_repository_of_others(self, hub: Any, bundle: Path, tmp_path: Path) -> None:
        es.push(bundle, target=TARGET, progress=False)
        hub.branches["main"] = {"config.json": b"{}", "model.safetensors": b"x", "README.md": b"# x"}
        with pytest.raises(RegistryError, match="holds neither a bundle nor a task file"):
            es.pull(TARGET, output=tmp_path / "b", progress=False)

    @pytest.mark.parametrize(
        "name", ["ann", "ann/flowers/x", "../flowers", "ann/..", "ann/fl owers", "ann/a--b", "/a/b"]
    )
    def test_names(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ConfigError, match="is no place on a hub"):
            es.pull(f"hf://{name}", output=tmp_path / "b", progress=False)

    def test_what_cannot_be_named_in_a_card(self, bundle: Path) -> None:
        for options in ({"base_model": "resnet18"}, {"base_model": "a/b: c"}, {"datasets": ["a/b/c"]}):
            with pytest.raises(ConfigError, match="on the hub"):
                es.push(bundle, target=TARGET, progress=False, **options)  # type: ignore[arg-type]

    def test_a_client_that_is_not_installed(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        for call in (
            lambda: es.push(bundle, target=TARGET, progress=False),
            lambda: es.pull(TARGET, output=tmp_path / "b", progress=False),
        ):
            with pytest.raises(MissingExtraError) as caught:
                call()
            assert "[models]" in str(caught.value.hint)

    def test_a_client_that_is_too_old(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.__version__", "0.36.0")
        with pytest.raises(RegistryError, match=r"huggingface_hub 0\.36\.0 is too old"):
            es.pull(TARGET, output=tmp_path / "b", progress=False)
