"""A hub or a registry that never answers, drips, or tells without an end: pushes and pulls end, and say how to go on.

Limits of time are made small only where nothing comes at all.
"""

from __future__ import annotations

import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import edgespa as es
from edgespa.cli import main
from edgespa.errors import RegistryError

servers: Any = sys.modules["registry_servers"]
_tiny: Any = sys.modules["tiny_bundles_of_registries"]
HUB = "hf://ann/flowers"
AGAIN = "type the same again: what a push has sent already is not sent twice"


def type_in(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in words])


def flat(text: str) -> str:
    return " ".join(text.split())


class Faulty:
    """A server that answers as another, but for what is asked at one point.

    Args:
        good: The other.
        where: Of a request's method and path: whether this is the point.
        bad: What is answered there; without it nothing, until `freed`.
    """

    def __init__(self, good: Any, where: str, bad: Callable[[Any], None] | None = None) -> None:
        self.good, self.where, self.bad = good, where, bad
        self.freed = threading.Event()
        self.met = 0

    def __call__(self, asked: Any) -> None:
        if self.where in f"{asked.command} {asked.path}":
            self.met += 1
            if self.bad is not None:
                return self.bad(asked)
            self.freed.wait(60)
            asked.close_connection = True
            return None
        self.good(asked)


class Shelf:
    """A registry as far as a push needs one: nothing is there, everything is taken."""

    def __call__(self, asked: Any) -> None:
        """Answer."""
        if asked.command == "POST":
            return asked.say(202, Location="/upload/x")
        asked.say(404 if asked.command in ("HEAD", "GET") else 201, {})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes a hub with a fault; the client is logged in."""
    pytest.importorskip("huggingface_hub", reason="THE HUB NOT TRIED: no huggingface_hub")
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session  # type: ignore[attr-defined]  # exported lazily

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("edgespa.registry.hub._WAIT_S", 0.0)
    open_ones = []

    def make(where: str, bad: Callable[[Any], None] | None = None) -> Faulty:
        made = Faulty(servers.Hub(), where, bad)
        context = servers.standing_in(made)
        server = context.__enter__()
        open_ones.append((context, made))
        monkeypatch.setenv("HF_TOKEN", made.good.token)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://{server.host}")
        template = f"http://{server.host}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        if bad is None:
            monkeypatch.setattr("edgespa.registry.hub_limits.SILENCE_S", 0.3)
        return made

    yield make
    close_session()
    for context, made in open_ones:
        made.freed.set()
        context.__exit__(None, None, None)


HUB_POINTS = ["GET /api/models/", "/repos/create", "/preupload/", "/lfs/objects/batch", "PUT /upload/", "/commit/"]


@pytest.mark.parametrize("where", HUB_POINTS)
def test_a_hub_that_never_answers_a_push(hub: Any, bundle: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = hub(where)
    result = type_in("push", bundle, HUB)
    assert result.exit_code == 1
    assert made.met == 1 or where == "PUT /upload/"  # of files several are sent at a time; nothing is asked again
    assert "127.0.0.1: the hub has not answered in 0.3 s" in flat(result.stderr)
    assert AGAIN in flat(result.stderr)
    made.freed.set()
    made.where = "nothing any more"
    monkeypatch.setattr("edgespa.registry.hub_limits.SILENCE_S", 120.0)
    again = type_in("push", bundle, HUB)
    assert again.exit_code == 0, again.output
    assert set(made.good.branches["main"]) > {each.name for each in bundle.iterdir()} - {"README.md"}


def test_a_hub_that_never_answers_a_pull(hub: Any, tmp_path: Path) -> None:
    hub("GET /api/models/")
    result = type_in("pull", HUB, "-o", tmp_path / "b")
    assert result.exit_code == 1
    assert "the hub has not answered in 0.3 s" in flat(result.stderr)


def test_the_manifest_of_the_version_before_is_not_guessed_at(hub: Any, tmp_path: Path) -> None:
    """Whoever could not read it would leave its files beside the new ones."""
    made = hub("nothing", lambda asked: None)
    for n in (1, 2):
        (tmp_path / f"{n}").mkdir()
        _tiny.write_bundle(tmp_path / f"{n}" / "b", onnx=_tiny.onnx_bytes(), extra={f"v{n}.txt": b"x"})
    es.push(tmp_path / "1" / "b", target=HUB, progress=False)

    def broken(asked: Any) -> None:
        asked.close_connection = True
        asked.connection.shutdown(2)

    made.where, made.bad = "/resolve/", broken
    with pytest.raises(RegistryError, match="the hub cannot be reached, or broke off"):
        es.push(tmp_path / "2" / "b", target=HUB, progress=False)
    made.where = "nothing"
    es.push(tmp_path / "2" / "b", target=HUB, progress=False)
    assert "v1.txt" not in made.good.branches["main"]


def test_the_library_is_left_as_it_was(hub: Any, bundle: Path) -> None:
    """In the program of somebody who uses it too."""
    from huggingface_hub import get_session

    session = get_session()
    before = dict(vars(session))
    hub("nothing", lambda asked: None)
    es.push(bundle, target=HUB, progress=False)
    assert get_session() is session
    assert vars(session).keys() == before.keys()
    real = session.send

    def own(*arguments: Any, **options: Any) -> Any:
        return real(*arguments, **options)

    vars(session)["send"] = own
    es.push(bundle, target=HUB, progress=False)
    assert vars(session).pop("send") is own


def test_limits_last_as_long_as_the_last_who_asked_for_them(hub: Any) -> None:
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import get_session

    from edgespa.registry.hub_limits import limited

    session, first, second = get_session(), limited(), limited()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert "send" in vars(session)
    second.__exit__(None, None, None)
    assert "send" not in vars(session)


def endless(asked: Any) -> None:
    """A list of files that does not end."""
    asked.send_response(200)
    asked.send_header("Transfer-Encoding", "chunked")
    asked.end_headers()
    row = b'{"rfilename": "some/name.txt", "size": 1, "blobId": "0000"},' * 1000
    head = b'{"id": "ann/flowers", "sha": "' + b"0" * 40 + b'", "siblings": ['
    for piece in (head, *[row] * 5000):
        asked.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        asked.server.sent = getattr(asked.server, "sent", 0) + len(piece)


def packed(asked: Any) -> None:
    """A small one that becomes a large one."""
    import gzip

    asked.say(200, gzip.compress(b" " * (64 << 20), 9), Content_Encoding="gzip")


def many(asked: Any) -> None:
    files = [{"rfilename": f"{n}"} for n in range(41_000)]
    asked.say(200, {"id": "ann/flowers", "sha": "0" * 40, "siblings": files})


def waiting(asked: Any) -> None:
    asked.say(429, {"error": "too many"}, Retry_After="1000000")


def limited_rate(asked: Any) -> None:
    asked.say(503, {"error": "too many"}, Retry_After="1" * 5000)


HOSTILE = [
    (endless, "answers with more than 16,777,216 bytes"),
    (packed, "packs its answer, and was asked not to"),
    (many, "holds 41,000 files, more than 40,960"),
    (waiting, "says to wait 1000000 s"),
    (limited_rate, "says to wait 1111"),
]


@pytest.mark.parametrize(("bad", "what"), HOSTILE)
@pytest.mark.parametrize("verb", ["push", "pull"])
def test_a_hub_that_tells_without_an_end(
    hub: Any, bundle: Path, tmp_path: Path, bad: Callable[[Any], None], what: str, verb: str
) -> None:
    made = hub("GET /api/models/", bad)
    words: list[str | Path] = ["push", bundle, HUB] if verb == "push" else ["pull", HUB, "-o", tmp_path / "b"]
    if bad in (endless, packed):
        tracemalloc.start()
    try:
        result = type_in(*words)
        peak = tracemalloc.get_traced_memory()[1] if tracemalloc.is_tracing() else 0
    finally:
        tracemalloc.stop()
    assert result.exit_code == 1
    assert what in flat(result.stderr), result.stderr
    assert peak < 160 << 20  # the server in this process has its own share
    assert made.met == 1


def test_a_hub_that_drips(hub: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, the answer never does."""
    monkeypatch.setattr("edgespa.registry.hub_limits._WHOLE_S", 0.0)
    made = hub("GET /api/models/", lambda asked: asked.say(200, b"{", Content_Length="100000"))
    result = type_in("push", bundle, HUB)
    made.freed.set()
    assert result.exit_code == 1
    assert "has not answered in 0 s" in flat(result.stderr)


REGISTRY_POINTS = ["HEAD ", "POST ", "PUT /upload/", "PUT /v2/a/manifests/"]


@pytest.mark.parametrize("where", REGISTRY_POINTS)
def test_a_registry_that_never_answers_a_push(bundle: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("oras")
    made = Faulty(Shelf(), where)
    monkeypatch.setattr("edgespa.registry.transport._READ_S", 0.3)
    with servers.standing_in(made) as server:
        result = type_in("push", bundle, f"oci://{server.host}/a:1")
        made.freed.set()
    assert result.exit_code == 1
    assert made.met == 1
    assert f"{server.host} does not answer in time" in flat(result.stderr)
    assert AGAIN in flat(result.stderr)


def test_a_registry_with_millions_of_tags(tmp_path: Path) -> None:
    pytest.importorskip("oras")

    def tags(asked: Any) -> None:
        if "/tags/list" in asked.path:
            asked.say(200, b'{"tags": [' + b'"v1",' * 900_000 + b'"v2"]}')
        else:
            asked.say(404, {})

    with servers.standing_in(tags) as server:
        result = type_in("pull", f"oci://{server.host}/a:1", "-o", tmp_path / "b")
    assert result.exit_code == 1
    assert "does not have the tag 1" in flat(result.stderr)
    assert "its tags: more than can be told" in flat(result.stderr)


def test_a_registry_that_drips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("oras")
    monkeypatch.setattr("edgespa.registry.transport._WHOLE_S", 0.0)
    with servers.standing_in(lambda asked: asked.say(200, b"{" * 64, Content_Length="100000")) as server:
        began = time.monotonic()
        result = type_in("pull", f"oci://{server.host}/a:1", "-o", tmp_path / "b")
    assert result.exit_code == 1
    assert "has not answered in 0 s" in flat(result.stderr)
    assert time.monotonic() - began < 50
