"""Converters that crash, fail, or whose export is killed: said, survived, and nothing left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgespa.api.bundles import export_bundle
from edgespa.errors import ExportError
from edgespa.exporting import conversion, onnx_file
from edgespa.exporting.bundle import ExportConfig
from edgespa.exporting.cache import Cache
from edgespa.exporting.conversion import conversions
from edgespa.exporting.converter import Form
from edgespa.tasks.base import Base

pytestmark = pytest.mark.usefixtures("converters", "converted_apart")


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose code takes the place of a converter, in the processes that are started from now on."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return folder


def instead(folder: Path, package: str, code: str) -> None:
    (folder / f"{package}.py").write_text(f"import os, signal, sys, time\n{code}\n")


@pytest.mark.parametrize(
    ("name", "package", "other"),
    [("onnx", "onnxsim", "tflite"), pytest.param("tflite", "litert_torch", "onnx", marks=pytest.mark.more)],
)
def test_a_converter_that_crashes_is_told_and_leaves_nothing(
    toy_base: Base,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    converter: Path,
    name: str,
    package: str,
    other: str,
) -> None:
    instead(converter, package, "os.kill(os.getpid(), signal.SIGSEGV)")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    config = ExportConfig(formats=(name,), cache=False)
    with pytest.raises(ExportError, match=rf"the converter to {name} crashed on the program \(SIGSEGV\)") as told:
        export_bundle(toy_base.spec, tmp_path / "out", config, input_shape=(1, 3, 8, 8))
    assert f"--format {other}" in str(told.value.hint)
    assert [name for name in os.listdir(temporary) if name.startswith("edgespa-")] == []
    assert not (tmp_path / "out").exists()


@pytest.mark.more
def test_the_other_format_is_written(toy_base: Base, tmp_path: Path, converter: Path) -> None:
    instead(converter, "litert_torch", "os.kill(os.getpid(), signal.SIGABRT)")
    manifest = export_bundle(toy_base.spec, tmp_path / "out", ExportConfig(cache=False), input_shape=(1, 3, 8, 8))
    assert [variant.name for variant in manifest.variants] == ["onnx-fp32"]
    (missing,) = manifest.provenance["left_out"]  # type: ignore[misc,union-attr]
    assert "crashed on the program (SIGABRT)" in missing["reason"]  # type: ignore[index,call-overload,operator]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def simplify(*_, **__): raise RuntimeError('deep trouble')", "converted to ONNX: RuntimeError: deep trouble"),
        pytest.param(
            "def simplify(*_, **__): raise OSError(28, 'No space left on device')",
            "No space left on device",
            marks=pytest.mark.more,
        ),
        pytest.param("raise ImportError('half of it is missing')", "crashed on the program", marks=pytest.mark.more),
    ],
)
def test_what_a_converter_says_comes_back(
    toy_base: Base, tmp_path: Path, converter: Path, code: str, words: str
) -> None:
    instead(converter, "onnxsim", f"print('to be ignored')\n{code}")
    with (
        conversions(toy_base.program, Form(), ("onnx",), Cache(None)) as made,
        pytest.raises(ExportError, match=words),
    ):
        made.write("onnx", tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_program_that_cannot_be_saved_is_converted_here(
    toy_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("not to be exported again")

    monkeypatch.setattr("edgespa.exporting.started._save", fail)
    with conversions(toy_base.program, Form(), ("onnx",), Cache(None)) as made:
        made.write("onnx", tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size > 1000


def test_a_process_that_is_killed_is_told(toy_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "write_fp32", lambda *_: pytest.fail("converted here"))
    with conversions(toy_base.program, Form(), ("onnx",), Cache(None)) as made:
        made._running["onnx"]._process.kill()
        with pytest.raises(ExportError, match=r"crashed on the program \((its process did not start: )?SIGKILL\)"):
            made.write("onnx", tmp_path / "m.onnx")
        made.write("onnx", tmp_path / "m.onnx")  # another one is started
    assert conversion.CONVERTERS["onnx"] is onnx_file
    assert (tmp_path / "m.onnx").stat().st_size > 1000


def test_a_converter_that_is_kept_writes_the_same_bytes(
    toy_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process for several programs; what it has converted before changes nothing, and one that died is replaced."""
    from edgespa.exporting.conversion import kept_converters

    monkeypatch.setattr(conversion, "_KEPT", {})
    monkeypatch.setattr(onnx_file, "write_fp32", lambda *_: pytest.fail("converted here"))

    def converted(name: str, batch: int | None = None) -> bytes:
        with conversions(toy_base.program, Form(batch=batch), ("onnx",), Cache(None)) as made:
            made.write("onnx", tmp_path / name)
        return (tmp_path / name).read_bytes()

    with kept_converters():
        fresh = converted("one")
        (kept,) = conversion._KEPT.values()
        folder = kept._folder
        assert list(folder.iterdir()) == []
        assert converted("fixed", 2) != fresh
        assert converted("two") == fresh
        assert list(conversion._KEPT.values()) == [kept]
        kept._process.kill()
        kept._process.wait()
    assert converted("three") == fresh  # by a new one; outside of the block it is not kept
    assert conversion._KEPT == {}
    assert not folder.exists()


@pytest.mark.more
def test_a_kept_converter_ends_with_its_process(toy_folder: Path, tmp_path: Path) -> None:
    code = (
        "import edgespa as es, sys\n"
        "from edgespa.exporting import conversion\n"
        "with conversion.kept_converters():\n"
        f"    es.export({str(toy_folder / 'net.py') + ':build'!r}, output={str(tmp_path / 'out')!r},\n"
        "              formats=('onnx',), input_shape=(1, 3, 8, 8), cache=False, progress=False)\n"
        "(kept,) = conversion._KEPT.values()\n"
        "print(kept._process.pid, kept._folder)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    number, folder = done.stdout.split()[-2:]
    end = time.monotonic() + 60
    while Path(folder).exists() or Path(f"/proc/{number}").exists():
        assert time.monotonic() < end, "it is still there"
        time.sleep(0.05)


def test_a_process_that_does_not_start_is_told_from_a_crash(
    toy_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "edgespa.exporting.started.own_module", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"]
    )
    with (
        conversions(toy_base.program, Form(), ("onnx",), Cache(None)) as made,
        pytest.raises(ExportError, match="its process did not start: exit status 3"),
    ):
        made.write("onnx", tmp_path / "m.onnx")


@pytest.mark.slow
@pytest.mark.more
def test_files_of_the_current_folder_are_not_taken_for_pythons_own(toy_folder: Path, tmp_path: Path) -> None:
    for name in ("random", "inspect", "platform", "token", "copy", "json", "torch", "onnx", "edgespa"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')\n")
    command = [sys.executable, "-P", "-m", "edgespa", "export", f"{toy_folder / 'net.py'}:build"]
    command += ["--input-shape", "1,3,8,8", "--output", "out", "--no-cache"]
    paths = os.pathsep.join([str(Path(conversion.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths.strip(os.pathsep)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "NOT WRITTEN" not in done.stderr


@pytest.mark.more
def test_no_process_and_no_folder_of_a_killed_export_stays(toy_folder: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "edgespa", "export", f"{toy_folder / 'net.py'}:build", "--input-shape", "1,3,8,8"]
    environment = {**os.environ, "TMPDIR": str(temporary)}

    def running() -> list[int]:
        """Processes that have the environment of the export."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"TMPDIR={temporary}\0".encode() in entry.read_bytes():
                    found.append(int(entry.parent.name))
            except OSError:
                continue
        return found

    began = time.monotonic()
    subprocess.run([*command, "--output", str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    whole = time.monotonic() - began
    usual = set(os.listdir(temporary))  # what torch keeps there
    for moment in (0.4, 0.5, 0.6, 0.7, 0.8):
        process = subprocess.Popen([*command, "--output", str(tmp_path / "out"), "--overwrite"], env=environment)
        time.sleep(whole * moment)
        process.kill()
        process.wait()
        last = time.monotonic() + 30
        while (running() or set(os.listdir(temporary)) - usual) and time.monotonic() < last:
            time.sleep(0.1)
        assert running() == []
        assert set(os.listdir(temporary)) <= usual
