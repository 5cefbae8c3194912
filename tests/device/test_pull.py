"""Devices that pull, through a real web server on loopback: whatever it does, nothing bad ever runs."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgespa.bundle import Signer, open_bundle
from edgespa.device.agent import index as agent_index
from edgespa.device.agent import remembered, self_check, versions
from edgespa.device.agent.fetching import Patience, Source
from edgespa.device.agent.protocol import AgentError
from edgespa.device.agent.pull import pull
from edgespa.device.agent.remembered import PullConfig, PullState
from edgespa.device.agent.units import unit_texts
from edgespa.device.ours import pull_source, runner_text
from edgespa.device.shipment.depot import For, publish
from edgespa.device.shipment.ship import Shipment

BundleMaker = Callable[..., Path]
PATIENT = Patience(20.0, 1.0, 60.0)
HASTY = Patience(0.25, 20_000.0, 6.0)


def keygen(path: Path) -> str:
    """A key; the line of a file of signers for it."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return " ".join(Path(f"{path}.pub").read_text().split()[:2])


@dataclass
class Web:
    """A running server; see `web.py`."""

    folder: Path
    control: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def does(self, **rules: Any) -> None:
        """Each part of a path (``_`` is a slash) and what is done to it; nothing says that all is served well."""
        self.control.write_text(json.dumps({part.replace("_", "/"): rule for part, rule in rules.items()}))

    @property
    def asked(self) -> list[str]:
        log = Path(f"{self.control}.log")
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    folder, control = tmp_path / "depot", tmp_path / "control"
    folder.mkdir()
    command = [sys.executable, "-I", str(Path(__file__).with_name("web.py")), str(folder), str(control)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Web(folder, control, int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key ``ours``, another one, ``theirs``, and the file of signers."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "signers").write_text(f"ann@example.com {keygen(folder / 'ours')}\n")
    keygen(folder / "theirs")
    return folder


@pytest.fixture
def bundles(tmp_path: Path, make_bundle: BundleMaker) -> Callable[[int], Path]:
    """Bundles that differ; number 0 fails its self-check."""
    spec = importlib.util.spec_from_file_location("device_tiny", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)

    def made(number: int) -> Path:
        path = tmp_path / f"v{number}"
        if not path.exists():
            weight = tiny.WEIGHT.copy()
            weight[1, 17] += 0.0 if number else 0.5
            make_bundle(path, onnx=tiny.onnx_bytes(weight), bound={"relative_error": (number or 1) / 1e4})
        return path

    return made


@dataclass
class Fleet:
    """A folder that is served, and a device that pulls from it."""

    web: Web
    keys: Path
    root: Path
    bundles: Callable[[int], Path]

    def ship(self, number: int, *, key: str | None = "ours", task: str = "shapes", **options: Any) -> Any:
        """Write a version into the folder."""
        signer = None if key is None else Signer.open(self.keys / key, agent_index.INDEX_NAMESPACE)
        with open_bundle(self.bundles(number)) as opened:
            return publish(self.web.folder, [Shipment.of(opened, task=task)], signer, **options)

    def config(self, **changes: Any) -> PullConfig:
        signers = (self.keys / "signers").read_text()
        values = {"url": self.web.url, "signers": signers, "name": "one", "groups": (), "kinds": (), "keep": 3}
        return PullConfig(**{**values, "threads": 1, "python": sys.executable, **changes})

    def pull(self, patience: Patience = PATIENT, *, again: bool = False, **changes: Any) -> dict[str, Any]:
        report = pull(self.root, self.config(**changes), patience, again)
        json.dumps(report)
        return report

    def pulled(self, **options: Any) -> dict[str, Any]:
        """The row of the only task."""
        report = self.pull(**options)
        assert report["error"] is None, report
        (row,) = report["tasks"]
        return dict(row)

    def in_use(self, task: str = "shapes") -> str | None:
        link = self.root / "tasks" / task / "current"
        return os.readlink(link) if link.is_symlink() else None

    def whole(self, task: str = "shapes") -> bool:
        """Whether what is in use has all its files, as they should be, and has passed its self-check."""
        current = self.in_use(task)
        assert current is not None
        folder = self.root / "tasks" / task
        return versions.problems(folder / current) == [] and versions.is_finished(folder, current)

    def served(self, name: str) -> Path:
        """A content of the index, by the name of the file in bundle 2."""
        return self.web.folder / agent_index.file_name(versions.sha256_of(self.bundles(2) / name))


@pytest.fixture
def fleet(
    web: Web, keys: Path, tmp_path: Path, bundles: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> Fleet:
    monkeypatch.setattr(self_check, "RUNNER", runner_text())
    monkeypatch.setattr("edgespa.device.agent.fetching.TRIES", 2)
    return Fleet(web, keys, tmp_path / "far", bundles)


@pytest.fixture
def one(fleet: Fleet) -> Fleet:
    """With version 1 in use, and version 2 shipped."""
    fleet.ship(1)
    assert fleet.pulled()["outcome"] == "switched"
    fleet.ship(2)
    return fleet


def refused(fleet: Fleet, kind: str, words: str = "", **options: Any) -> dict[str, Any]:
    """Pull; it fails so, and what was in use still is, whole, and nothing else is."""
    before = fleet.in_use()
    report = fleet.pull(**options)
    error = report["error"] or report["tasks"][0]["error"]
    assert error is not None, report
    assert (error["kind"], words in error["message"]) == (kind, True), error
    assert fleet.in_use() == before
    assert before is None or fleet.whole()
    there = versions.versions_of(fleet.root / "tasks/shapes")
    assert there == ([] if before is None else [before])
    return report


def test_the_whole_way_as_a_device_types_it(fleet: Fleet, tmp_path: Path) -> None:
    agent, home = tmp_path / "edgespa-agent", fleet.root
    agent.write_bytes(pull_source())

    def typed(*words: str | Path, status: int = 0) -> str:
        command = [sys.executable, "-W", "error", str(agent), *map(str, words), "--folder", str(home)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "set it up first" in typed("pull", status=1)
    fleet.ship(1)
    said = typed("setup", fleet.web.url, "--signers", fleet.keys / "signers", "--group", "kitchen")
    assert said.splitlines() == [f"{home}/pull/config.json", f"{home}/bin/edgespa-agent"]
    assert (home / "pull/config.json").stat().st_mode & 0o077 == 0
    agent = home / "bin/edgespa-agent"
    assert os.access(agent, os.X_OK)
    report = json.loads(typed("pull", "--json"))
    assert report["signed_by"] == "ann@example.com"
    (row,) = report["tasks"]
    assert (row["outcome"], row["previous"], row["version"]) == ("switched", None, fleet.in_use())
    assert row["checks"] == [{"name": "onnx-fp32", "status": "passed"}]
    assert fleet.whole()
    fleet.ship(2)
    first = fleet.in_use()
    said = typed("pull")
    assert f"switched: in use: {fleet.in_use()}, before: {first}" in said
    assert (fleet.in_use() or "")[:4] == "0002"
    assert json.loads(typed("report"))["tasks"][0]["previous"] == first
    assert "unchanged: in use: 0002-" in typed("pull")
    record = versions.record_of(home / "tasks/shapes", fleet.in_use() or "")[0] or {}
    assert (record["signed_by"], record["pulled"]["number"]) == ("ann@example.com", 2)
    # Files that both have came once, and no file came twice.
    paths = [line.split()[0] for line in fleet.web.asked if "/files/" in line]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("minor", [pytest.param(8), pytest.param(12, marks=pytest.mark.more)])
def test_in_other_pythons(fleet: Fleet, tmp_path: Path, minor: int) -> None:
    """All but the self-check, which is of the Python with the runtimes."""
    found = sorted(Path("~/.pyenv/versions").expanduser().glob(f"3.{minor}.*/bin/python3.{minor}"))
    if not found:
        pytest.skip(f"PYTHON 3.{minor} WAS NOT TRIED: not installed")
    agent = tmp_path / "edgespa-agent"
    agent.write_bytes(pull_source())
    fleet.ship(1)
    common = ["--folder", str(fleet.root)]
    base = [str(found[-1]), "-W", "error", str(agent)]
    setup = ["setup", fleet.web.url, "--signers", str(fleet.keys / "signers"), "--python", sys.executable]
    subprocess.run([*base, *setup, *common], check=True, capture_output=True, timeout=60)
    done = subprocess.run([*base, "pull", "--json", *common], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert fleet.whole()


def test_cut_connections_are_gone_on_with(one: Fleet) -> None:
    one.web.does(files={"cut": 50_000})  # run.py has more than that
    assert one.pulled()["outcome"] == "switched"
    assert one.whole()
    one.web.does(files={"cut": 10_000})
    other = Fleet(one.web, one.keys, one.root.with_name("other"), one.bundles)
    began = len(one.web.asked)
    assert other.pulled()["outcome"] == "switched"
    ranges = [line.split()[1] for line in one.web.asked[began:] if "bytes=" in line]
    assert "bytes=10000-" in ranges
    assert "bytes=50000-" in ranges


def test_a_pull_that_ends_in_the_middle_goes_on(one: Fleet) -> None:
    name = one.served("manifest.json").name
    one.web.does(files={"cut": 0})
    refused(one, "unreachable", "cut")
    one.web.does(**{name: {"until": 100}})
    refused(one, "unreachable", "cut after 100 of")
    part = one.root / "cache" / f"{name}.part"
    size = part.stat().st_size
    assert size == 100
    one.web.does()
    assert one.pulled()["outcome"] == "switched"
    assert any(f"/files/{name[:2]}/{name} bytes={size}-" in each for each in one.web.asked)
    # What lay there was not the beginning of the file: it is fetched anew.
    one.ship(3)
    name = one.web.folder / agent_index.file_name(versions.sha256_of(one.bundles(3) / "manifest.json"))  # type: ignore[assignment]
    wrong = one.root / "cache" / f"{Path(name).name}.part"
    for content in (b"x" * 500, b"x" * 1_000_000):
        wrong.write_bytes(content)
    assert one.pulled()["outcome"] == "switched"
    assert one.whole()


def test_a_server_without_ranges_or_with_wrong_ones(one: Fleet) -> None:
    name = one.served("manifest.json").name
    part = one.root / "cache" / f"{name}.part"
    part.write_bytes(one.served("manifest.json").read_bytes()[:100])
    one.web.does(files={"part": 7})
    refused(one, "odd", "another part comes than was asked for")
    one.web.does(files={"whole": True})
    assert one.pulled()["outcome"] == "switched"
    assert one.whole()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda outer: outer.update(signed=outer["signed"].replace('"number": 1', '"number": 9')), "signature"),
        (lambda outer: outer.update(signed=outer["signed"] + " "), "signature"),
        (lambda outer: outer.update(signature=None), "signature"),
        (lambda outer: outer.update(signature="nonsense"), "signature"),
        (lambda outer: outer.update(format="something else"), "odd"),
        (lambda outer: outer.pop("signed"), "odd"),
        (lambda outer: outer.update(signed=["a list"]), "odd"),
    ],
)
def test_a_tampered_index(one: Fleet, change: Callable[[dict[str, Any]], Any], kind: str) -> None:
    path = one.web.folder / "index.json"
    outer = json.loads(path.read_text())
    change(outer)
    path.write_text(json.dumps(outer))
    refused(one, kind)
    for content in (b"", b"[", b"[1]", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(content)
        refused(one, "odd", "is no index")


@pytest.mark.parametrize("who", ["theirs", "a bundle's", "nobody"])
def test_an_index_of_somebody_else(one: Fleet, who: str, tmp_path: Path) -> None:
    (one.web.folder / "index.json").unlink()
    signer = None
    if who != "nobody":  # our own key's signature of a bundle or a commit is none of an index
        key = one.keys / ("theirs" if who == "theirs" else "ours")
        signer = Signer.open(key) if who == "a bundle's" else Signer.open(key, agent_index.INDEX_NAMESPACE)
    with open_bundle(one.bundles(2)) as opened:
        publish(one.web.folder, [Shipment.of(opened, task="shapes")], signer)
    refused(one, "signature")
    # A device that was set up so takes what nobody has signed, and only that one.
    if who == "nobody":
        # The folder was begun anew, and counts from 1 again: that it is to be taken nevertheless, it has to say.
        outer = json.loads((one.web.folder / "index.json").read_text())
        newer = json.loads(outer["signed"])
        newer["serial"] += 1
        (one.web.folder / "index.json").write_text(json.dumps({**outer, "signed": json.dumps(newer)}))
        assert one.pulled(signers=None)["error"]["kind"] == "older"
        one.ship(2, key=None, whom=For(downgrade=True))
        assert one.pulled(signers=None)["outcome"] == "switched"


def test_without_ssh_keygen_nothing_is_taken(one: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(one, "unable", "there is no ssh-keygen")
    old = tmp_path / "ssh-keygen"
    old.write_text("#!/bin/sh\necho 'unknown option -- Y' >&2\nexit 1\n")
    old.chmod(0o755)
    refused(one, "unable", "too old")


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "labels.txt", "run.py"])
def test_a_tampered_file(fleet: Fleet, name: str) -> None:
    fleet.ship(1)
    fleet.pulled()
    fleet.ship(2, task="other")
    for change in (lambda text: text[:-1] + bytes([text[-1] ^ 1]), lambda text: text[:-1], lambda text: text + b"x"):
        path = fleet.served(name)
        content = path.read_bytes()
        path.write_bytes(change(content))
        other = Fleet(fleet.web, fleet.keys, fleet.root.with_name("other"), fleet.bundles)
        report = other.pull()
        path.write_bytes(content)
        assert all(row["outcome"] == "failed" for row in report["tasks"] if row["task"] == "other"), report
        assert (other.in_use("other"), versions.versions_of(other.root / "tasks/other")) == (None, [])
        assert not (other.root / "cache" / path.name).exists()


def test_an_old_index_that_is_played_again(one: Fleet) -> None:
    path = one.web.folder / "index.json"
    newest = path.read_bytes()
    one.ship(3)
    assert one.pulled()["number"] == 3
    path.write_bytes(newest)
    report = one.pull()
    assert report["error"]["kind"] == "older"
    assert "it is an old one" in report["error"]["message"]
    assert (one.in_use() or "")[:4] == "0002"  # versions here: 1 and 3
    # Also where the state was lost or put back: the versions that are there tell it.
    state = one.root / "pull/state.json"
    for content in (None, "nonsense", '{"serial": -5}'):
        state.unlink(missing_ok=True)
        if content is not None:
            state.write_text(content)
        assert one.pull()["error"]["kind"] == "older"
    assert one.whole()


def test_what_was_only_seen_counts_already(one: Fleet) -> None:
    """An index whose files could not be had: from then on nothing older counts."""
    path = one.web.folder / "index.json"
    older = path.read_bytes()
    one.ship(3)
    one.web.does(files={"status": 404})
    refused(one, "missing", "HTTP status 404")
    path.write_bytes(older)
    one.web.does()
    refused(one, "older")


def test_two_indexes_of_one_serial(one: Fleet) -> None:
    assert one.pulled()["number"] == 2
    outer = json.loads((one.web.folder / "index.json").read_text())
    inner = json.loads(outer["signed"])
    inner["releases"] = []
    text = json.dumps(inner)
    signature = Signer.open(one.keys / "ours", agent_index.INDEX_NAMESPACE)(text.encode()).decode()
    (one.web.folder / "index.json").write_text(json.dumps({**outer, "signed": text, "signature": signature}))
    report = one.pull()
    assert report["error"]["kind"] == "older"
    assert "two indexes" in report["error"]["message"]


def test_going_back_is_said_and_signed(one: Fleet) -> None:
    from edgespa.errors import ConfigError

    first = one.in_use()
    assert one.pulled()["number"] == 2
    with pytest.raises(ConfigError, match="release 2 is newer"):
        one.ship(1)
    one.ship(1, whom=For(downgrade=True))
    row = one.pulled()
    assert (row["number"], row["version"], row["outcome"]) == (1, first, "switched")
    assert one.pulled()["outcome"] == "unchanged"
    one.ship(3)
    assert one.pulled()["number"] == 3
    # A release with a lower number that does not say so is none, however new the index is.
    outer = json.loads((one.web.folder / "index.json").read_text())
    inner = json.loads(outer["signed"])
    inner["serial"] += 1
    inner["releases"][0].update(number=1, downgrade=False)
    text = json.dumps(inner)
    signature = Signer.open(one.keys / "ours", agent_index.INDEX_NAMESPACE)(text.encode()).decode()
    (one.web.folder / "index.json").write_text(json.dumps({**outer, "signed": text, "signature": signature}))
    report = one.pull()
    assert report["tasks"][0]["error"]["kind"] == "older"
    assert one.whole()


def test_what_fails_its_self_check_is_not_used_and_not_tried_for_ever(one: Fleet) -> None:
    one.ship(0)
    for _ in range(5):
        report = refused(one, "self-check", "fails its self-check here")
    assert report["tasks"][0]["outcome"] == "failed"
    began = time.monotonic()
    refused(one, "given-up", "has failed here 5 times")
    assert time.monotonic() - began < 1
    refused(one, "self-check", again=True)
    one.ship(3)
    assert one.pulled()["outcome"] == "switched"


def test_what_was_gone_back_from_stays_so(one: Fleet) -> None:
    first = one.in_use()
    assert one.pulled()["outcome"] == "switched"
    from io import BytesIO

    from edgespa.device.agent.tasks import switch

    switch(one.root, {"task": "shapes", "version": first, "record": None}, BytesIO())
    row = one.pulled()
    assert (row["outcome"], one.in_use()) == ("left", first)
    assert "gone back from" in row["notes"][0]
    assert one.pulled(again=True)["outcome"] == "switched"


def test_damage_on_the_device_is_repaired(one: Fleet) -> None:
    assert one.pulled()["outcome"] == "switched"
    model = one.root / "tasks/shapes/current/model.onnx"
    for path in [*(one.root / "cache").glob("*"), *(one.root / "tasks/shapes").glob("*/model.onnx")]:
        if path.stat().st_size == model.stat().st_size and path.suffix in ("", ".onnx", ".copy"):
            path.chmod(0o644)
            path.write_bytes(bytes(path.stat().st_size))
    assert not one.whole()
    assert one.pulled()["outcome"] == "repaired"
    assert one.whole()


def test_who_gets_what(fleet: Fleet) -> None:
    fleet.ship(1, task="all")
    fleet.ship(1, task="cooks", whom=For(groups=("kitchen", "cellar")))
    fleet.ship(1, task="pies", whom=For(groups=("kitchen",), kinds=("pi-5",)))
    fleet.ship(2, task="all", whom=For(groups=("canary",)))
    outer = json.loads((fleet.web.folder / "index.json").read_text())
    index = agent_index.read_index(json.dumps(outer).encode(), None, "it")

    def gets(groups: tuple[str, ...], kinds: tuple[str, ...] = ()) -> list[tuple[str, int]]:
        return [(each.task, each.number) for each in agent_index.releases_for(index, groups, kinds)]

    assert gets(()) == [("all", 1)]
    assert gets(("kitchen",)) == [("all", 1), ("cooks", 1)]
    assert gets(("kitchen",), ("pi-5",)) == [("all", 1), ("cooks", 1), ("pies", 1)]
    assert gets(("canary",)) == [("all", 2)]
    fleet.ship(3, task="all")  # of several that are for a device, the one shipped last
    index = agent_index.read_index((fleet.web.folder / "index.json").read_bytes(), None, "it")
    assert gets(("canary",)) == [("all", 3)]
    report = fleet.pull(groups=("kitchen",))
    assert [(row["task"], row["outcome"]) for row in report["tasks"]] == [("all", "switched"), ("cooks", "switched")]


def test_one_task_that_fails_stops_no_other(fleet: Fleet) -> None:
    fleet.ship(0, task="bad")
    fleet.ship(1, task="good")
    report = fleet.pull()
    assert [row["outcome"] for row in report["tasks"]] == ["failed", "switched"]
    assert fleet.whole("good")
    assert fleet.in_use("bad") is None


SLOW = [
    ({"silent": True}, "unreachable"),
    ({"header": 0.02}, "slow"),
    ({"drip": 0.02}, "slow"),
    ({"endless": True}, "odd"),
    ({"claim": 1 << 40}, "odd"),
]


@pytest.mark.parametrize("where", ["index.json", "files"])
@pytest.mark.parametrize(("rule", "kind"), SLOW)
def test_servers_without_an_end(one: Fleet, rule: dict[str, Any], kind: str, where: str) -> None:
    one.web.does(**{where: rule})
    began = time.monotonic()
    refused(one, kind, patience=HASTY)
    assert time.monotonic() - began < 20
    sizes = [path.stat().st_size for path in one.root.rglob("*") if path.is_file()]
    assert max(sizes) < 1_000_000
    one.web.does()
    assert one.pulled()["outcome"] == "switched"


@pytest.mark.parametrize(
    ("to", "kind"),
    [
        ("file:///etc/passwd", "redirect"),
        ("ftp://127.0.0.1/x", "redirect"),
        ("data:,x", "redirect"),
        ("", "redirect"),
        ("/index.json\x00", "redirect"),
        ("{url}/index.json", "redirect"),  # round and round
        ("https://127.0.0.1:{port}/index.json", "unreachable"),  # nobody speaks TLS there
    ],
)
def test_redirects_lead_to_http_alone(one: Fleet, to: str, kind: str) -> None:
    one.web.does(**{"index.json": {"move": to.format(url=one.web.url, port=one.web.port)}})
    refused(one, kind)


def test_a_redirect_is_followed_and_its_body_not_read(one: Fleet) -> None:
    path = one.web.folder / "index.json"
    (one.web.folder / "there").write_bytes(path.read_bytes())
    one.web.does(**{"index.json": {"move": "/there"}})
    assert one.pulled()["outcome"] == "switched"


def test_a_password_goes_to_its_own_host_alone(one: Fleet) -> None:
    url = one.web.url.replace("http://", "http://me:se%3Acret@")
    one.web.does(**{"index.json": {"move": one.web.url.replace("127.0.0.1", "localhost") + "/there"}})
    (one.web.folder / "there").write_bytes((one.web.folder / "index.json").read_bytes())
    began = len(one.web.asked)
    report = one.pull(url=url)
    assert report["tasks"][0]["outcome"] == "switched"
    assert "se" not in json.dumps(report).replace("seconds", "").replace("serial", "").replace("self", "") or (
        "se%3Acret" not in json.dumps(report) and "se:cret" not in json.dumps(report)
    )
    asked = {line.split()[0]: line.split()[-1] for line in one.web.asked[began:]}
    assert asked["/there"] == "-"
    assert asked["/index.json"].startswith("bWU6c2U6Y3JldA")
    assert "bWU6" in next(value for name, value in asked.items() if "/files/" in name)


@pytest.mark.parametrize("url", ["file:///etc", "ftp://h/x", "/a/path", "http://", "http://h/?x=1", "http://h/a b"])
def test_what_is_no_url_of_a_folder(url: str) -> None:
    with pytest.raises(AgentError, match="URL") as caught:
        Source(url, PATIENT)
    assert caught.value.kind == "url"


@pytest.mark.parametrize("rule", [{"status": 404}, {"status": 403}, {"status": 500}, {"coding": "gzip"}])
def test_other_answers(one: Fleet, rule: dict[str, Any]) -> None:
    kind = {404: "missing", 403: "forbidden", 500: "unreachable"}.get(rule.get("status", 0), "odd")
    one.web.does(index={**rule})
    refused(one, kind)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        refused(one, "unreachable", url=f"http://127.0.0.1:{free.getsockname()[1]}")


def mounted(*command: str) -> None:
    done = subprocess.run(["mount", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NO FULL DISK TRIED: mounting needs root: {done.stderr.strip()}")


@pytest.fixture
def small(one: Fleet) -> Iterator[Fleet]:
    """The device on a real small disk, with version 1 in use."""
    folder = one.root.with_name("disk")
    folder.mkdir()
    mounted("-t", "tmpfs", "-o", "size=24m,mode=755", "tmpfs", str(folder))
    try:
        subprocess.run(["cp", "-a", str(one.root), str(folder / "far")], check=True)
        one.root = folder / "far"
        yield one
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int = 0) -> None:
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 12))
    with (disk / "filler").open("r+b") as file:
        file.truncate((disk / "filler").stat().st_size - leave)


@pytest.mark.parametrize("leave", [0, 1 << 14])
def test_a_full_disk_leaves_the_old_version_running(small: Fleet, leave: int) -> None:
    fill(small.root.parent, leave)
    refused(small, "full")
    (small.root.parent / "filler").unlink()
    assert small.pulled()["outcome"] == "switched"
    assert small.whole()


def test_a_disk_that_fills_up_meanwhile(small: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgespa.device.agent.pull.require_space", lambda folder, needed: None)
    real = Source.file

    def full(self: Source, root: Path, name: str, entry: dict[str, Any]) -> None:
        fill(small.root.parent)
        real(self, root, name, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Source, "file", full)
        refused(small, "full")
    assert not [path for path in (small.root / "cache").glob("*.part") if path.stat().st_size]
    (small.root.parent / "filler").unlink()
    assert small.pulled()["outcome"] == "switched"


def test_only_one_at_a_time(one: Fleet) -> None:
    locks = one.root / "locks"
    with (locks / "pull.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        report = one.pull()
        assert (report["error"]["kind"], one.web.asked[-1].split()[0]) == ("busy", one.web.asked[-1].split()[0])
    kept = versions.read_report(one.root)
    assert kept is not None
    assert kept["error"] is None  # the report of the one that is at it is not touched
    with (locks / "ship.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused(one, "busy", "another edgespa works here")
    assert one.pulled()["outcome"] == "switched"


@pytest.mark.slow
def test_killed_at_any_moment(one: Fleet, tmp_path: Path) -> None:
    agent = tmp_path / "edgespa-agent"
    agent.write_bytes(pull_source())
    remembered.write_config(one.root, one.config())
    command = [sys.executable, str(agent), "pull", "--folder", str(one.root)]
    first = one.in_use()
    for moment in (0.1, 0.3, 0.5, 0.7):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert one.whole()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert one.in_use() != first
    assert one.whole()
    left = [path.name for path in one.root.rglob("*") if path.name.endswith((".new", ".tmp", ".part"))]
    assert left == []


def test_a_wrong_clock_does_no_harm(one: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is newer is said by numbers; the clock is for people."""
    for stamp in ("1970-01-01T00:00:05+00:00", "2106-02-07T06:28:15+00:00"):
        monkeypatch.setattr("edgespa.device.agent.pull._now", lambda stamp=stamp: stamp)
        assert one.pulled()["outcome"] in ("switched", "unchanged")
    monkeypatch.setattr("edgespa.device.shipment.depot.datetime", _Early)
    before = json.loads(json.loads((one.web.folder / "index.json").read_text())["signed"])["serial"]
    assert one.ship(3).serial == before + 1
    assert one.pulled()["number"] == 3


class _Early:
    """A clock that was never set."""

    @staticmethod
    def now(zone: Any) -> Any:
        from datetime import datetime

        return datetime(1970, 1, 2, tzinfo=zone)


def test_a_state_is_whole_or_as_it_was(one: Fleet) -> None:
    state = PullState(one.root)
    state.tasks["shapes"] = {"number": 7}
    state.tasks["odd"] = {"number": object()}  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        state.save()
    assert PullState(one.root).tasks["shapes"]["number"] == 1
    assert [path.name for path in (one.root / "pull").glob(".*")] == []


def test_configurations_are_read_strictly(one: Fleet) -> None:
    good = {**one.config()._asdict()}
    good.update(groups=[], kinds=[])
    assert remembered.parse_config(dict(good), "it").url == one.web.url
    for change in ({"keep": 0}, {"url": 1}, {"groups": "kitchen"}, {"more": 1}, {"groups": [1]}, {"threads": "1"}):
        with pytest.raises(AgentError, match="set it up again"):
            remembered.parse_config({**good, **change}, "it")


def test_units_are_what_systemd_takes(tmp_path: Path) -> None:
    texts = unit_texts("/usr/bin/python3", tmp_path / "a folder $HOME 50%" / "edgespa-agent", tmp_path, "6h")
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert 'a folder $$HOME 50%%/edgespa-agent"' in texts["edgespa-pull.service"]
    assert "RandomizedDelaySec=2160s" in texts["edgespa-pull.timer"]
    assert "OnCalendar" not in texts["edgespa-pull.timer"]  # a clock that is set does not matter
    for every in ("hourly", "0h", "1h; rm", "-1h"):
        with pytest.raises(AgentError):
            unit_texts("python3", tmp_path, tmp_path, every)
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in texts)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        pytest.skip("SYSTEMD UNITS NOT VERIFIED: there is no systemd-analyze")
    assert "Unknown" not in done.stderr
    assert "edgespa-pull.timer:" not in done.stderr, done.stderr
