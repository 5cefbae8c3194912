"""ONNX files that others have exported, through inspect, prune and export: what of them can go, and how exact it is.

PYTHONPATH=.zoo:. OMP_NUM_THREADS=1 .venv/bin/python benchmarks/onnx_in/run.py make FOLDER    # torchvision, timm, onnx
PYTHONPATH=.zoo:. OMP_NUM_THREADS=1 .venv/bin/python benchmarks/onnx_in/run.py make FOLDER yolo11n   # of ultralytics
PYTHONPATH=.zoo:. OMP_NUM_THREADS=1 .venv/bin/python benchmarks/onnx_in/run.py run FOLDER [FILE...]
.venv/bin/python benchmarks/onnx_in/run.py table
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROWS = HERE / "rows.jsonl"
SIDE = 64
LIGHT = ("resnet50", "densenet121", "inception_v1", "inception_v2", "shufflenet", "squeezenet")
DENSITY = 0.6


def networks() -> dict[str, Callable[[], Any]]:
    """The networks of libraries, by the name of their file; ``_ts`` and ``_dynamo`` are torch's two exporters."""
    sys.path.insert(0, str(HERE.parent / "zoo"))
    from networks import import_torchvision

    import_torchvision()
    import timm
    from torchvision import models

    return {
        "resnet18": models.resnet18,
        "mobilenet_v2": models.mobilenet_v2,
        "mobilenet_v3_small": models.mobilenet_v3_small,
        "shufflenet_v2_x0_5": models.shufflenet_v2_x0_5,
        "lraspp_mobilenet_v3_large": lambda: models.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None),
        "vit_tiny": lambda: timm.create_model("vit_tiny_patch16_224", img_size=SIDE),
        "convnext_atto": lambda: timm.create_model("convnext_atto"),
        "efficientnet_lite0": lambda: timm.create_model("efficientnet_lite0"),
        "yolo11n": yolo,
    }


def yolo() -> Any:
    """A detector of ultralytics, up to its boxes and scores, as its own exporter has it traced."""
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolo11n.yaml", nc=3, verbose=False)
    model.model[-1].export, model.model[-1].format, model.model[-1].dynamic = True, "onnx", False
    return model


WAYS = {
    "resnet18": ("ts", "dynamo"),
    "mobilenet_v2": ("ts",),
    "mobilenet_v3_small": ("dynamo",),
    "shufflenet_v2_x0_5": ("ts",),
    "lraspp_mobilenet_v3_large": ("ts",),
    "vit_tiny": ("ts", "dynamo"),
    "convnext_atto": ("dynamo",),
    "efficientnet_lite0": ("fixed",),
    "yolo11n": ("fixed",),
}
BY_NAME = ("yolo11n",)
"""Only where it is asked for: its library has to be installed beside."""


def lively(name: str) -> Any:
    """A network with random norms and biases, always the same."""
    import torch

    torch.manual_seed(0)
    model = networks()[name]().eval()
    generator = torch.Generator().manual_seed(1)
    for key, value in (*model.named_buffers(), *model.named_parameters()):
        if key.endswith("running_var"):
            value.data.uniform_(0.5, 1.5, generator=generator)
        elif value.dim() == 1 and value.is_floating_point():
            value.data.add_(0.1 * torch.randn(value.shape, generator=generator))
    return model


def make(folder: Path, *only: str) -> None:
    """Write the files: torch's exporters, and the light models of onnx with random weights in place of constants."""
    import onnx
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    for name, ways in WAYS.items():
        for way in ways if name in only or not (only or name in BY_NAME) else ():
            model, path = lively(name), folder / f"{name}_{way}.onnx"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if way == "dynamo":
                    free = ({0: torch.export.Dim("batch", min=1)},)
                    x = torch.randn(2, 3, SIDE, SIDE)
                    torch.onnx.export(
                        model, (x,), path, dynamo=True, external_data=False, verbose=False, dynamic_shapes=free
                    )
                else:
                    axes = {"input": {0: "batch"}, "output": {0: "batch"}} if way == "ts" else None
                    x = torch.randn(1, 3, SIDE, SIDE)
                    torch.onnx.export(
                        model, (x,), path, dynamo=False, opset_version=14, dynamic_axes=axes,
                        input_names=["input"], output_names=["output"],
                    )  # fmt: skip
            print(path.name, flush=True)
    for name in () if only else LIGHT:
        source = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
        onnx.save(filled(onnx.load(source)), folder / f"{name}_light.onnx")


def filled(model: Any) -> Any:
    """A light model, whose weights are constants that it computes, with random ones stored in their place."""
    import numpy as np
    from onnx import numpy_helper

    random = np.random.default_rng(0)
    graph = model.graph
    stored = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    kinds = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            kinds[node.input[1]] = "weight"
        elif node.op_type == "BatchNormalization":
            kinds.update(zip(node.input[1:], ("scale", "bias", "mean", "variance"), strict=True))

    def values(name: str, shape: tuple[int, ...]) -> Any:
        kind = kinds.get(name)
        if kind == "weight":
            found = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif kind in ("scale", "variance"):
            found = random.uniform(0.5, 1.5, shape)
        else:
            found = 0.1 * random.standard_normal(shape)
        return numpy_helper.from_array(found.astype(np.float32), name)

    kept = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            graph.initializer.append(values(node.output[0], tuple(stored[node.input[0]])))
    for each in graph.initializer:
        if each.name in kinds and each.name in stored:
            each.CopyFrom(values(each.name, tuple(each.dims)))
    del graph.node[:]
    graph.node.extend(kept)
    return model


def run(folder: Path, *only: str) -> None:
    """Measure each file of a folder, or those that are named, a row for each."""
    import tempfile

    import numpy as np

    import edgespa as es
    from edgespa.graph.blocks import find_blocks
    from edgespa.graph.proof import prove
    from edgespa.graph.surgery import compact
    from edgespa.models.from_onnx.opened import open_onnx
    from edgespa.models.given import Given
    from edgespa.tasks.base import Base

    networks()

    def figures(base: Any) -> dict[str, int]:
        return {
            "groups": len(base.groups.groups),
            "units": sum(len(group) for group in base.groups.groups.values()),
            "heads": len(base.head_widths.widths),
            "blocks": sum(not block.reason for block in find_blocks(base.program)),
        }

    for path in sorted(folder.glob("*.onnx")):
        if only and path.name not in only:
            continue
        began = time.perf_counter()
        base = Base.open(str(path), None)
        seconds = time.perf_counter() - began
        difference = open_onnx(str(path), ()).proof.difference
        name = path.stem.rpartition("_")[0]
        original = Base.open(Given(lively(name)), (1, 3, SIDE, SIDE)) if name in WAYS else None
        random = np.random.RandomState(0)
        kept = {}
        for key, group in base.groups.groups.items():
            kept[key] = random.rand(len(group)) < DENSITY
            kept[key][0] = True
        small = compact(base.program, base.groups, kept)
        proof = prove(base.program, base.groups, kept, small, base.program.example_inputs())
        with tempfile.TemporaryDirectory() as scratch:
            es.prune(str(path), output=f"{scratch}/net.spa", density=DENSITY, method="l1")
            es.export(f"{scratch}/net.spa", output=f"{scratch}/bundle", formats=("onnx",))
            manifest = json.loads((Path(scratch) / "bundle" / "manifest.json").read_bytes())
        row = {
            "file": path.name, "seconds": round(seconds, 1), "runtime": difference, **figures(base),
            "torch": figures(original) if original is not None else None, "masked": proof.worst,
            "free": base.program.dynamic_batch,
            "parameters": base.program.parameter_count(),
            "left": small.parameter_count(),
            "exported": {each["name"]: each["parity"]["relative_error"] for each in manifest["variants"]},
        }  # fmt: skip
        with ROWS.open("a") as rows:
            rows.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def table() -> None:
    """The rows as Markdown."""
    heads = ("file", "beside ONNX Runtime", "groups, units, heads, blocks", "of the torch module", "parameters")
    print("| " + " | ".join((*heads, "masked = compacted", "exported")) + " |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for line in ROWS.read_text().splitlines():
        row = json.loads(line)
        names = ("groups", "units", "heads", "blocks")
        own = ", ".join(f"{row[name]:,}" for name in names)
        other = "" if row["torch"] is None else ", ".join(f"{row['torch'][name]:,}" for name in names)
        size = f"{row['parameters'] / 1e6:.2f} M to {row['left'] / 1e6:.2f} M"
        near = ", ".join(f"{error:.1e}" for error in row["exported"].values())
        print(f"| `{row['file']}` | {row['runtime']:.1e} | {own} | {other} | {size} | {row['masked']:.1e} | {near} |")


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    {"make": lambda: make(Path(rest[0]), *rest[1:]), "run": lambda: run(Path(rest[0]), *rest[1:]), "table": table}[
        what
    ]()
