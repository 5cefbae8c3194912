#!/usr/bin/env python3
"""An emulated 64-bit Raspberry Pi behind a real sshd on the loopback interface.

What `build.sh` has built is entered by sshd's ChrootDirectory, so shell, commands and Python run as aarch64 by
qemu-user, as the user ``pi``, with 512 MB of memory where the machine has memory cgroups. It computes what a Pi
computes; **its times mean nothing**.

    tests/arm64/pi.py FOLDER [--home DIR] [--profile FILE.toml]

starts one by hand, writes a device profile for it, and serves until Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

MEMORY_MIB = 512
# Without it int8 TFLite gives wrong results, and fp32 is ten times slower.
CPU = "cortex-a72"
SSHD = "/usr/sbin/sshd"
CGROUPS = Path("/sys/fs/cgroup")
USER, UID = "pi", 1000

CPUINFO = (
    "".join(
        f"processor\t: {core}\nBogoMIPS\t: 108.00\n"
        "Features\t: fp asimd evtstrm crc32 cpuid\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
        for core in range(4)
    )
    + "Revision\t: c03111\nSerial\t\t: 0000000000000000\nModel\t\t: Raspberry Pi 4 Model B Rev 1.1 (emulated)\n"
)
MEMINFO = f"MemTotal:       {MEMORY_MIB * 1024} kB\nMemFree:        {MEMORY_MIB * 768} kB\n" + (
    f"MemAvailable:   {MEMORY_MIB * 768} kB\nSwapTotal:             0 kB\nSwapFree:              0 kB\n"
)
# The host's own /sys makes ONNX Runtime crash when it is imported: it believes what it says of the processor.
SYS = {
    "devices/system/cpu/possible": "0-3",
    "devices/system/cpu/present": "0-3",
    "devices/system/cpu/online": "0-3",
    "devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand",
    "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000",
    "class/thermal/thermal_zone0/type": "cpu-thermal",
    "class/thermal/thermal_zone0/temp": "48312",
    "firmware/devicetree/base/model": "Raspberry Pi 4 Model B Rev 1.1 (emulated)",
}

# In a mount namespace of its own: nothing of this is seen outside, and all of it goes with the last process.
START = """
set -e
own=$1 root=$2 home=$3
mount --make-rprivate /
mount --bind "$root" "$own/root"
mount -t proc proc "$own/root/proc"
mount --bind "$own/cpuinfo" "$own/root/proc/cpuinfo"
mount --bind "$own/meminfo" "$own/root/proc/meminfo"
mount --bind -o ro "$own/sys" "$own/root/sys"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$own/root/tmp"
mount --bind "$home" "$own/root/home/pi"
mount -t tmpfs -o size=64k,mode=755 tmpfs "$own/root/dev"
for name in null zero random urandom; do
    touch "$own/root/dev/$name"
    mount --bind "/dev/$name" "$own/root/dev/$name"
done
mkdir "$own/root/dev/shm"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$own/root/dev/shm"
for name in passwd group shadow; do
    mount --bind "$own/$name" "/etc/$name"
    mount --bind "$own/$name" "$own/root/etc/$name"
done
exec "$4" -D -e -f "$own/sshd_config"
"""


class CannotStartError(Exception):
    """It cannot be started on this machine; why is the message."""


@dataclass
class Pi:
    """A running one.

    Attributes:
        folder: Keys, configuration and logs; ``config`` is for ``ssh -F``.
        port: At 127.0.0.1.
        limit: How its memory is limited, in words.
        process: That holds it all.
    """

    folder: Path
    port: int
    limit: str
    process: subprocess.Popen[bytes]

    @property
    def profile(self) -> str:
        """A device profile in TOML."""
        return (
            'extends = "pi-4b"\n'
            'title = "emulated Raspberry Pi 4B, 512 MB"\n'
            "emulated = true\n"
            f"memory_mib = [{MEMORY_MIB}]\n"
            "[connection]\n"
            'host = "emulated-pi"\n'
            f'ssh_config = "{self.folder}/config"\n'
            "silence_timeout_s = 60\n"
        )


@contextlib.contextmanager
def running_pi(built: Path, home: Path | None = None, memory_mib: int = MEMORY_MIB) -> Iterator[Pi]:
    """Start an emulated Pi.

    Args:
        built: The folder that `build.sh` was given.
        home: Its home folder, to be kept; by default an empty one that goes with it.
        memory_mib: Its memory.

    Raises:
        CannotStartError: It is not built, or this machine does not allow what it takes.
    """
    root = (built / "rootfs").absolute()
    if not (root / "etc/edgespa-arm64").is_file():
        raise CannotStartError(f"{root} is not there: make device-arm64")
    if os.geteuid():
        raise CannotStartError("it takes root (chroot, mount)")
    # sshd wants every folder above a ChrootDirectory to belong to root alone: not /tmp.
    with tempfile.TemporaryDirectory(prefix="edgespa-pi-", dir="/run", ignore_cleanup_errors=True) as name:
        own = Path(name)
        own.chmod(0o755)
        port = _write(own)
        (root / "home/pi").mkdir(parents=True, exist_ok=True)
        there = (home or own / "home").absolute()
        there.mkdir(parents=True, exist_ok=True)
        os.chown(there, UID, UID)
        Path("/run/sshd").mkdir(exist_ok=True)
        # All of it ends with this process, however that ends.
        command = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "bash",
            "-c",
            START,
            "pi",
        ]
        with (own / "log").open("wb") as log, _limited(memory_mib) as (enter, limit):
            process = subprocess.Popen(
                [*command, str(own), str(root), str(there), SSHD],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=enter,
                start_new_session=True,
            )
            pi = Pi(own, port, limit, process)
            try:
                _wait(pi)
                yield pi
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                time.sleep(0.2)  # the kernel takes a moment to end what was in the namespace


def _write(own: Path) -> int:
    """Keys, configuration and the small files of the board; the port."""
    for folder in ("root", "sys"):
        (own / folder).mkdir()
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(own / key)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    public = " ".join((own / "host_key.pub").read_text().split()[:2])
    files = {
        "cpuinfo": CPUINFO,
        "meminfo": MEMINFO,
        "passwd": "root:x:0:0:root:/root:/bin/bash\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
        f"{USER}:x:{UID}:{UID}::/home/pi:/bin/bash\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n",
        "group": f"root:x:0:\n{USER}:x:{UID}:\nnogroup:x:65534:\n",
        "shadow": f"root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n{USER}:*:19000:0:99999:7:::\n",
        "authorized_keys": (own / "user_key.pub").read_text(),
        "sshd_config": f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {own}/host_key\n"
        f"AuthorizedKeysFile {own}/authorized_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "UsePAM no\nStrictModes no\nPidFile none\nAllowUsers pi\n"
        f"ChrootDirectory {own}/root\nSetEnv QEMU_CPU={CPU}\n",
        "known_hosts": f"[127.0.0.1]:{port} {public}\n",
        "config": f"Host emulated-pi\n  HostName 127.0.0.1\n  Port {port}\n  User {USER}\n"
        f"  IdentityFile {own}/user_key\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {own}/known_hosts\n  GlobalKnownHostsFile /dev/null\n",
        **{f"sys/{name}": f"{text}\n" for name, text in SYS.items()},
    }
    for name, text in files.items():
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(text)
    (own / "authorized_keys").chmod(0o644)
    return port


@contextlib.contextmanager
def _limited(memory_mib: int) -> Iterator[tuple[object, str]]:
    """What a process has to call to be limited, and how that is done, in words."""
    amount = memory_mib << 20
    for parent, files in (
        (CGROUPS / "memory", {"memory.limit_in_bytes": amount}),
        (CGROUPS, {"memory.max": amount, "memory.swap.max": 0}),
    ):
        group = parent / f"edgespa-pi-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            for name, value in files.items():
                if name == "memory.swap.max" and not (group / name).exists():
                    continue
                (group / name).write_text(str(value))
        except OSError:
            group.rmdir()
            continue
        version = "v1" if "memory.limit_in_bytes" in files else "v2"
        enter = partial(_enter, group / "cgroup.procs")
        try:
            yield enter, f"cgroup {version}, {memory_mib} MiB"
        finally:
            for _ in range(50):
                try:
                    group.rmdir()
                    break
                except OSError:
                    time.sleep(0.1)
        return
    # RLIMIT_AS is no way out: the emulator itself reserves more addresses than any limit of use.
    yield None, "not limited: this machine has no memory cgroup that may be used"


def _enter(processes: Path) -> None:
    processes.write_text(str(os.getpid()))


def _wait(pi: Pi) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and pi.process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", pi.port), 1):
            return
        time.sleep(0.1)
    said = (pi.folder / "log").read_text(errors="replace").strip()
    raise CannotStartError(f"its sshd does not start: {said.splitlines()[-1] if said else 'it says nothing'}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve an emulated Raspberry Pi until Ctrl-C.")
    parser.add_argument("folder", type=Path, help="that build.sh was given")
    parser.add_argument("--home", type=Path, help="its home folder, to be kept")
    parser.add_argument("--profile", type=Path, help="a device profile to be written")
    parser.add_argument("--memory", type=int, default=MEMORY_MIB, metavar="MIB")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # the first is ignored where a shell has put it in the background
        signal.signal(number, signal.default_int_handler)
    try:
        with running_pi(options.folder, options.home, options.memory) as pi:
            sys.stdout.write(f"ssh -F {pi.folder}/config emulated-pi   (memory: {pi.limit})\n")
            sys.stdout.flush()
            if options.profile:
                options.profile.write_text(pi.profile)
            with contextlib.suppress(KeyboardInterrupt):
                pi.process.wait()
    except CannotStartError as error:
        sys.stderr.write(f"arm64: {error}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
