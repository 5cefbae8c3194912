"""Bytes and seconds of shipping: whole bundles and tasks on a base that is there, over loopback and an emulated Pi.

    python benchmarks/ship/run.py [--link loopback|emulated] [--pi FOLDER] [--data FOLDER]
    python benchmarks/ship/run.py --table

Two tasks of ResNet-56 (SPLoRA of rank 8, 40% of the channels, one short epoch: what they answer does not matter here),
each as a bundle of one float32 ONNX file and as a task file. Every device begins empty.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import ROOT, add, pi, rows, sshd

NAME = "bytes.jsonl"
SHAPE = (1, 3, 32, 32)


def make(data: Path, place: Path) -> dict[str, Path]:
    """Two tasks and their bundles."""
    from edgespa.adaptation.config import AdaptConfig
    from edgespa.api.bundles import export_bundle
    from edgespa.api.options import DataOptions
    from edgespa.api.tasks import adapt_to_file
    from edgespa.exporting.config import ExportConfig

    made = {}
    for number, name in enumerate(("first", "second")):
        task = place / f"{name}.spa"
        if not task.exists():
            adapt_to_file(
                f"{data / 'models.py'}:resnet56",
                f"{data / 'fashion'}:train",
                task,
                AdaptConfig(rank=8, density=0.4, epochs=1, prune_steps=3, seed=number),
                input_shape=SHAPE,
                options=DataOptions(limit=256, seed=number),
            )
        bundle = place / name
        if not bundle.exists():
            export_bundle(str(task), bundle, ExportConfig(formats=("onnx",)))
        made |= {f"{name}.spa": task, name: bundle}
    return made


def ship_all(link: str, connection: Any, python: Callable[[Any], list[str]], made: dict[str, Path]) -> None:
    from edgespa.api.shipping import prepared
    from edgespa.device.shipment.ship import ship

    steps = (
        ("bundle, the first one there", "first", "net", False),
        ("bundle, another version", "second", "net", False),
        ("task and its base, the first one there", "first.spa", "on-base", True),
        ("task, another version", "second.spa", "on-base", False),
        ("the same task again", "second.spa", "on-base", False),
    )
    for what, source, task, base in steps:
        began = time.monotonic()
        with prepared(made[source], task=task) as shipment:
            ready = time.monotonic() - began
            done = ship(connection, shipment, python, send_base=base)
            weights = shipment.needs
            sizes = {path: each.size_bytes for path, each in shipment.files.items()}
        add(
            NAME,
            {
                "link": link,
                "what": what,
                "bytes_sent": done.bytes_sent,
                "bytes_there": done.bytes_there,
                "seconds": done.seconds,
                "prepare_seconds": ready,
                "relative_error": done.checks[0].relative_error,
                "base_bytes": weights.base_size_bytes if weights else None,
                "sizes": sizes,
                "load": os.getloadavg()[0],
            },
        )
        print(f"{link}: {what}: {done.bytes_sent:,} bytes, {done.seconds:.1f} s", file=sys.stderr, flush=True)


def table() -> str:
    lines = ["| link | what | sent, bytes | there already | seconds | load |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows(NAME):
        seconds = f"{row['seconds']:.1f}" + (" (emulated)" if row["link"] == "emulated" else "")
        lines.append(
            f"| {row['link']} | {row['what']} | {row['bytes_sent']:,} | {row['bytes_there']:,} | {seconds} "
            f"| {row['load']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--link", choices=("loopback", "emulated"), action="append")
    parser.add_argument("--pi", type=Path, default=ROOT / ".device-arm64", help="built by make device-arm64")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EDGESPA_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, help="where tasks and bundles stay for another run")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table())
        return
    from edgespa.device.board import load_device
    from edgespa.device.inventory import read_facts, runtime_python
    from edgespa.device.link.reach import connect
    from edgespa.device.provision.setup import set_up

    def python(connection: Any) -> list[str]:
        return runtime_python(connection, read_facts(connection))

    with tempfile.TemporaryDirectory() as temporary:
        place = options.work or Path(temporary)
        place.mkdir(exist_ok=True)
        made = make(options.data, place)
        for link in options.link or ("loopback", "emulated"):
            if link == "loopback":
                with sshd.running_sshd() as server, connect(server.device()) as connection:
                    ship_all(link, connection, lambda _: [sys.executable, "-P"], made)
            else:
                with pi.running_pi(options.pi) as running:
                    profile = Path(temporary) / "emulated-pi.toml"
                    profile.write_text(running.profile)
                    with connect(load_device(str(profile))) as connection:
                        set_up(connection)
                        ship_all(link, connection, python, made)


if __name__ == "__main__":
    main()
