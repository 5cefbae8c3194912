"""Eight tasks over one base: a sweep beside single commands, and the same sweep on a Ray cluster of two nodes.

    python benchmarks/sweep/run.py data DATA WORK             images of eight tasks, and tasks.toml
    python benchmarks/sweep/run.py single WORK adapt|export   of each task, one command after the other
    python benchmarks/sweep/run.py local WORK OUT JOBS        the sweep, in processes
    python benchmarks/sweep/run.py ray WORK OUT [SECONDS]     on a cluster; after so long one of its two nodes is killed
    python benchmarks/sweep/run.py same WORK OUT OUT...       whether task files are the same, byte for byte
    python benchmarks/sweep/run.py costs WORK OUT             seconds of each stage

DATA is the folder with `models.py`, weights and `fashion/`. Each run has a cache of converted files of its own. An OUT
that begins with "alone" is of task files without bundles.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import numpy as np

import edgespa as es

TASKS = {
    "shirts": (0, 6), "legs": (1, 3), "coats": (2, 4), "open": (5, 7), "carried": (8, 9),
    "tops": (0, 2, 4, 6), "shoes": (5, 7, 9), "all": tuple(range(10)),
}  # fmt: skip
"""Classes of Fashion-MNIST."""
TRAIN, TEST = 100, 100
"""Images of each class."""
HEAD = """version = 1

[base]
model = "{model}:resnet20"
input-shape = "1,3,32,32"

[defaults]
density = 0.5
epochs = 2
batch-size = 32
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
precision = "fp32"
format = "onnx"
"""


def write(data: Path, work: Path) -> None:
    """The files of all tasks."""
    from edgespa.data.load import load_data

    work.mkdir(parents=True, exist_ok=True)
    text = HEAD.format(model=data / "models.py")
    sources = {split: load_data(f"{data / 'fashion'}:{split}") for split in ("train", "test")}
    for name, classes in TASKS.items():
        for split, count in (("train", TRAIN), ("test", TEST)):
            source = sources[split]
            given = np.asarray([int(each) for each in source.labels])
            rows = np.concatenate([np.flatnonzero(given == each)[:count] for each in classes])
            labels = np.repeat(np.arange(len(classes)), count)
            images = np.stack([np.asarray(source.image(int(row))) for row in rows])
            np.savez(work / f"{name}-{split}.npz", images=images, labels=labels)
        text += f'\n[tasks.{name}]\ndata = "{name}-train.npz"\neval-data = "{name}-test.npz"\n'
    (work / "tasks.toml").write_text(text)
    (work / "alone.toml").write_text(text.replace("[defaults]", "[defaults]\nexport = false"))


def file_of(work: Path, out: str) -> Path:
    return work / ("alone.toml" if out.startswith("alone") else "tasks.toml")


def environment(work: Path, name: str) -> dict[str, str]:
    return {**os.environ, "EDGESPA_CACHE": str(work / f"cache-{name}")}


def told(text: str) -> None:
    sys.stdout.write(f"{text}   (load {os.getloadavg()[0]:.1f})\n")
    sys.stdout.flush()


def single(work: Path, what: str) -> None:
    """Each task by a command, and the unpruned network too where bundles are made."""
    found = tomllib.loads((work / "tasks.toml").read_text())
    model = ["--input-shape", found["base"]["input-shape"]]
    pixels = [f"--{name}={','.join(map(str, found['defaults'][name]))}" for name in ("mean", "std")]
    (work / "single").mkdir(exist_ok=True)
    seconds = {}

    def run(name: str, *words: str) -> None:
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "edgespa", *words], check=True, env=environment(work, "single"))
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began
        told(f"{name}: {seconds[name]:.1f} s")

    form = ["--format", "onnx", "--precision", "fp32", "--overwrite"]
    spec = found["base"]["model"]
    first = next(iter(found["tasks"].values()))
    images = ["--calibration", str(work / first["data"])]
    if what == "export":
        run("base", "export", spec, *model, *pixels, *images, *form, "-o", str(work / "single/base"))
    for name, task in found["tasks"].items():
        path, train, test = work / f"single/{name}.spa", str(work / task["data"]), str(work / task["eval-data"])
        how = ["--density", "0.5", "--epochs", "2", "--batch-size", "32", "--overwrite"]
        if what == "adapt":
            run(name, "adapt", spec, *model, *pixels, "--data", train, "--eval-data", test, *how, "-o", str(path))
        else:
            more = ["--calibration", train, "--eval-data", test, "--trust"]
            run(name, "export", str(path), *pixels, *more, *form, "-o", str(work / f"single/{name}"))
    told(f"together {sum(seconds.values()):.1f} s")


def local(work: Path, out: str, jobs: int) -> None:
    """The sweep, a second time, and what the second found to do."""
    line = [sys.executable, "-m", "edgespa", "sweep", str(file_of(work, out)), "-o", str(work / out), "--trust"]
    for _ in range(2):
        began = time.monotonic()
        subprocess.run([*line, "--jobs", str(jobs)], check=True, env=environment(work, out))
        told(f"{time.monotonic() - began:.1f} s")


def on_ray(work: Path, out: str, seconds: float | None) -> None:
    """The sweep on two nodes of one core; one of them is killed after some seconds."""
    os.environ.update(environment(work, out))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    try:
        if seconds is not None:

            def kill() -> None:
                told(
                    f"a node is killed after {seconds:g} s: {sorted(p.stem for p in (work / out / 'tasks').iterdir())}"
                )
                cluster.remove_node(second, allow_graceful=False)

            threading.Timer(seconds, kill).start()
        began = time.monotonic()
        found = es.sweep(file_of(work, out), output=work / out, ray=cluster.address, trust=True, progress=shown)
        told(f"{found}\n{time.monotonic() - began:.1f} s")
    finally:
        cluster.shutdown()


def shown(done: float, total: float | None, text: str) -> None:
    told(f"  {done:g} of {total}  {text}")


def same(work: Path, *outs: str) -> None:
    """Whether the task files of some runs say the same, but for when they were written, and the seal."""
    from edgespa.tasks.task import Task

    for name in TASKS:
        files = [Task.load(work / out / "tasks" / f"{name}.spa") for out in outs]
        then = {"created": files[0].header.created}
        content = {type(each)(each.header.model_copy(update=then), each.kept, each.adapters, each.tensors, each.shared)
                   .to_bytes() for each in files}  # fmt: skip
        told(f"{name}: {'the same' if len(content) == 1 else 'NOT THE SAME'}")


def costs(work: Path, out: str) -> None:
    """What stages took, by their notes, in seconds."""
    for stage in ("task", "bundle"):
        notes = [json.loads(each.read_text()) for each in sorted((work / out / "stages").glob(f"*/{stage}.json"))]
        found = sorted(each["found"]["seconds"] for each in notes)
        if not found:
            continue  # of runs without bundles
        told(f"{stage}: {len(found)}, median {np.median(found):.1f}, from {found[0]:.1f} to {found[-1]:.1f} s")


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "data":
        write(Path(rest[0]).absolute(), Path(rest[1]).absolute())
    else:
        place = Path(rest[0]).absolute()
        if what == "single":
            single(place, rest[1])
        elif what == "local":
            local(place, rest[1], int(rest[2]))
        elif what == "ray":
            on_ray(place, rest[1], float(rest[2]) if rest[2:] else None)
        elif what == "same":
            same(place, *rest[1:])
        else:
            costs(place, rest[1])
