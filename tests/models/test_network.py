"""What libraries would fetch: asked for once, and told at once where it cannot be had."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgespa.errors import ModelError
from edgespa.models.load import load_model
from edgespa.models.network import hub_as_it_is, require_fetchable, why_unreachable

CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def answering() -> Iterator[str]:
    """A host that knows nothing, and says so."""

    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Nothing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def silent() -> Iterator[str]:
    """A host that takes what it is asked and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_whoever_answers_is_reached(answering: str) -> None:
    assert why_unreachable(f"{answering}/weights.pth") is None


@pytest.mark.parametrize("url", [CLOSED, "http://no-such-host.invalid/", "nonsense:"])
def test_nobody_is_told_at_once(url: str) -> None:
    began = time.monotonic()
    assert why_unreachable(url)
    assert time.monotonic() - began < 6


def test_a_silent_host_is_waited_for_briefly(silent: str) -> None:
    began = time.monotonic()
    assert why_unreachable(silent, patience_s=0.3)
    assert time.monotonic() - began < 5


def test_what_is_here_need_not_be_had(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9 cannot be reached: Connection refused"):
        require_fetchable(f"{CLOSED}/a/weights.pth", tmp_path)
    (tmp_path / "weights.pth").touch()
    require_fetchable(f"{CLOSED}/a/weights.pth", tmp_path)


def test_the_hub_is_asked_once_and_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its own client asks five times, for half a minute."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="HUGGINGFACE_HUB ABSENT")
    pytest.importorskip("transformers", reason="TRANSFORMERS ABSENT: hf: models are not tested")
    monkeypatch.setattr(constants, "ENDPOINT", CLOSED)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(ModelError) as caught:
        load_model("hf:somebody/vit")
    assert time.monotonic() - began < 20
    assert caught.value.message.endswith("127.0.0.1:9 cannot be reached: Connection refused")
    assert f"it fetches {CLOSED}/somebody/vit" in str(caught.value.hint)
    assert "give the folder that save_pretrained wrote: hf:FOLDER" in str(caught.value.hint)
    assert constants.HF_HUB_OFFLINE is False


def test_the_hub_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, answering: str) -> None:
    constants = pytest.importorskip("huggingface_hub.constants", reason="HUGGINGFACE_HUB ABSENT")
    monkeypatch.setattr(constants, "ENDPOINT", answering)
    with hub_as_it_is() as reason:
        assert reason is None
        assert constants.HF_HUB_OFFLINE is False
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with hub_as_it_is() as reason:
        assert reason == "HF_HUB_OFFLINE is set"
    assert constants.HF_HUB_OFFLINE is True
