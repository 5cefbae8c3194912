"""Faults while shipping, each really tried over a real sshd on loopback, and what was lost.

    python benchmarks/ship/faults.py            try all of them (about two minutes; root for full and read-only disks)
    python benchmarks/ship/faults.py --table

Version 1 of a task is in use. Version 2 is shipped, and something goes wrong. Then: is version 1 still in use, and does
it pass its self-check, run as a user of the device would run it? Does the next try succeed, and is nothing left over?
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, ROOT, add, loaded, rows, sshd

NAME = "faults.jsonl"
Ship = Callable[..., Any]


class Case:
    """A device with version 1 in use, and version 2 ready.

    Args:
        server: The sshd.
        place: For both sides.
        home: Where edgespa keeps things on the far side.
    """

    def __init__(self, server: Any, place: Path, home: Path | None = None) -> None:
        self.server, self.place, self.home = server, place, home or place / "far"
        self.bundles = {number: bundle(place / f"v{number}", number) for number in (1, 2)}
        self.old = self.ship(1).version

    def connected(self, **connection: Any) -> Any:
        from edgespa.device.link.reach import connect

        return connect(self.server.device(home=self.home, **connection))

    def ship(
        self, number: int, *, progress: Any = None, python: Any = None, hook: Any = None, **connection: Any
    ) -> Any:
        from edgespa.bundle import open_bundle
        from edgespa.device.shipment.ship import Shipment, ship

        with open_bundle(self.bundles[number]) as opened, self.connected(**connection) as there:
            if hook is not None:
                there.ask = hook(there.ask)
            shipment = Shipment.of(opened, task="net")
            return ship(there, shipment, python or (lambda _: [sys.executable, "-P"]), progress=progress)

    @property
    def in_use(self) -> str | None:
        link = self.home / "tasks/net/current"
        return os.readlink(link) if link.is_symlink() else None

    def answers(self) -> bool:
        runner = self.home / "tasks/net/current/run.py"
        return subprocess.run([sys.executable, str(runner), "--selfcheck"], capture_output=True).returncode == 0

    def left(self) -> list[str]:
        """What is there that belongs to no version."""
        folder = self.home / "tasks/net"
        names = {path.name for path in folder.iterdir() if path.is_dir() and not path.is_symlink()}
        known = {"current", *names, *(f"{name}.json" for name in names if not name.startswith("."))}
        there = [path.name for path in folder.iterdir() if path.suffix != ".link"]  # those are to go back by
        odd = [name for name in there if name not in known or name.startswith(".")]
        odd += [name for name in names if not (folder / f"{name}.json").exists()]
        return odd + [path.name for path in (self.home / "cache").glob("*.part")]


def bundle(path: Path, number: int) -> Path:
    """A network of a linear layer with a megabyte beside it, other values in each."""
    import onnx

    tiny = loaded("bench_bundles", ROOT / "tests" / "device" / "conftest.py")
    model = onnx.load_from_string(tiny.onnx_bytes())
    model.graph.node.append(onnx.helper.make_node("Identity", ["spare"], ["unused"]))
    values = np.random.default_rng(number).standard_normal(250_000).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "spare"))
    return Path(tiny.write_bundle(path, onnx=model.SerializeToString()))


def half_way(action: Callable[[], Any]) -> Callable[[int, int], None]:
    done: list[int] = []

    def sending(sent: int, total: int) -> None:
        if sent > total // 2 and not done:
            done.append(sent)
            action()

    return sending


def is_at(moment: str, command: str, arguments: Any) -> bool:
    """Whether a command is the one that is meant: runtimes are looked for by an execution too."""
    return command == moment and (moment != "execute" or "--selfcheck" in arguments[0]["argv"])


def rebooted_at(case: Case, moment: str, after: float = 0.0) -> Callable[[Any], Any]:
    """The device is gone from the moment on that a command is sent, or a little later."""
    from edgespa.errors import UnreachableError

    def hook(ask: Any) -> Any:
        gone: list[str] = []

        def asked(command: str, *arguments: Any, **options: Any) -> Any:
            if gone:
                raise UnreachableError("no route to host")
            if not is_at(moment, command, arguments):
                return ask(command, *arguments, **options)
            gone.append(command)
            if after:
                threading.Timer(after, case.server.reboot, (case.home,)).start()
                return ask(command, *arguments, **options)
            case.server.reboot(case.home)
            raise UnreachableError("no route to host")

        return asked

    return hook


def interrupted_at(moment: str) -> Callable[[Any], Any]:
    def hook(ask: Any) -> Any:
        def asked(command: str, *arguments: Any, **options: Any) -> Any:
            if is_at(moment, command, arguments):
                raise KeyboardInterrupt
            return ask(command, *arguments, **options)

        return asked

    return hook


def cut(case: Case) -> None:
    case.ship(2, progress=half_way(case.server.cut))


def hang(case: Case) -> None:
    try:
        case.ship(2, progress=half_way(lambda: case.server.signal_sessions(signal.SIGSTOP)), silence_timeout_s=5)
    finally:
        case.server.signal_sessions(signal.SIGCONT)
        case.server.cut()


def two_at_once(case: Case) -> None:
    with case.connected() as other, other.lock("ship", "edgespa ship of net"):
        case.ship(2)


def damaged_here(case: Case) -> None:
    path = case.bundles[2] / "model.onnx"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        case.ship(2)
    finally:
        path.write_bytes(good)


def damaged_on_the_way(case: Case) -> None:
    """A byte of what has been received changes on the device's disk before it is used."""

    def hook(ask: Any) -> Any:
        done: list[bool] = []

        def asked(command: str, *arguments: Any, **options: Any) -> Any:
            if command == "stage" and not done:
                done.append(True)
                path = max((case.home / "cache").iterdir(), key=lambda each: each.stat().st_mtime)
                path.chmod(0o644)
                content = bytearray(path.read_bytes())
                content[len(content) // 2] ^= 1
                path.write_bytes(content)
            return ask(command, *arguments, **options)

        return asked

    case.ship(2, hook=hook)


def wrong_answers(case: Case) -> None:
    tiny = loaded("bench_bundles", ROOT / "tests" / "device" / "conftest.py")
    weight = tiny.WEIGHT.copy()
    weight[1, 17] += 0.5
    good = case.bundles[2]
    case.bundles[2] = Path(tiny.write_bundle(case.place / "wrong", onnx=tiny.onnx_bytes(weight)))
    try:
        case.ship(2)
    finally:
        case.bundles[2] = good


def wrong_signature(case: Case) -> None:
    from edgespa.bundle import Signer, open_bundle, sign_bundle

    for name in ("mine", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(case.place / name)], check=True)
    signers = case.place / "signers"
    signers.write_text(f"me {(case.place / 'mine.pub').read_text()}")
    sign_bundle(case.bundles[2], Signer.open(case.place / "other"))
    with open_bundle(case.bundles[2], signers=signers):
        raise AssertionError("it was taken")


def no_runtime(case: Case) -> None:
    case.ship(2, python=lambda _: [sys.executable, "-I", "-S"])


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, leave: int) -> Path:
    filler = place / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(place).free - leave)))
    return filler


FAULTS: dict[str, Callable[[Case], Any]] = {
    "connection cut in the middle of a file": cut,
    "device hangs in the middle of a file": hang,
    "reboot before the version is made": lambda case: case.ship(2, hook=rebooted_at(case, "stage")),
    "reboot during the self-check": lambda case: case.ship(2, hook=rebooted_at(case, "execute", 0.3)),
    "reboot between the self-check and the switch": lambda case: (
        case.ship(2, hook=rebooted_at(case, "switch")) and None
    ),
    "Ctrl-C before the self-check": lambda case: case.ship(2, hook=interrupted_at("execute")),
    "two shippers at once": two_at_once,
    "a file of the bundle damaged here": damaged_here,
    "a file damaged on the device's disk": damaged_on_the_way,
    "wrong signature": wrong_signature,
    "a model that answers wrongly there": wrong_answers,
    "a device without runtimes": no_runtime,
}
DISKS = ("disk full from the beginning", "disk that fills up while files come", "disk that became read-only")


def on_a_disk(case: Case, place: Path, what: str) -> None:
    if what == DISKS[0]:
        filler = fill(place, 8 << 20)
        try:
            case.ship(2)
        finally:
            filler.unlink()
    elif what == DISKS[1]:
        try:
            case.ship(2, progress=half_way(lambda: fill(place, 0)))
        finally:
            (place / "filler").unlink(missing_ok=True)
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        try:
            case.ship(2)
        finally:
            subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)


def tried(what: str, case: Case, fault: Callable[[], Any]) -> dict[str, Any]:
    """Let it happen; what was said, what is in use, and whether the next try succeeds."""
    said = "nothing: it was mended at once"
    try:
        fault()
    except KeyboardInterrupt:
        said = "(interrupted)"
    except Exception as error:
        message = getattr(error, "message", None)
        if message is None:
            traceback.print_exc()
        said = f"{type(error).__name__}: {str(message or error).splitlines()[0]}"
    after, passes = case.in_use, case.answers()
    again = case.ship(2)
    return {
        "fault": what,
        "said": said.replace(str(case.place), "..."),
        "old_in_use": after == case.old,
        "in_use_passes": passes,
        "next_try": case.in_use == again.version != case.old and case.answers(),
        "left_over": case.left(),
        "sent_again": again.bytes_sent,
    }


def table() -> str:
    lines = ["| fault | said | in use afterwards | lost | next try |", "| --- | --- | --- | --- | --- |"]
    for row in rows(NAME):
        used = "the old version" if row["old_in_use"] else "the new version"
        kept = row["in_use_passes"] and not row["left_over"]
        said = row["said"].replace("|", "/")
        said = said if len(said) <= 150 else said[:147] + "..."
        lines.append(
            f"| {row['fault']} | {said} | {used}, passes its self-check: {'yes' if row['in_use_passes'] else 'NO'} "
            f"| {'nothing' if kept else 'SOMETHING'} | {'done' if row['next_try'] else 'FAILED'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    if parser.parse_args().table:
        print(table())
        return
    (RESULTS / NAME).unlink(missing_ok=True)
    for what in (*FAULTS, *DISKS):
        with (
            tempfile.TemporaryDirectory(prefix="faults-") as name,
            sshd.running_sshd() as server,
            contextlib.ExitStack() as stack,
        ):
            place = Path(name)
            if what in FAULTS:
                case = Case(server, place)
                row = tried(what, case, partial(FAULTS[what], case))
            else:
                disk = stack.enter_context(mounted(place / "disk", "size=24m"))
                case = Case(server, place, disk / "edgespa")
                row = tried(what, case, partial(on_a_disk, case, disk, what))
        add(NAME, row)
        print(table().splitlines()[-1], file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
