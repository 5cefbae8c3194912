"""What a killed process leaves does not grow, and what cannot be written is told before anything is done."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from edgespa.api.demo_folder import MARK, require_own_folder, take_folder
from edgespa.bundle import pack, unpack
from edgespa.bundle.whole import WholeFolder
from edgespa.errors import OutputExistsError
from edgespa.pruning.sweep import Shelf
from edgespa.system import files
from edgespa.system.files import require_folder_possible, require_writable, write_whole

# Test folders are no packages.
_spec = importlib.util.spec_from_file_location("tiny_bundles_left", Path(__file__).parent / "device" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)


@pytest.fixture
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real bundle as one file."""
    place = tmp_path_factory.mktemp("packed")
    pack(_tiny.write_bundle(place / "good", onnx=_tiny.onnx_bytes()), place / "good.tar")
    return place / "good.tar"


def killed(script: str, *arguments: str, code: int = -signal.SIGKILL) -> str:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == code, result.stderr
    return result.stdout


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".*"))


def test_half_a_file_of_a_killed_process_is_removed_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_whole(path, b"old")
    half = (
        "import os, sys\nfrom pathlib import Path\nfrom edgespa.system.files import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as s:\n    s.write(b'half'); s.flush(); os.kill(os.getpid(), 9)\n"
    )
    killed(half, str(path))
    assert path.read_bytes() == b"old"
    assert len(hidden(tmp_path)) == 1
    with files.whole_file(path) as stream:
        stream.write(b"new")
        assert len(hidden(tmp_path)) == 1  # the killed one's is gone, this one's is there
        files.remove_abandoned(path)
        assert len(hidden(tmp_path)) == 1  # and is held
    assert (path.read_bytes(), hidden(tmp_path)) == (b"new", [])


def test_files_with_such_names_that_are_not_ours_stay(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    for name in (".a.bin.tmp-xyz", ".a.bin.tmp-0123456789", ".b.bin.tmp-01234567", "a.bin.tmp-01234567"):
        (tmp_path / name).write_text("kept")
    (tmp_path / ".a.bin.tmp-01234567").symlink_to(tmp_path / "kept")
    before = sorted(os.listdir(tmp_path))
    write_whole(tmp_path / "a.bin", b"new")
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "a.bin"])
    assert (tmp_path / "kept").read_text() == "kept"


def test_half_a_bundle_of_a_killed_process_is_removed_by_the_next_one(tmp_path: Path) -> None:
    half = """
        import os, sys
        from pathlib import Path
        from edgespa.bundle.whole import WholeFolder
        with WholeFolder(Path(sys.argv[1])) as w:
            (w.path / "model.onnx").write_bytes(b"half")
            os.kill(os.getpid(), 9)
    """
    killed(half, str(tmp_path / "out"))
    assert len(hidden(tmp_path)) == 1
    assert not (tmp_path / "out").exists()
    with WholeFolder(tmp_path / "out") as writer:
        assert hidden(tmp_path) == [writer.path.name]
        with WholeFolder(tmp_path / "out") as other:  # both are in use
            assert hidden(tmp_path) == sorted([writer.path.name, other.path.name])
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("what", ["whole_file", "WholeFolder", "folder_beside", "require_writable"])
def test_whoever_removes_takes_nothing_that_is_being_made(tmp_path: Path, what: str) -> None:
    """Between the making of a file and its lock another process may take it for abandoned: it is made again."""
    script = """
        import os, sys, threading
        from pathlib import Path
        from edgespa.bundle.whole import WholeFolder
        from edgespa.system import files
        path, what = Path(sys.argv[1]), sys.argv[2]
        real, taken = files.hold, []

        def late(descriptor, *, wait=False):
            if wait and len(taken) < 3:
                files.remove_abandoned(path, "try" if what == "require_writable" else "tmp")
                taken.append(descriptor)
            real(descriptor, wait=wait)

        files.hold = late
        if what == "whole_file":
            files.write_whole(path, b"new")
            assert path.read_bytes() == b"new"
        elif what == "WholeFolder":
            with WholeFolder(path) as folder:
                (folder.path / "a").write_bytes(b"new")
                folder.install()
            assert (path / "a").read_bytes() == b"new"
        elif what == "folder_beside":
            with files.folder_beside(path) as folder:
                (folder / "a").write_bytes(b"new")
        else:
            files.require_writable(path)
        print(len(taken))
    """
    assert killed(script, str(tmp_path / "out"), what, code=0) == "3\n"
    assert hidden(tmp_path) == []


def test_what_is_being_put_in_its_place_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process looks at the last moment, when all is written."""
    path, real = tmp_path / "out", os.replace

    def late(source: Path, target: Path) -> None:
        files.remove_abandoned(path)
        real(source, target)

    monkeypatch.setattr(files.os, "replace", late)
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["tmp", "try"])
def test_what_a_killed_process_left_a_moment_ago_is_removed(tmp_path: Path, kind: str) -> None:
    """Whoever types the command again does so at once; afterwards the output is there, and nobody would come by."""
    half = """
        import os, sys
        from pathlib import Path
        from edgespa.system import files
        if sys.argv[2] == "try":
            files.os.lstat = lambda path: None
            files._PROBE_BYTES = type("Dying", (), {"__index__": lambda self: os.kill(os.getpid(), 9)})()
            files.require_writable(Path(sys.argv[1]))
        with files.folder_beside(Path(sys.argv[1])) as folder:
            (folder / "half").write_bytes(b"half")
            os.kill(os.getpid(), 9)
    """
    killed(half, str(tmp_path / "out"), kind)
    assert len(hidden(tmp_path)) == 1
    require_writable(tmp_path / "out")
    with files.folder_beside(tmp_path / "out") as folder:
        assert hidden(tmp_path) == [folder.name]
    assert hidden(tmp_path) == []


def test_an_interrupted_unpacking_leaves_nothing_after_the_next(packed: Path, tmp_path: Path) -> None:
    half = """
        import os, sys
        from pathlib import Path
        from edgespa.bundle import archive
        real, copied = archive._copy, []
        def dying(*arguments):
            copied.append(1)
            return real(*arguments) if len(copied) < 4 else os.kill(os.getpid(), 9)
        archive._copy = dying
        archive.unpack(Path(sys.argv[1]), Path(sys.argv[2]))
    """
    killed(half, str(packed), str(tmp_path / "out"))
    assert [name[:9] for name in os.listdir(tmp_path)] == [".out.tmp-"]
    unpack(packed, tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_values_on_disk_have_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    value = torch.arange(600_000, dtype=torch.float32).reshape(2, -1)
    with Shelf(0) as shelf:
        ticket = shelf.put(value)
        assert list(tmp_path.iterdir()) == []
        assert torch.equal(shelf.take(ticket), value)
        for each in (value.T, value.to(torch.float64), torch.zeros(1 << 20, dtype=torch.uint8)):
            assert torch.equal(shelf.take(shelf.put(each)), each)


def test_a_full_disk_below_the_values_is_an_error_and_no_death(tmp_path: Path) -> None:
    """Written through a mapping, a full disk is a signal; a limit on the size of files stands for it here."""
    said = killed(
        """
        import resource, signal, torch
        from edgespa.pruning.sweep import Shelf
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            Shelf(0).put(torch.zeros(1 << 20))
        except OSError as error:
            print("told:", error.errno, error.filename is not None)
        """,
        code=0,
    )
    assert said.startswith("told: 27 True")


@pytest.mark.parametrize("what", ["a file above", "no folder", "another kind"])
def test_where_nothing_can_be_written(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    if what == "a file above":
        with pytest.raises(NotADirectoryError):
            require_folder_possible(tmp_path / "file" / "a" / "b")
    elif what == "no folder":
        with pytest.raises(FileNotFoundError):
            require_writable(tmp_path / "none" / "a")
    else:
        with pytest.raises(OSError, match="too long"):
            require_writable(tmp_path / ("n" * 300))
        monkeypatch.setattr(
            files.os, "open", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only file system"))
        )
        with pytest.raises(OSError, match="Read-only") as caught:
            require_folder_possible(tmp_path / "a" / "b")
        assert caught.value.filename == str(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_where_something_can(tmp_path: Path) -> None:
    require_writable(tmp_path / "a")
    require_folder_possible(tmp_path / "a" / "b" / "c")
    assert os.listdir(tmp_path) == []


def test_a_demo_takes_no_folder_of_somebody_else(tmp_path: Path) -> None:
    """Told at once, and no file of the folder is replaced; one of its own is taken again."""
    foreign = tmp_path / "work"
    foreign.mkdir()
    (foreign / "base.safetensors").write_text("my own")
    for place in (foreign, foreign / "base.safetensors"):
        with pytest.raises(OutputExistsError) as caught:
            take_folder(place)
        assert "no folder of an earlier demo" in caught.value.message
    assert os.listdir(foreign) == ["base.safetensors"]
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "new" / "one"):
        take_folder(place)
        (place / "base.safetensors").write_text("of the demo")
        require_own_folder(place)
        take_folder(place)
        assert sorted(os.listdir(place)) == [MARK, "base.safetensors"]
    with pytest.raises(NotADirectoryError):
        require_own_folder(foreign / "base.safetensors" / "x")


EARLY = """
import sys
from click.testing import CliRunner
from edgespa.cli import main

def said(*arguments):
    result = CliRunner().invoke(main, arguments)
    assert "torch" not in sys.modules, arguments
    print(result.exit_code, result.stderr.replace(chr(10), " "))

open("there.spa", "w").close(); open("labels.txt", "w").write("a"); open("net.py", "w").close()
model = ("net.py:build", "--input-shape", "1,3,8,8")
said("adapt", *model, "--data", "digits", "-o", "there.spa")
said("adapt", *model, "--data", "digits", "-o", "none/a.spa")
said("adapt", *model, "--data", "digits", "-o", ".")
said("adapt", *model, "--data", "digits", "-o", "a.spa", "--resume")
said("adapt", "--resume", "a.spa.resume")
said("adapt", "nett.py:build", "--data", "digits", "-o", "a.spa")
said("adapt", *model, "--data", "./none", "-o", "a.spa")
said("adapt", *model, "--data", "digits", "--eval-data", "none.npz", "-o", "a.spa")
said("adapt", *model, "--data", "digits", "--weights", "w.pth", "-o", "a.spa")
said("adapt", *model, "--data", "digits", "--labels", "label.txt", "-o", "a.spa")
said("adapt", *model, "--data", "digits", "--class-weights", "w.json", "-o", "a.spa")
said("adapt", *model, "--data", "digits", "--log", "none/log", "-o", "a.spa")
said("adapt", *model, "--data", "digits", "--distill", "t.spa", "-o", "a.spa")
said("adapt", "--from", "t.spa", "--data", "digits", "-o", "a.spa")
said("adapt", *model, "--data", "digits", "--budget", "latency_ms=3", "--device", "pie", "-o", "a.spa")
said("prune", *model, "--density", "0.5", "--calibration", "none/", "-o", "a.spa")
said("prune", *model, "--density", "0.5", "-o", "there.spa")
said("export", "no.spa", "-o", "out")
said("export", *model, "-o", "there.spa")
said("export", *model, "-o", "there.spa/out")
said("export", *model, "--device", "pie", "-o", "out")
said("demo", "-o", ".")
"""


def test_what_is_wrong_is_told_before_torch_is_loaded(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", EARLY], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    wanted = (
        "there.spa exists already", "the folder for the output does not exist", ". exists already",
        "no state to go on with: a.spa.resume", "no state to go on with: a.spa.resume", "did you mean net.py?",
        "none does not exist", "none.npz does not exist", "w.pth: no such file", "did you mean labels.txt?",
        "--class-weights w.json: no such file", "the log none/log cannot be written", "--distill t.spa: no such file",
        "--from t.spa: no such file", "no device 'pie'", "none does not exist", "there.spa exists already",
        "no.spa: no such file", "there.spa exists already", "not a folder", "no device 'pie'",
        "no folder of an earlier demo",
    )  # fmt: skip
    for line, text in zip(lines, wanted, strict=True):
        assert line.startswith("1 "), line
        assert text in line
    assert sorted(os.listdir(tmp_path)) == ["labels.txt", "net.py", "there.spa"]
