"""`edgespa ship`, `rollback`, `status` as a user types them; this machine is the device, in a folder of its own."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgespa.bundle import pack
from edgespa.cli import rollback, ship, status
from edgespa.errors import BundleError, ConfigError, DeviceError, EdgespaError, TaskFileError
from edgespa.pruning import PruneConfig, prune
from edgespa.tasks.base import Base

_spec = importlib.util.spec_from_file_location("tiny_ship", Path(__file__).parents[1] / "device" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)
bundle, bad_bundle = _tiny.bundle, _tiny.bad_bundle


def invoke(module: Any, *arguments: str | Path) -> Result:
    return CliRunner().invoke(module.command, [str(each) for each in arguments])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this machine, as the device ``local``, keeps things; and a device that is away."""
    devices = tmp_path / "config" / "edgespa" / "devices"
    devices.mkdir(parents=True)
    (devices / "local.toml").write_text(f'extends = "local"\n[connection]\nfolder = "{tmp_path / "far"}"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "far"


@pytest.fixture
def away(tmp_path: Path) -> Path:
    path = tmp_path / "away.toml"
    path.write_text('title = "away"\n[connection]\nhost = "127.0.0.1"\nport = 1\nssh_config = "/dev/null"\n')
    return path


def test_the_whole_way(bundle: Path, home: Path, tmp_path: Path) -> None:
    result = invoke(ship, bundle, "--device", "local")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert lines[0].split()[:3] == ["device", "task", "version"]
    assert lines[2].split()[:2] == ["local", "shapes"]
    assert lines[2].endswith("1 of 1")
    assert "shapes: accuracy 75.00% on 4 samples of toy:test" in lines
    assert lines[-1] == f"in use: {home}/tasks/shapes/current"
    assert (home / "tasks/shapes/current/run.py").is_file()
    result = invoke(status)
    assert result.exit_code == 0
    assert "* 0001-" in result.stdout
    assert " ok" in result.stdout
    assert max(map(len, result.stdout.splitlines()[:-1])) <= 80
    pack(bundle, tmp_path / "same.tar")
    again = json.loads(invoke(ship, tmp_path / "same.tar", "--device", "local", "--json").stdout)
    assert again[0]["error"] is None
    assert again[0]["shipped"][0]["bytes_sent"] == 0
    assert again[0]["shipped"][0]["version"] == again[0]["shipped"][0]["previous"]


def test_no_code_of_a_bundle_runs_on_a_device(home: Path, tmp_path: Path) -> None:
    """Its run.py, and modules beside it, in `ship`, `status --selfcheck` and `rollback`; it is sent nevertheless."""
    marker = tmp_path / "was-run"
    harm = f"open({str(marker)!r}, 'w')\n"
    extra = {f"{name}.py": harm.encode() for name in ("numpy", "json", "argparse", "onnxruntime", "zlib", "base64")}
    one, two = (
        _tiny.write_bundle(tmp_path / name, onnx=_tiny.onnx_bytes(), runner=harm, extra={**extra, name: b""})
        for name in ("one", "two")
    )
    for foreign in (one, two):
        result = invoke(ship, foreign, "--device", "local")
        assert result.exit_code == 0, result.output
    assert (home / "tasks/shapes/current/run.py").read_text() == harm
    assert invoke(status, "--selfcheck").exit_code == 0
    assert invoke(rollback, "shapes", "--device", "local").exit_code == 0
    assert not marker.exists()
    result = invoke(ship, two, "--device", "local", "--trust")
    assert marker.exists()
    assert result.exit_code == 1  # it is code of its maker, and gives no answer


def test_rolling_back(bundle: Path, full_other: Path, home: Path) -> None:
    first = json.loads(invoke(ship, bundle, "--device", "local", "--json").stdout)[0]["shipped"][0]["version"]
    second = json.loads(invoke(ship, full_other, "--device", "local", "--json").stdout)[0]["shipped"][0]["version"]
    result = invoke(rollback, "shapes", "--device", "local")
    assert result.stdout == f"local: shapes: {first} is in use, before: {second}\n"
    result = invoke(rollback, "shapes", "--device", "local", "--to", "2", "--json")
    assert json.loads(result.stdout)[0]["switched"]["version"] == second
    result = invoke(rollback, "birds", "--device", "local")
    assert result.exit_code == 1
    assert "FAILED: local has no task 'birds'" in result.stderr


@pytest.fixture
def full_other(tmp_path: Path) -> Path:
    """Another version: labels and model are the same, a bound is not."""
    made: Path = _tiny.write_bundle(tmp_path / "other", onnx=_tiny.onnx_bytes(), bound={"relative_error": 2e-4})
    return made


def test_a_failing_device_does_not_stop_the_other(bundle: Path, home: Path, away: Path) -> None:
    result = invoke(ship, bundle, "--device", away, "--device", "local")
    assert result.exit_code == 1
    assert "FAILED: away" in result.stderr
    assert "Hint: " in result.stderr
    assert (home / "tasks/shapes/current").is_symlink()
    values = json.loads(invoke(ship, bundle, "--device", away, "--device", "local", "--json").stdout)
    assert [each["device"] for each in values] == ["away", "local"]
    assert values[0]["error"]["message"]
    assert values[1]["shipped"][0]["checks"][0]["status"] == "passed"
    result = invoke(status, "--device", away, "--device", "local")
    assert result.exit_code == 1
    assert "shapes" in result.stdout


def test_status_tells_what_is_not_healthy(bundle: Path, home: Path) -> None:
    invoke(ship, bundle, "--device", "local")
    labels = home / "tasks/shapes/current/labels.txt"
    labels.chmod(0o644)
    labels.write_text("other\n")
    result = invoke(status, "--device", "local")
    assert result.exit_code == 1
    assert "NOT HEALTHY: local: shapes: labels.txt has changed" in result.stderr
    values = json.loads(invoke(status, "--device", "local", "--json").stdout)
    assert values[0]["status"]["tasks"][0]["health"] == "labels.txt has changed: 6 of 18 bytes"


def test_what_fails_there_is_not_used(bad_bundle: Path, home: Path) -> None:
    result = invoke(ship, bad_bundle, "--device", "local")
    assert result.exit_code == 1
    assert "fails its self-check there, and is not used" in result.stderr
    assert not (home / "tasks/shapes/current").exists()


def test_two_sources_the_first_stays_when_the_second_fails(bundle: Path, bad_bundle: Path, home: Path) -> None:
    result = invoke(ship, bundle, bad_bundle, "--device", "local")
    assert result.exit_code == 1  # both are the task 'shapes', as is seen when they are open
    assert isinstance(result.exception, ConfigError)
    assert "ship them one by one, with --task" in str(result.exception.hint)
    result = invoke(ship, bundle, "--task", "good", "--device", "local")
    assert (home / "tasks/good/current").is_symlink()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["absent"], BundleError, "is not a bundle: there is no such folder"),
        (["absent.spa"], TaskFileError, "there is no such task file"),
        (["{bundle}", "--task", "a/b"], ConfigError, "cannot be the name of a task"),
        (["{bundle}", "--device", "pi-44b"], DeviceError, "there is no device 'pi-44b'"),
    ],
)
def test_obvious_mistakes(bundle: Path, arguments: list[str], error: type[EdgespaError], words: str) -> None:
    typed = [each.format(bundle=bundle) for each in arguments]
    result = invoke(ship, *typed, *(() if "--device" in typed else ("--device", "local")))
    assert result.exit_code == 1
    assert isinstance(result.exception, error)
    assert words in result.exception.message


def test_no_device_and_no_source() -> None:
    assert "Missing option '--device'" in invoke(ship, "bundle").stderr
    assert "Missing argument" in invoke(ship, "--device", "local").stderr
    assert "--identity needs --signers" in invoke(ship, "b", "--device", "local", "--identity", "me").stderr


@pytest.mark.more
@pytest.mark.slow
def test_a_task_file_on_its_base(
    toy_base: Base, toy_folder: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, density in (("half", 0.5), ("more", 0.75)):
        prune(toy_base, PruneConfig(density=density, round_to=1), tmp_path).save(tmp_path / f"{name}.spa")
    with monkeypatch.context() as patch:  # it is asked before anything long begins
        patch.setattr("edgespa.api.shipping._bundle_of", None)
        result = invoke(ship, tmp_path / "half.spa", "--device", "local")
    assert result.exit_code == 1
    assert "does not have the base that half was made on" in result.stderr
    assert "add --with-base" in result.stderr
    result = invoke(ship, tmp_path / "half.spa", tmp_path / "more.spa", "--device", "local", "--with-base", "--json")
    assert result.exit_code == 0, result.stderr
    first, second = json.loads(result.stdout)[0]["shipped"]
    assert [each["checks"][0]["status"] for each in (first, second)] == ["passed", "passed"]
    base = (home / "tasks/half/current/base.safetensors").stat()
    assert base.st_nlink == 3  # in the cache, and in both tasks
    assert second["bytes_sent"] < first["bytes_sent"] - base.st_size
    # The same task again is the same version: nothing is sent.
    again = json.loads(invoke(ship, tmp_path / "half.spa", "--device", "local", "--json").stdout)[0]["shipped"][0]
    assert (again["version"], again["bytes_sent"]) == (first["version"], 0)


def test_a_task_is_taken_off(bundle: Path, home: Path, away: Path) -> None:
    invoke(ship, bundle, "--device", "local", "--task", "birds")
    asked = invoke(ship, "--remove", "birds", "--device", "local")
    assert (asked.exit_code, "add --yes" in asked.stderr) == (2, True)
    assert (home / "tasks/birds/current").exists()
    result = invoke(ship, "--remove", "birds", "--device", "local", "--yes")
    assert result.stdout.startswith("local: birds: removed 0001-")
    assert list((home / "tasks").iterdir()) == []
    assert invoke(status, "--device", "local").exit_code == 0
    result = invoke(ship, "--remove", "birds", "--device", "local", "--device", away, "--yes", "--json")
    assert result.exit_code == 1
    assert [each["error"] is not None for each in json.loads(result.stdout)] == [True, True]
    assert "local has no task 'birds'" in result.stderr


def test_before_a_task_is_taken_off_it_is_asked(bundle: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    invoke(ship, bundle, "--device", "local", "--task", "birds")
    monkeypatch.setattr("edgespa.cli._removal.at_a_terminal", lambda: True)
    for answer, code, there in (("n\n", 1, True), ("y\n", 0, False)):
        result = CliRunner().invoke(ship.command, ["--remove", "birds", "--device", "local"], input=answer)
        assert (result.exit_code, (home / "tasks/birds").exists()) == (code, there)
        assert "Remove birds from local: all its versions, the one in use too?" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["b", "--remove", "birds"], "--remove ships nothing: leave b out"),
        ([], "Missing argument 'BUNDLE|TASK...'"),
    ],
)
def test_what_goes_with_removal(arguments: list[str], words: str) -> None:
    result = invoke(ship, *arguments, "--device", "local")
    assert (result.exit_code, words in result.stderr) == (2, True)


def test_nothing_that_a_device_says_moves_the_cursor(bundle: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgespa.device.link.transport import Connection

    real = Connection.ask

    def ask(self: Connection, what: str, *rest: Any, **options: Any) -> dict[str, Any]:
        answer = real(self, what, *rest, **options)
        if what == "stage":
            return {**answer, "removed": ["\x1b[2J"], "repaired": ["\x1b]0;x\x07"]}
        if what == "execute" and "--selfcheck" in rest[0]["argv"]:
            return {**answer, "stdout": "", "stderr": "\x1b[1A\x1b[2Kall is well"}
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "ask", ask)
        failed = CliRunner().invoke(ship.command, [str(bundle), "--device", "local"], color=True)
    assert (failed.exit_code, "all is well" in failed.stderr) == (1, True)
    assert not any(order in failed.output for order in ("\x1b[1A", "\x1b[2", "\x1b]", "\x07"))
