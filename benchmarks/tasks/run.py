"""Tasks other than classes, from training to the compacted exported file.

    make zoo    for detection: torchvision
    EDGESPA_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/tasks/run.py [TASK ...] [--only NAME ...]
    ... run.py --times        the files of all rows measured again, in turn, on a quiet machine
    ... run.py --table        the tables of README.md from results/rows.jsonl

Each row is one training on the training split, whose best epoch is chosen on the validation split, and one export; the
measure is that of each exported file on the test split, which nothing was chosen by. Time is the CPU time of one
inference with one thread, median of 30. What is there is not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent), str(HERE), str(ROOT)]

from nets import make_signals  # noqa: E402
from rows import Row, Rows, fill, table  # noqa: E402

from edgespa.system.files import write_whole  # noqa: E402

DATA = Path(os.environ.get("EDGESPA_DATA", ROOT.parent / "shared" / "data"))
OUT, RESULTS = HERE / "out", HERE / "results" / "rows.jsonl"
VARIANTS = ("onnx-fp32", "tflite-fp32", "onnx-int8", "tflite-int8")
RUNS, ROUNDS = 30, 10


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained, and how much of the MACs is left.

    Attributes:
        adapter: Options of `adapt`.
        density: Share of the MACs.
        peer: What the name of the network ends in that torch-pruning has cut beforehand, by magnitude and at once; it
            is trained whole, as long as the others.
        objective: One without labels, to learn by; measured is what the data say all the same.
        healed: Pruned by what the images say, and healed on them as long as the others are trained, instead of adapted.
    """

    adapter: tuple[str, ...]
    density: float
    peer: str = ""
    objective: str = ""
    healed: bool = False


FULL = ("--adapter", "full")
SETTINGS: dict[str, Setting] = (
    {"full 1": Setting(FULL, 1.0)}
    | {
        f"{name} {density:g}": Setting(words, density)
        for density in (0.5, 0.25)
        for name, words in {
            "full": FULL,
            "SPLoRA r8": ("--adapter", "splora", "--rank", "8"),
            "SPLoRA r32": ("--adapter", "splora", "--rank", "32"),
        }.items()
    }
    | {
        f"torch-pruning {density:g}": Setting(FULL, density, f"_{share}_by_the_peer")
        for density, share in ((0.5, "half"), (0.25, "quarter"))
    }
    | {
        f"{name} {density:g}": Setting(FULL, density, objective=objective)
        for density in (0.5, 0.25)
        for name, objective in (("labels", ""), ("match", "match"))
    }
    | {f"pruned and healed {density:g}": Setting((), density, healed=True) for density in (0.5, 0.25)}
)


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned.

    Attributes:
        network: A function of ``nets.py``, or ``FILE:NAME`` of another file here.
        data: With the splits ``train`` and ``test``.
        words: For `adapt`.
        measures: Their names in the manifest; the first decides.
        title: Of them.
        epochs: Of a training.
        objective: A file and name, as `network`, or what the data say.
        settings: Of `SETTINGS`.
        validation: There is a split ``val``; else a tenth of the training data chooses the epoch.
        augment: For `adapt`.
        exporting: For `export`.
        pruning: For `prune`.
        healing: For `heal`; as many passes over the images as the training has.
        before: A row that has to be there, whose task file the network is made of.
    """

    network: str
    data: str
    words: tuple[str, ...]
    measures: tuple[str, ...]
    title: str
    epochs: int
    objective: str = ""
    settings: tuple[str, ...] = tuple(name for name in SETTINGS if not name.startswith(("labels", "match", "pruned")))
    validation: bool = True
    augment: str = "flip,crop,colour"
    exporting: tuple[str, ...] = ()
    pruning: tuple[str, ...] = ()
    healing: tuple[str, ...] = ()
    before: tuple[str, str] | None = None


PIXELS = (
    "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--input-shape", "1,3,32,32", "--limit", "2000",
)  # fmt: skip
SERIES = Task(
    "nets.py:Convolutions",
    str(OUT / "signals.npz"),
    ("--input-shape", "1,2,128", "--batch-size", "32"),
    ("accuracy",),
    "accuracy",
    20,
    settings=("full 1", "full 0.5", "full 0.25"),
    augment="",
)
TASKS = {
    "segmentation": Task(
        "lraspp",
        f"{DATA}/camvid_240x180.zip",
        ("--input-shape", "1,3,96,128", "--mean", "0.5", "--std", "0.5", "--batch-size", "16"),
        ("miou",),
        "mIoU",
        30,
    ),
    "detection": Task(
        "ssdlite",
        f"{DATA}/bccd_voc.zip",
        ("--batch-size", "8", "--lr", "0.002"),
        ("map", "map50"),
        "mAP@50:95 / mAP@50",
        20,
    ),
    "yolo": Task(
        "yolo.py:Yolo",
        f"{DATA}/bccd_voc.zip",
        ("--input-shape", "1,3,320,320", "--mean", "0", "--std", "1", "--batch-size", "8", "--lr", "0.002"),
        ("map", "map50"),
        "mAP@50:95 / mAP@50",
        30,
        "yolo.py:Learn",
        ("full 1", "full 0.5"),
        exporting=("--int8-max-loss", "0.02"),
    ),
    "unlabelled-classes": Task(
        "models.py:resnet56",
        f"{DATA}/cifar10_jpeg.zip",
        PIXELS,
        ("accuracy",),
        "accuracy",
        6,
        settings=("labels 0.25", "match 0.25", "pruned and healed 0.25"),
        validation=False,
        augment="flip,crop",
        exporting=("--eval-limit", "2000"),
        pruning=PIXELS,
        healing=("--limit", "2000", "--steps", "169"),
    ),
    "unlabelled-detection": Task(
        "ssdlite_trained",
        f"{DATA}/bccd_voc.zip",
        ("--batch-size", "8", "--lr", "0.002"),
        ("map", "map50"),
        "mAP@50:95 / mAP@50",
        5,
        settings=("labels 0.5", "match 0.5", "pruned and healed 0.5"),
        healing=("--batch-size", "8", "--steps", "115"),
        before=("detection", "full 1"),
    ),
    "signals": SERIES,
    "signals-recurrent": dataclasses.replace(SERIES, network="nets.py:Recurrent"),
}
PATHS = os.pathsep.join(map(str, [ROOT, ROOT / ".zoo", os.environ.get("PEER_PACKAGES", "")]))


def edgespa(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "edgespa", *words, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": PATHS})
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def of_children() -> float:
    """CPU seconds of the processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Clock:
    """One file, opened, and the CPU time of its inferences."""

    def __init__(self, bundle: Path, variant: dict[str, Any]) -> None:
        import numpy as np

        from edgespa.device import runner

        self.model = runner.open_model(bundle, variant, 1, runner.import_runtime(variant["format"])[0])
        inputs = json.loads((bundle / "manifest.json").read_text())["inputs"]
        random, shapes = np.random.default_rng(0), [(1, *each["shape"][1:]) for each in inputs]
        self.feed = self.model.feed([random.standard_normal(shape, dtype="float32") for shape in shapes])
        self.times: list[float] = []

    def run(self, count: int) -> None:
        """So many inferences; the first finds the caches full of something else, and does not count."""
        for index in range(count + 1):
            began = time.process_time_ns()
            self.model.run(self.feed)
            if index:
                self.times.append((time.process_time_ns() - began) / 1e6)


def milliseconds(bundle: Path, variant: dict[str, Any]) -> float:
    """CPU time of one inference."""
    clock = Clock(bundle, variant)
    clock.run(RUNS)
    return statistics.median(clock.times)


def measure_again(rows: Rows) -> None:
    """The times of all files of a task, in turn: what else the machine did while one was made does not count."""
    for name in TASKS:
        clocks = {}
        for row in (each for each in rows.rows if each["task"] == name):
            bundle = place_of(name, row["setting"])
            for variant in json.loads((bundle / "manifest.json").read_text())["variants"]:
                clocks[row["setting"], variant["name"]] = Clock(bundle, variant)
        for _ in range(ROUNDS):
            for clock in clocks.values():
                clock.run(RUNS // ROUNDS)
        for row in rows.rows:
            for variant, own in row["files"].items() if row["task"] == name else ():
                own["milliseconds"] = statistics.median(clocks[row["setting"], variant].times)
    write_whole(rows.path, "".join(json.dumps(row) + "\n" for row in rows.rows).encode())


def place_of(name: str, setting: str) -> Path:
    """The bundle of a row; its task file lies beside it."""
    return OUT / name / setting.replace(" ", "-")


def task_of(place: Path) -> Path:
    """Not by a suffix, for it would be that of 0.5."""
    return place.parent / f"{place.name}.spa"


def learned(name: str, setting: str) -> Path:
    """The task file of a row."""
    what, how = TASKS[name], SETTINGS[setting]
    place = place_of(name, setting)
    task = task_of(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    if task.exists():
        return task
    if what.before is not None:
        learned(*what.before)
    network = what.network if ":" in what.network else f"nets.py:{what.network}{how.peer}"
    model = str((DATA if network.startswith("models.py") else HERE) / network)
    began = of_children()
    if how.healed:
        cut = place.parent / f"{place.name}.cut.spa"
        images = ("--calibration", f"{what.data}:train")
        if not cut.exists():
            edgespa(
                "prune", model, *what.pruning, *images, "--method", "asym-in-change", "--allocation", "knapsack",
                "--spare", "0.1", "--budget", "macs", "--density", str(how.density), "--output", str(cut),
            )  # fmt: skip
        edgespa("heal", str(cut), *images, *what.healing, "--trust", "--output", str(task))
        (place.parent / f"{place.name}.seconds").write_text(f"{of_children() - began:.1f}")
        return task
    objective = ("--objective", how.objective or f"{HERE}/{what.objective}") if how.objective or what.objective else ()
    chosen_on = ("--validation-data", f"{what.data}:val") if what.validation else ()
    judged = () if how.objective else ("--eval-data", f"{what.data}:test")
    augment = ("--augment", what.augment) if what.augment else ()
    edgespa(
        "adapt", model, *objective, "--data", f"{what.data}:train", *judged, *chosen_on, *what.words, *how.adapter,
        "--budget", "macs", "--density", "1" if how.peer else str(how.density), "--epochs", str(what.epochs),
        *augment, "--output", str(task),
    )  # fmt: skip
    (place.parent / f"{place.name}.seconds").write_text(f"{of_children() - began:.1f}")
    return task


def measured(name: str, setting: str) -> Row:
    """One row."""
    what, how = TASKS[name], SETTINGS[setting]
    task, bundle = learned(name, setting), place_of(name, setting)
    objective = ("--objective", f"{HERE}/{what.objective}") if what.objective else ()
    if how.objective or how.healed:
        objective = ("--objective", {"accuracy": "classes", "map": "detection"}[what.measures[0]])
    if not bundle.exists():
        edgespa(
            "export", str(task), *objective, "--precision", "fp32", "--precision", "int8", *what.exporting,
            "--calibration", f"{what.data}:train", "--eval-data", f"{what.data}:test", "--trust", "--output",
            str(bundle),
        )  # fmt: skip
    manifest = json.loads((bundle / "manifest.json").read_text())
    files = {
        each["name"]: {
            **values(each["accuracy"]),
            "bytes": each["size_bytes"],
            "milliseconds": milliseconds(bundle, each),
        }
        for each in manifest["variants"]
    }
    costs = manifest["compaction"]
    return {
        "epochs": what.epochs,
        "training_cpu_seconds": float((bundle.parent / f"{bundle.name}.seconds").read_text()),
        "program": values(manifest["reference_accuracy"]),
        "macs": how.density if how.peer else costs["macs"] / costs["base_macs"],
        "task_bytes": costs["task_size_bytes"],
        "files": files,
    }


def values(quality: dict[str, Any]) -> dict[str, float]:
    """All measures, by name."""
    return {quality["measure"]: quality["value"], **quality["others"]}


def lines(name: str, rows: list[Row]) -> list[list[str]]:
    """The rows of a task, as the table has them."""

    def figures(found: dict[str, float]) -> str:
        return " / ".join(f"{found[each]:.1%}" for each in TASKS[name].measures)

    def cell(files: dict[str, Any], variant: str) -> str:
        found = files.get(variant)
        if found is None:
            return "-"
        return f"{figures(found)}, {found['bytes'] / 1024:,.0f}, {found['milliseconds']:.2f}"

    return [
        [
            row["setting"],
            f"{row['macs']:.0%}",
            f"{row['task_bytes'] / 1024:,.0f}",
            figures(row["program"]),
            *(cell(row["files"], variant) for variant in VARIANTS),
            f"{row['training_cpu_seconds']:,.0f}"
            if row["training_cpu_seconds"] == row["training_cpu_seconds"]
            else "-",
        ]
        for row in rows
        if row["task"] == name
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], metavar="TASK")
    parser.add_argument("--only", action="append", choices=list(SETTINGS), metavar="NAME")
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    rows = Rows(RESULTS)
    if options.times:
        measure_again(rows)
    for name in () if options.table or options.times else options.tasks or TASKS:
        make_signals(OUT / "signals.npz")
        for setting in options.only or TASKS[name].settings:
            rows.get({"task": name, "setting": setting}, lambda name=name, setting=setting: measured(name, setting))
    parts = {}
    for name, what in TASKS.items():
        head = ["trained, MACs asked", "MACs", "task file KiB", f"program: {what.title}"]
        head += [f"{variant}: the same, KiB, ms" for variant in VARIANTS]
        parts[name] = table([*head, "training CPU s"], lines(name, rows.rows))
    fill(HERE / "README.md", parts)


if __name__ == "__main__":
    main()
