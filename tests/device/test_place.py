"""The folder on a device: what others may change is not used, and what lies beside the agent takes no part."""

from __future__ import annotations

import grp
import hashlib
import importlib.util
import os
import pwd
import subprocess
import sys
import zlib
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgespa.device import agent_source, connect, load_device
from edgespa.device.agent.place import unsafe
from edgespa.device.board import Device
from edgespa.device.link.boot import BOOT
from edgespa.device.link.refusals import refusal
from edgespa.errors import RefusedError

OTHER = 12345  # nobody's number here

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="OWNERS WERE NOT TRIED: only root may give files away")


def local(folder: Path) -> Device:
    values = load_device("local").model_dump()
    return Device.parse({**values, "connection": {"folder": str(folder)}}, "test")


def ask(folder: Path) -> dict[str, Any]:
    with connect(local(folder)) as connection:
        return connection.ask("tasks", {})


def _writable_by_all(root: Path) -> None:
    (root / "a").chmod(0o777)


def _writable_by_a_group(root: Path) -> None:
    os.chown(root / "a", 0, OTHER)
    (root / "a").chmod(0o775)


def _of_another(root: Path) -> None:
    os.chown(root / "a", OTHER, 0)


def _sticky_but_of_another(root: Path) -> None:
    root.chmod(0o1777)
    os.chown(root / "a", OTHER, 0)


def _above_is_writable(root: Path) -> None:
    root.chmod(0o777)


def _folder_itself_of_another(root: Path) -> None:
    (root / "a" / "b").mkdir()
    os.chown(root / "a" / "b", OTHER, 0)


def _folder_itself_is_sticky(root: Path) -> None:
    (root / "a" / "b").mkdir()
    (root / "a" / "b").chmod(0o1777)


def _link_of_another(root: Path) -> None:
    root.chmod(0o1777)
    (root / "a").rename(root / "real")
    (root / "a").symlink_to(root / "real")
    os.chown(root / "a", OTHER, 0, follow_symlinks=False)


def _link_through_what_others_write(root: Path) -> None:
    (root / "open" / "inner").mkdir(parents=True)
    (root / "open").chmod(0o777)
    (root / "a").rmdir()
    (root / "a").symlink_to("open/../open/inner")


def _links_without_end(root: Path) -> None:
    (root / "a").rmdir()
    (root / "a").symlink_to("a")


def _a_part_of_another(root: Path) -> None:
    (root / "a" / "b" / "tasks").mkdir(parents=True)
    os.chown(root / "a" / "b" / "tasks", OTHER, 0)


def _an_environment_that_all_may_write(root: Path) -> None:
    place = root / "a" / "b" / "environments" / "x"
    (place / "bin").mkdir(parents=True)
    place.chmod(0o777)
    (root / "a" / "b" / "environment").symlink_to("environments/x")


ATTACKS = [
    _writable_by_all,
    pytest.param(_writable_by_a_group, marks=needs_root),
    pytest.param(_of_another, marks=needs_root),
    pytest.param(_sticky_but_of_another, marks=needs_root),
    _above_is_writable,
    pytest.param(_folder_itself_of_another, marks=needs_root),
    _folder_itself_is_sticky,
    pytest.param(_link_of_another, marks=needs_root),
    _link_through_what_others_write,
    _links_without_end,
    pytest.param(_a_part_of_another, marks=needs_root),
    _an_environment_that_all_may_write,
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_others_may_change_is_not_used(tmp_path: Path, attack: Callable[[Path], None]) -> None:
    (tmp_path / "a").mkdir()
    attack(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RefusedError) as caught:
        ask(tmp_path / "a" / "b")
    assert caught.value.kind == "unsafe"
    assert "others could change" in caught.value.message
    assert "set XDG_DATA_HOME" in (caught.value.hint or "")
    # Nothing of the agent's work was done; where only a part is foreign, the agent itself may be there.
    made = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert all("agent" in path.parts[-1] or path.parent.name == "agent" for path in made)


def _ours(root: Path) -> Path:
    return root / "a" / "b"


def _below_a_sticky_folder(root: Path) -> Path:
    root.chmod(0o1777)
    return root / "mine"


def _through_links_of_ours(root: Path) -> Path:
    (root / "disk").mkdir()
    (root / "a").symlink_to("disk/../disk")
    return root / "a" / "b"


def _of_a_group_that_is_ours_alone(root: Path) -> Path:
    os.chown(root, -1, os.getegid())
    root.chmod(0o775)
    return root / "b"


@pytest.mark.parametrize(
    "make", [_ours, _below_a_sticky_folder, _through_links_of_ours, _of_a_group_that_is_ours_alone]
)
def test_what_is_ours_alone_is_used(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = make(tmp_path)
    assert ask(folder)["tasks"] == []
    assert (folder / "agent").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders to other groups")
def test_groups_of_users_who_are_in_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare number in a container has the group of root; a group of a directory shows none of its many members."""
    listed = [each for each in pwd.getpwall() if each.pw_uid != os.geteuid()]
    monkeypatch.setattr(pwd, "getpwall", lambda: listed)
    tmp_path.chmod(0o775)
    os.chown(tmp_path, -1, 0)
    assert unsafe(str(tmp_path / "b")) is None
    shared = pwd.struct_passwd(("somebody", "x", os.geteuid(), 54321, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda user: shared)
    monkeypatch.setattr(grp, "getgrgid", lambda group: grp.struct_group(("domain users", "x", group, [])))
    os.chown(tmp_path, -1, 54321)
    assert "can be written by its group" in str(unsafe(str(tmp_path / "b")))


def test_what_is_made_there_is_for_nobody_else_to_write(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ask(tmp_path / "new" / "folder")
    finally:
        os.umask(before)
    made = [path for path in (tmp_path / "new").rglob("*")]
    assert made
    assert not [path for path in made if path.lstat().st_mode & 0o022]


def test_a_relative_path_is_looked_at_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert unsafe("x/y") is None
    tmp_path.chmod(0o777)
    assert "everybody" in str(unsafe("x/y"))


def test_from_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert ask(tmp_path / "kept")["tasks"] == []


def test_what_lies_beside_the_agent_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of the names that it imports, in its folder and where it is started, and bytecode of its own name."""
    marker = tmp_path / "marker"
    harm = f"open({str(marker)!r}, 'w').close()\n"
    folder, here = tmp_path / "kept", tmp_path / "here"
    ask(folder)  # it is there now
    here.mkdir()
    for place in (folder / "agent", here, folder):
        for name in ("json", "hashlib", "fcntl", "subprocess", "sitecustomize", "usercustomize", "zlib", "base64"):
            (place / f"{name}.py").write_text(harm)
    name = f"agent_{hashlib.sha256(agent_source()).hexdigest()}"
    code = compile(harm, f"{name}.py", "exec")
    # Bytecode that says it need not be compared with its source.
    content = importlib._bootstrap_external._code_to_hash_pyc(code, b"\0" * 8, checked=False)  # type: ignore[attr-defined]
    compiled = Path(importlib.util.cache_from_source(str(folder / "agent" / f"{name}.py")))
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(content)
    monkeypatch.chdir(here)
    assert ask(folder)["tasks"] == []
    assert not marker.exists()
    assert sorted(path.name for path in compiled.parent.iterdir()) == [compiled.name]  # and none is left there


def test_agents_of_other_versions_and_halves_of_them_go(tmp_path: Path) -> None:
    folder = tmp_path / "kept" / "agent"
    folder.mkdir(parents=True)
    old = [f"agent_{'0' * 64}.py", f"agent_{'1' * 64}.py.4711"]
    kept = [f"agent_{'2' * 64}.py", "mine.txt", f"agent_{'3' * 64}"]
    (folder / kept[2]).mkdir()
    for name in (*old, *kept[:2]):
        (folder / name).write_text("")
    for name in (*old, *kept[1:]):
        os.utime(folder / name, (1, 1))
    ask(tmp_path / "kept")
    assert sorted(os.listdir(folder)) == sorted([f"agent_{hashlib.sha256(agent_source()).hexdigest()}.py", *kept])


def test_over_ssh_too(sshd: Any, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with (
        connect(sshd.device(home=tmp_path / "open" / "kept")) as connection,
        pytest.raises(RefusedError, match="can be written by everybody"),
    ):
        connection.ask("facts")
    assert not list((tmp_path / "open").iterdir())


def test_a_command_line_that_small_servers_take() -> None:
    assert len(BOOT) < 6000  # dropbear takes 9,000 characters, of which the folder's path needs some
    assert "'" in BOOT
    assert '"' not in BOOT


def test_words_for_people_are_not_sent() -> None:
    source = zlib.decompress(b64decode(BOOT.split("b64decode('")[1].split("'")[0])).decode()
    assert "StrictModes" not in source
    assert subprocess.run([sys.executable, "-c", f"compile({source!r}, 'boot', 'exec')"], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["full", "read-only", "forbidden", "unsafe", "missing", "no-program", "else"])
def test_this_machine_has_no_profile_to_name_another_folder_in(kind: str, tmp_path: Path) -> None:
    here = str(refusal(load_device("local"), kind, "/proc/.local").hint)
    there = str(refusal(load_device("pi-4b"), kind, "/proc/.local").hint)
    assert "set XDG_DATA_HOME to a folder that can be written" in here
    assert "profile" not in here
    assert "folder in [connection] of the device's profile" in there
