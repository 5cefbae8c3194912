"""Device profiles and calibration sets lie at the top of the repository alone, and are in every wheel."""

from __future__ import annotations

import os
import subprocess
import sys
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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if int(metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip(f"NO WHEEL CAN BE BUILT: setuptools {metadata.version('setuptools')} is too old")
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: what a build leaves in the folder that it is made of is nobody's.
    source = folder / "source"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not names:
        pytest.skip("NO GIT HERE: which files are of the project is not known")
    for name in filter(None, names.split("\0")):
        if name.startswith(("edgespa", "devices", "calibration", "pyproject.toml", "README.md", "LICENSE")):
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            file = ROOT / name
            if file.is_symlink():
                target.symlink_to(os.readlink(file))
            else:
                target.write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "-w", str(folder), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (made,) = folder.glob("*.whl")
    return made


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


def test_there_is_one_copy() -> None:
    for name in ("devices", "calibration"):
        assert (ROOT / "edgespa" / name).resolve() == ROOT / name
