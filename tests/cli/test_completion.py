"""``edgespa completion``: the script in a real shell; quick, and nothing of anybody is run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

BASH = """
source "$1"
COMP_LINE=$2 COMP_POINT=${#2} COMP_TYPE=9
COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
_edgespa_completion edgespa
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the program, as a shell finds it, and its script for bash."""
    folder = tmp_path_factory.mktemp("bin")
    file = folder / "edgespa"
    file.write_text(f"#!{sys.executable}\nfrom edgespa.cli import main\nmain()\n")
    file.chmod(0o755)
    script = subprocess.run([file, "completion", "bash"], capture_output=True, text=True, check=True, env=env(folder))
    (folder / "bash").write_text(script.stdout)
    return folder


def env(folder: Path) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": root}


def complete(program: Path, line: str, place: Path) -> list[str]:
    command = ["bash", "--norc", "-c", BASH, "bash", str(program / "bash"), line]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env(program), cwd=place)
    return done.stdout.split()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text("open('ran', 'w')\ndef build():\n    pass\ndef _no(): pass\ndef bad(x): pass\n")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/manifest.json").write_text(
        json.dumps({"variants": [{"name": "onnx-fp32"}, {"name": "ncnn-fp16"}]})
    )
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("edgespa ex", ["export"]),
        ("edgespa devices se", ["setup"]),
        ("edgespa export --calibration-im", ["--calibration-images"]),
        ("edgespa export --format o", ["onnx"]),
        ("edgespa export --format=o", ["onnx"]),
        ("edgespa devices show pi-5", ["pi-5"]),
        ("edgespa ship b --device jetson-n", ["jetson-nano"]),
        ("edgespa calibration check imag", ["imagenet-512"]),
        ("edgespa export m --calibration imag", ["imagenet-512"]),
        ("edgespa adapt m --adapter splor", ["splora"]),
        ("edgespa adapt m --augment flip,cr", ["flip,crop"]),
        ("edgespa compress m --budget l", ["latency_ms="]),
        ("edgespa inspect torchv", ["torchvision:"]),
        ("edgespa inspect net.p", ["net.py:"]),
        ("edgespa inspect net.py:", ["build"]),
        ("edgespa inspect net.py:b", ["build"]),
        ("edgespa profile bundle --variant ", ["onnx-fp32", "ncnn-fp16"]),
        ("edgespa export net.py:build --seed 1 --form", ["--format"]),
    ],
)
def test_in_bash(program: Path, place: Path, line: str, expected: list[str]) -> None:
    assert complete(program, line, place) == expected
    assert not (place / "ran").exists()


def test_what_is_hostile_in_a_folder_is_a_name(program: Path, place: Path) -> None:
    (place / "$(touch ran).pt2").touch()
    (place / "net2.py").write_text("(" * 100_000)
    (place / "bundle/manifest.json").write_text("[" * 100_000)
    assert complete(program, "edgespa inspect '$(t", place) is not None
    complete(program, "edgespa inspect net2.py:", place)
    assert "onnx-fp32" in complete(program, "edgespa profile bundle --variant ", place)
    assert not (place / "ran").exists()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_can_be_read(program: Path, tmp_path: Path, shell: str) -> None:
    script = tmp_path / shell
    done = subprocess.run(
        [program / "edgespa", "completion", shell], capture_output=True, text=True, check=True, env=env(program)
    )
    script.write_text(done.stdout)
    assert "_EDGESPA_COMPLETE" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n", script], check=True)


FISH = 'source "$argv[1]"; complete -C "$argv[2]"'
ZSH = """
autoload -Uz compinit && compinit -u -D && source "$SCRIPT"
completed() { zle expand-or-complete; print -r -- "$BUFFER" > "$FOUND.partial"; mv "$FOUND.partial" "$FOUND"; exit; }
zle -N completed
bindkey '^G' completed
zle-line-init() { touch "$FOUND.ready"; }
zle -N zle-line-init
"""


def script_of(program: Path, shell: str, folder: Path) -> Path:
    command = [program / "edgespa", "completion", shell]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env(program))
    (folder / f"script.{shell}").write_text(done.stdout)
    return folder / f"script.{shell}"


@pytest.mark.skipif(shutil.which("fish") is None, reason="NO FISH HERE: apt-get install fish")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("edgespa ex", ["export"]),
        ("edgespa export --calibration-im", ["--calibration-images"]),
        ("edgespa devices show pi-5", ["pi-5"]),
        ("edgespa inspect net.py:", ["net.py:build"]),
    ],
)
def test_in_fish(program: Path, place: Path, tmp_path: Path, line: str, expected: list[str]) -> None:
    script = script_of(program, "fish", tmp_path)
    environment = {**env(program), "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    command = ["fish", "--no-config", "-c", FISH, str(script), line]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=place)
    assert [each.split("\t")[0] for each in done.stdout.splitlines()] == expected


@pytest.mark.skipif(shutil.which("zsh") is None, reason="NO ZSH HERE: apt-get install zsh")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("edgespa ex", "edgespa export "),
        ("edgespa export --calibration-im", "edgespa export --calibration-images "),
        ("edgespa inspect net.py:", "edgespa inspect net.py:build "),
    ],
)
def test_in_zsh(program: Path, place: Path, tmp_path: Path, line: str, expected: str) -> None:
    """Typed on a terminal of its own: completion is for those."""
    script, found = script_of(program, "zsh", tmp_path), tmp_path / "found"
    (tmp_path / ".zshrc").write_text(ZSH)
    environment = {**env(program), "ZDOTDIR": str(tmp_path), "HOME": str(tmp_path), "TERM": "dumb"}
    environment |= {"SCRIPT": str(script), "FOUND": str(found)}
    ours, theirs = os.openpty()
    shell = subprocess.Popen(
        ["zsh", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=place, start_new_session=True
    )
    os.close(theirs)
    reader = threading.Thread(target=_read_all, args=(ours,))  # a terminal that nobody reads stops who writes there
    reader.start()
    try:
        _wait_for(tmp_path / "found.ready")
        os.write(ours, f"{line}\x07".encode())
        _wait_for(found)
    finally:
        shell.kill()
        shell.wait()
        reader.join()
        os.close(ours)
    assert found.read_text() == expected + "\n"


def _wait_for(file: Path) -> None:
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end, f"no {file.name}"
        time.sleep(0.05)


def _read_all(terminal: int) -> None:
    with contextlib.suppress(OSError):  # its other side is closed
        while os.read(terminal, 4096):
            pass


def test_no_torch_is_loaded(program: Path, place: Path) -> None:
    for line in ("edgespa inspect net.py:", "edgespa profile b --device ", "edgespa adapt --adapter "):
        code = (
            "import sys, atexit\n"
            "def look():\n    heavy = {'torch', 'numpy', 'pydantic', 'rich'} & set(sys.modules)\n"
            "    sys.stderr.write(repr(sorted(heavy)))\n"
            "atexit.register(look)\nfrom edgespa.cli import main\nsys.argv = ['edgespa']\nmain()"
        )
        environment = {**env(program), "_EDGESPA_COMPLETE": "bash_complete", "COMP_WORDS": line}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=place, check=False
        )
        assert done.stdout, done.stderr
        assert done.stderr.endswith("[]"), (line, done.stderr)
