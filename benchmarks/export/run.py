"""What exported files cost and give, beside the converters called directly.

    make zoo
    .venv/bin/python -m pip install --no-deps --target .peer-slim onnxslim==0.1.98
    EDGESPA_DATA=../shared/data OMP_NUM_THREADS=1 PYTHONPATH=.zoo:.peer-slim python benchmarks/export/run.py \
        [--network NAME ...] [--output FOLDER]
    python benchmarks/export/run.py --table        the tables of README.md from rows.jsonl beside it

One process makes all files of one network at one density by one way; its seconds for each file and its peak memory are
recorded. Ways: ``edgespa onnx`` and ``edgespa tflite`` (all precisions, proof included); ``direct onnx``:
``torch.onnx.export`` (dynamo, opset 20) + ``onnxsim``, the same + ``onnxslim``, ``quantize_static`` (QDQ, per channel,
its defaults) on the former; ``direct tflite``: ``litert_torch.convert`` with channels-last input, and
``ai_edge_quantizer``'s ``static_wi8_ai8`` on it.

Latency is the CPU time of one inference with one thread: the files of a network, all ways, are run in turns, in another
order each time and each twice, of which the second counts (the first fills the processor's caches again); the median.
``against`` holds, for each file of another tool with the same format and precision, the quartiles of ours / theirs over
the turns. One row per file in ``FOLDER/rows.jsonl``; what is there is not made again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "zoo"), str(HERE.parent), str(HERE.parents[1])]
SIDE = 224
NETWORKS = {
    "ResNet-56": ("DATA/models.py:resnet56", 32, None),
    "MobileNetV2": ("DATA/models.py:mobilenet_v2", SIDE, None),
    "ViT-tiny": ("timm:vit_tiny_patch16_224", SIDE, "random"),
    "EfficientNet-B0": (f"{HERE}/nets.py:efficientnet_b0", SIDE, None),
    "ConvNeXt-Tiny": (f"{HERE}/nets.py:convnext_tiny", SIDE, None),
}
DENSITIES = (1.0, 0.5)
WAYS = ("edgespa onnx", "direct onnx", "edgespa tflite", "direct tflite")
PRECISIONS = ("fp32", "fp16", "int8", "int8-weights")
IMAGES, RUNS = 64, 31

Row = dict[str, Any]


def the_program(name: str, density: float) -> tuple[Any, Any]:
    """A network, whole or with half of its MACs, and calibration images."""
    import torch
    from nets import DATA, images_of
    from networks import import_torchvision

    from edgespa.pruning import PruneConfig, prune
    from edgespa.tasks.base import Base

    import_torchvision()
    torch.manual_seed(0)
    spec, side, weights = NETWORKS[name]
    base = Base.open(spec.replace("DATA", str(DATA)), (1, 3, side, side), weights)
    images = images_of(side)
    program = base.program
    if density < 1:
        config = PruneConfig.parse({"density": density, "budget": "macs", "method": "l1"}, "benchmark")
        program = prune(base, config, HERE).program(base)
    return program, images


def by_edgespa(kind: str, program: Any, images: Any, folder: Path) -> list[Row]:
    """All precisions, by the export itself."""
    from edgespa.bundle import Base as BaseEntry
    from edgespa.bundle import Compaction
    from edgespa.exporting.bundle import export
    from edgespa.exporting.config import ExportConfig, Origin

    origin = Origin(
        "x", BaseEntry(spec="x:x", digest="x"), Compaction(parameters=1, macs=1, base_parameters=1, base_macs=1)
    )
    config = ExportConfig(formats=(kind,), precisions=PRECISIONS, cache=False, threads=1)
    marks: list[tuple[str, float]] = []

    def told(done: float, total: float | None, text: str) -> None:
        del done, total
        marks.append((text, time.perf_counter()))

    manifest = export(program, origin, config, folder / "bundle", calibration=images, overwrite=True, progress=told)
    marks.append(("end", time.perf_counter()))
    rows = []
    for variant in manifest.variants:
        spent = sum(
            end - begin
            for (text, begin), (_, end) in itertools.pairwise(marks)
            if text.startswith(f"{kind} {variant.precision}:")
        )
        rows.append(
            {
                "file": str(folder / "bundle" / variant.file),
                "precision": variant.precision,
                "seconds": spent,
                "float_layers": len(variant.float_layers),
                "calibration": variant.calibration,
            }
        )
    left_out = manifest.provenance.get("left_out", [])
    assert isinstance(left_out, list)
    return [*rows, *({"left_out": each["reason"], "precision": each["variant"]} for each in left_out)]  # type: ignore[index,call-overload]


def directly_to_onnx(program: Any, images: Any, folder: Path) -> list[Row]:
    """torch.onnx.export, onnxsim, onnxslim, quantize_static, as their documentation shows them."""
    import onnx
    import onnxsim
    import onnxslim
    import torch
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    began = time.perf_counter()
    free = {0: torch.export.Dim("batch")}
    exported = torch.onnx.export(
        program.module,
        program.example_inputs(),
        dynamo=True,
        opset_version=20,
        external_data=False,
        dynamic_shapes=(free,),
        input_names=["input"],
        output_names=["output"],
        verbose=False,
    )
    raw = exported.model_proto
    export_s = time.perf_counter() - began
    rows: list[Row] = []

    def kept(tool: str, precision: str, make: Callable[[Path], None], before: float) -> Path:
        path, start = folder / f"{tool}.onnx", time.perf_counter()
        make(path)
        seconds = before + time.perf_counter() - start
        rows.append({"file": str(path), "tool": tool, "precision": precision, "seconds": seconds})
        return path

    plain = kept("onnxsim", "fp32", lambda path: onnx.save(onnxsim.simplify(raw)[0], path), export_s)
    kept("onnxslim", "fp32", lambda path: onnx.save(onnxslim.slim(raw), path), export_s)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter({"input": images.tensor([index]).numpy()} for index in range(IMAGES))

        def get_next(self) -> Any:
            return next(self.feeds, None)

    kept(
        "quantize_static",
        "int8",
        lambda path: quantize_static(plain, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True),
        rows[0]["seconds"],
    )
    return rows


def directly_to_tflite(program: Any, images: Any, folder: Path) -> list[Row]:
    """litert_torch.convert and ai_edge_quantizer, as their documentation shows them."""
    import litert_torch
    import numpy as np
    from ai_edge_quantizer import quantizer, recipe

    began = time.perf_counter()
    module = program.copy().module
    for part in module.modules():
        part.training = False
    (image,) = program.example_inputs(1)
    path = folder / "litert.tflite"
    wrapped = litert_torch.to_channel_last_io(module, args=[0]).eval()
    litert_torch.convert(wrapped, (image.permute(0, 2, 3, 1).contiguous(),)).export(str(path))
    rows = [{"file": str(path), "tool": "litert-torch", "precision": "fp32", "seconds": time.perf_counter() - began}]
    feeds = [
        {"args_0": np.ascontiguousarray(images.tensor([index]).numpy().transpose(0, 2, 3, 1))}
        for index in range(IMAGES)
    ]
    tool = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
    result = tool.quantize(tool.calibrate({"serving_default": feeds}))
    result.export_model(str(folder / "aeq.tflite"), overwrite=True)
    seconds = time.perf_counter() - began
    return [
        *rows,
        {"file": str(folder / "aeq.tflite"), "tool": "aeq static_wi8_ai8", "precision": "int8", "seconds": seconds},
    ]


def make(name: str, density: float, way: str, folder: Path) -> list[Row]:
    """All files of one way."""
    import torch

    torch.set_num_threads(1)
    program, images = the_program(name, density)
    folder.mkdir(parents=True, exist_ok=True)
    tool, kind = way.split()
    if tool == "edgespa":
        rows = by_edgespa(kind, program, images, folder)
    else:
        rows = (directly_to_onnx if kind == "onnx" else directly_to_tflite)(program, images, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return [{"tool": "edgespa", "kind": kind, **row, "peak_mib": peak} for row in rows]


def opened(path: str, kind: str) -> Callable[[Any], Any]:
    """Runs a file on one image [1, C, H, W]."""
    import numpy as np

    if kind == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda image: session.run(None, {"input": image})[0]
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (got,) = interpreter.get_input_details(), interpreter.get_output_details()

    def scaled(values: Any, detail: Any, back: bool) -> Any:
        scale, zero = detail["quantization"]
        if not scale:
            return values
        if back:
            return (values.astype(np.float32) - zero) * scale
        return np.clip(np.round(values / scale) + zero, -128, 127).astype(detail["dtype"])

    def run(image: Any) -> Any:
        interpreter.set_tensor(given["index"], scaled(image.transpose(0, 2, 3, 1), given, back=False))
        interpreter.invoke()
        return scaled(interpreter.get_tensor(got["index"]), got, back=True)

    return run


def operators(path: str, kind: str) -> Counter[str]:
    """How often each operator stands in a file."""
    if kind == "onnx":
        import onnx

        return Counter(node.op_type for node in onnx.load(path).graph.node)
    from edgespa.exporting.tflite_file import operators as of_tflite

    return Counter(of_tflite(Path(path)))


def same(row: Row, other: Row) -> bool:
    """Whether two files have the same format and precision."""
    return bool((row["kind"], row["precision"]) == (other["kind"], other["precision"]))


def in_turns(runs: list[Callable[[Any], Any]], image: Any) -> list[list[float]]:
    """CPU milliseconds of one inference of each, `RUNS` times."""
    times: list[list[float]] = [[] for _ in runs]
    order = list(range(len(runs)))
    dice = random.Random(0)
    for _ in range(RUNS):
        dice.shuffle(order)
        for index in order:
            runs[index](image)
            began = time.process_time_ns()
            runs[index](image)
            times[index].append((time.process_time_ns() - began) / 1e6)
    return times


def measure(name: str, density: float, rows: list[Row]) -> list[Row]:
    """Bytes, operators, parity on images, latency in turns."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    program, images = the_program(name, density)
    batch = images.tensor(list(range(16)))
    with torch.no_grad():
        expected = program(batch).numpy()
    files = [row for row in rows if "file" in row]
    runs = [opened(row["file"], row["kind"]) for row in files]
    times = in_turns(runs, batch[:1].numpy())
    for row, run, kept in zip(files, runs, times, strict=True):
        got = np.concatenate([run(image[None].numpy()) for image in batch])
        a, b = got.astype(np.float64), expected.astype(np.float64)
        found = operators(row["file"], row["kind"])
        row |= {
            "bytes": Path(row["file"]).stat().st_size,
            "operators": sum(found.values()),
            "transposes": found.get("TRANSPOSE", 0) + found.get("Transpose", 0),
            "relative_error": float(np.abs(a - b).max() / np.abs(b).max()),
            "cosine": float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())),
            "top1": float((a.argmax(1) == b.argmax(1)).mean()),
            "cpu_ms": statistics.median(kept),
            "quartiles_ms": [float(value) for value in np.quantile(kept, [0.25, 0.75])],
        }
    for row, kept in zip(files, times, strict=True):
        row["against"] = {
            other["tool"]: [float(value) for value in np.quantile(np.array(kept) / theirs, [0.25, 0.5, 0.75])]
            for other, theirs in zip(files, times, strict=True)
            if row["tool"] == "edgespa" != other["tool"] and same(row, other)
        }
    for row in files:
        del row["file"]
    return [{"network": name, "density": density, "load": round(os.getloadavg()[0], 1), **row} for row in rows]


def main() -> None:
    """Make, measure, or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--output", type=Path, default=HERE / "out")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("NETWORK", "DENSITY", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    results = options.output / "rows.jsonl"
    if options.table:
        write_tables()
        return
    if options.one:
        name, density, way = options.one
        if way == "measure":
            rows = json.loads(sys.stdin.read())
            answer = measure(name, float(density), rows)
        else:
            answer = make(name, float(density), way, options.output / f"{name}-{density}" / way.replace(" ", "-"))
        (options.output / "answer.json").write_text(json.dumps(answer))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    done = (
        {(row["network"], row["density"]) for row in map(json.loads, results.read_text().splitlines())}
        if results.exists()
        else set()
    )
    for name in options.network:
        for density in DENSITIES:
            if (name, density) in done:
                continue
            rows: list[Row] = []
            for way in WAYS:
                rows += _child(options.output, name, density, way, "")
            measured = _child(options.output, name, density, "measure", json.dumps(rows))
            with results.open("a") as stream:
                stream.writelines(json.dumps(row) + "\n" for row in measured)
            print(name, density, "done", flush=True)


def _child(output: Path, name: str, density: float, way: str, text: str) -> list[Row]:
    answer = output / "answer.json"
    answer.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--output", str(output), "--one", name, str(density), way]
    with (output / "log.txt").open("a") as log:
        subprocess.run(command, input=text, text=True, check=False, stdout=log, stderr=log)
    if not answer.exists():
        return [{"tool": way, "kind": way.split()[-1], "failed": True}] if way != "measure" else []
    return list(json.loads(answer.read_text()))


def write_tables() -> None:
    """Put the tables between their marks in README.md."""
    from rows import fill

    rows = [json.loads(line) for line in (HERE / "rows.jsonl").read_text().splitlines()]
    parts = {"all": every_file(rows), "against": against_others(rows)}
    fill(HERE / "README.md", {name: "\n".join(lines) for name, lines in parts.items()})


def every_file(rows: list[Row]) -> Iterator[str]:
    """A line for each file, and for each that was left out."""
    yield "| network, MACs | file | by | s | peak MiB | KiB | operators (transposes) | cosine | same top-1 | CPU ms |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        where = f"{row['network']}, {row['density']:.0%}"
        if "bytes" not in row:
            yield f"| {where} | {row.get('precision', row['kind'])} | {row['tool']} | {row.get('left_out', 'failed')} |"
            continue
        layers = f", {row['float_layers']} in float" if row.get("float_layers") else ""
        cells = [
            where,
            f"{row['kind']} {row['precision']}{layers}",
            row["tool"],
            f"{row['seconds']:.0f}",
            str(row["peak_mib"]),
            f"{row['bytes'] / 1024:,.0f}",
            f"{row['operators']} ({row['transposes']})",
            f"{row['cosine']:.5f}",
            f"{row['top1']:.0%}",
            f"{row['cpu_ms']:.2f}",
        ]
        yield f"| {' | '.join(cells)} |"


def against_others(rows: list[Row]) -> Iterator[str]:
    """For each network, format and precision that another tool makes too: bytes and time of ours / theirs."""
    yield "| network, MACs | file | against | bytes | time (quartiles) | 1 - cosine, ours and theirs |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in rows:
        for tool, (low, middle, high) in row.get("against", {}).items():
            theirs = next(
                each
                for each in rows
                if each["tool"] == tool
                and same(row, each)
                and (row["network"], row["density"]) == (each["network"], each["density"])
            )
            cells = [
                f"{row['network']}, {row['density']:.0%}",
                f"{row['kind']} {row['precision']}",
                tool,
                f"{row['bytes'] / theirs['bytes']:.4f}",
                f"{middle:.2f} ({low:.2f} to {high:.2f})",
                f"{1 - row['cosine']:.1e}, {1 - theirs['cosine']:.1e}",
            ]
            yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
