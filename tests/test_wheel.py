"""What is built has all that it needs, with the device profiles and calibration sets at the top of the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOOK = """
import edgespa
from edgespa.data.calibration import shipped
from edgespa.device.board import list_devices
print(edgespa.__file__, sorted(each.name for each in list_devices()), sorted(shipped()), sep="\\n")
from edgespa.device.assemble import agent_source, runner_source
print(len(agent_source()) > 10_000 and len(runner_source()) > 10_000)
"""


BUILD = """
import sys
from setuptools import build_meta
print(build_meta.build_sdist(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files alone. A copy: what a build leaves in the folder that it is made of is nobody's."""
    if int(metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip(f"NO WHEEL CAN BE BUILT: setuptools {metadata.version('setuptools')} is too old")
    folder = tmp_path_factory.mktemp("wheel") / "source"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not names:
        pytest.skip("NO GIT HERE: which files are of the project is not known")
    for name in filter(None, names.split("\0")):
        file, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.is_symlink():
            target.symlink_to(os.readlink(file))
        elif file.is_file():  # not one that is removed, and not committed yet
            target.write_bytes(file.read_bytes())
    return folder


def built(source: Path, folder: Path) -> Path:
    """The wheel of a folder, or of a source archive."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "-w", str(folder), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(source, tmp_path_factory.mktemp("built"))


def look(place: Path) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(place)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOOK],
        cwd=place.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("zipped", [True, False])
def test_they_are_found_in_a_wheel_unpacked_and_not(wheel: Path, tmp_path: Path, zipped: bool) -> None:
    place = wheel
    if not zipped:
        place = tmp_path / "site"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place)
    file, devices, sets, joined = look(place)
    assert joined == "True"
    assert file.startswith(str(place))
    assert devices == str(sorted(path.stem for path in (ROOT / "devices").glob("*.toml")))
    assert sets == str(sorted(path.stem for path in (ROOT / "calibration").glob("*.toml")))
    assert "pi-5" in devices
    assert "digits-256" in sets


def test_the_source_archive_makes_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (archive,) = tmp_path.glob("edgespa-*.tar.gz")
    with tarfile.open(archive) as opened:
        names = opened.getnames()
    # What is not of use to who installs it stays out: tests want data that nobody has there.
    assert {name.split("/")[1] for name in names if "/" in name} >= {
        "edgespa",
        "LICENSE",
        "README.md",
        "pyproject.toml",
    }
    again = built(archive, tmp_path / "again")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
        for name in one.namelist():
            assert one.read(name) == other.read(name), name


def test_a_wheel_has_every_file_of_the_package_and_nothing_else(source: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = source / "edgespa"
    files = {path.relative_to(source).as_posix() for path in package.rglob("*") if path.is_file()}
    for name in ("devices", "calibration"):  # links to folders, into which rglob does not go
        files |= {f"edgespa/{name}/{path.name}" for path in (source / name).iterdir() if path.is_file()}
    assert inside == files


def test_there_is_one_copy() -> None:
    for name in ("devices", "calibration"):
        assert (ROOT / "edgespa" / name).resolve() == ROOT / name
