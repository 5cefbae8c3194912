"""A disk that fills up at any point: an error of the system, nothing new beside what was there, no bundle that is half.

Twice: on small tmpfs mounts in a mount namespace of their own, of every size in pages; and with a limit on the size of
files, which writes meet at any byte. In processes of their own, for the one needs a namespace and the other changes
the process.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# What is done in a folder that fills up: the command line's operations, each from the same good inputs.
OPERATIONS = '''
import contextlib, json, os, resource, shutil, subprocess, sys
from pathlib import Path
import torch
from edgespa.tasks import sealed
from edgespa.bundle import BundleWriter, Signer, open_bundle, pack, read_manifest, sign_bundle, unpack, verify_files
from edgespa.errors import EdgespaError
from edgespa.system.files import write_whole

bundle, packed, key = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
manifest = read_manifest(bundle)
signer = Signer.open(key) if key.exists() else None

def export(folder, overwrite=False):
    with BundleWriter(folder / "out", overwrite=overwrite, sign=signer) as writer:
        for entry in manifest.files:
            shutil.copyfile(bundle / entry.path, writer.path / entry.path)
        writer.commit(manifest)

def sign(folder):
    sign_bundle(folder / "in", signer, overwrite=True)

TASK = sealed.to_bytes("edgespa", "text", {"a": torch.arange(9000.0)})
DO = {
    "export": export,
    "export over another": lambda folder: export(folder, overwrite=True),
    "pack": lambda folder: pack(bundle, folder / "out.tar"),
    "unpack": lambda folder: unpack(packed, folder / "out"),
    "task file": lambda folder: write_whole(folder / "out.spa", TASK),
}
if signer:
    DO["sign"] = sign

def prepare(folder, name):
    if name == "export over another":
        shutil.copytree(bundle, folder / "out")
        (folder / "out" / "profiles").mkdir()
    if name == "sign":
        shutil.copytree(bundle, folder / "in")

def state(folder):
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}

def attempt(folder, name):
    """True where it worked; an error must leave all as it was."""
    before = state(folder)
    try:
        DO[name](folder)
    except (OSError, EdgespaError) as error:
        assert isinstance(error, OSError) or "cannot sign" in error.message, error
        assert state(folder) == before, (name, sorted(set(state(folder)) ^ set(before)))
        return False
    for path in folder.iterdir():
        if path.suffix == ".spa":
            sealed.read(path, "edgespa")
        else:
            with open_bundle(path):
                pass
    hidden = [path for path in folder.iterdir() if path.name.startswith(".")]
    assert not hidden, hidden
    return True
'''

ON_TMPFS = """
disk = Path(sys.argv[4])
counts = {}
for name in DO:
    counts[name] = [0, 0]
    for pages in range(2, 160):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={pages * 4}k", "none", disk], check=True)
        try:
            with contextlib.suppress(OSError):
                prepare(disk, name)
                worked = attempt(disk, name)
                counts[name][worked] += 1
        finally:
            subprocess.run(["umount", disk], check=True)
        if counts[name][True] >= 3:
            break
print(json.dumps(counts))
"""

WITH_A_LIMIT = """
root = Path(sys.argv[4])
counts = {}
sizes = [entry.size_bytes for entry in manifest.files] + [len(TASK), packed.stat().st_size]
limits = sorted({max(0, size + off) for size in sizes for off in (-1, 0, 1)} | set(range(0, max(sizes), 1021)))
for name in DO:
    counts[name] = [0, 0]
    for limit in limits:
        folder = root / f"{limit}"
        folder.mkdir()
        prepare(folder, name)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            worked = attempt(folder, name)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        counts[name][worked] += 1
        shutil.rmtree(folder)
print(json.dumps(counts))
"""


@pytest.fixture
def key(tmp_path: Path) -> Path:
    if shutil.which("ssh-keygen"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"]
        subprocess.run(command, check=True, capture_output=True)
    return tmp_path / "key"


def in_namespace() -> list[str]:
    """How to mount without touching the machine; skips where that is not allowed."""
    for options in (["--mount"], ["--map-root-user", "--mount"]):
        command = ["unshare", *options, "--propagation", "private"]
        if (
            shutil.which("unshare")
            and not subprocess.run(
                [*command, "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, check=False
            ).returncode
        ):
            return command
    pytest.skip("A FULL DISK WAS NOT TRIED: mounting is not allowed here")


def run(script: str, arguments: list[Path], prefix: list[str] | None = None) -> dict[str, list[int]]:
    command = [*(prefix or []), sys.executable, "-c", OPERATIONS + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    counts: dict[str, list[int]] = json.loads(done.stdout.splitlines()[-1])
    return counts


@pytest.mark.more
def test_a_full_disk_leaves_nothing(kept_bundle: Path, packed: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    counts = run(ON_TMPFS, [kept_bundle, packed, key, tmp_path / "disk"], in_namespace())
    for name, (failed, worked) in counts.items():
        assert worked == 3, name
        assert failed >= (1 if name == "sign" else 5), name


@pytest.mark.more
def test_a_limit_at_any_byte_leaves_nothing(kept_bundle: Path, packed: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    counts = run(WITH_A_LIMIT, [kept_bundle, packed, key, tmp_path / "root"])
    for name, (failed, worked) in counts.items():
        assert worked >= 1, name
        assert failed >= (1 if name == "sign" else 20), name
