"""A program in place of trtexec: its options, log and files in the forms that its published sources write.

It computes with ONNX Runtime on the CPU. Its variables: ``STAND_IN_VERSION`` (``8601``, ``100300``), ``STAND_IN_LOG``
(a file that gets each call's options as a line of JSON), ``STAND_IN_FAIL`` (``build``: with an error of the log;
``silent``: it says that all went well and writes nothing; ``hang``: it never ends; ``large``: it writes without end;
``slow``: it hangs in the middle of writing an engine), ``STAND_IN_MS`` (what it says that an inference computes).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

VERSION = os.environ.get("STAND_IN_VERSION", "100300")
FAIL = os.environ.get("STAND_IN_FAIL", "")
UNIT = 10000 if len(VERSION) > 4 else 1000
NUMBERS = (int(VERSION) // UNIT, int(VERSION) % UNIT // 100, int(VERSION) % 100)
BUILD = " [b17]" if NUMBERS >= (10,) else ""
COMMAND = f"TensorRT.trtexec [TensorRT v{VERSION}]{BUILD} # {' '.join(sys.argv)}"
WITH_VALUE = {
    "--onnx", "--saveEngine", "--loadEngine", "--timingCacheFile", "--loadInputs", "--shapes", "--iterations",
    "--duration", "--warmUp", "--exportOutput", "--exportTimes", "--exportProfile",
}  # fmt: skip
FLAGS = {"--noTF32", "--fp16", "--int8", "--exposeDMA", "--useSpinWait", "--separateProfileRun", "--dumpProfile"}
WITH_VALUE |= {"--memPoolSize"} if NUMBERS >= (8, 4) else {"--workspace"}
FLAGS |= {"--skipInference"} if NUMBERS >= (8, 6) else set()
FLAGS |= {"--buildOnly"} if NUMBERS < (10,) else set()
MAGIC = b"ptrt"


def say(level: str, text: str) -> None:
    print(f"[12/03/2026-10:00:00] [{level}] {text}", flush=True)  # noqa: T201


def fail(*errors: str) -> NoReturn:
    for each in errors:
        say("E", each)
    print(f"&&&& FAILED {COMMAND}", flush=True)  # noqa: T201
    sys.exit(1)


def build(options: dict[str, str]) -> None:
    import onnx
    from onnx import numpy_helper

    if FAIL == "hang":
        time.sleep(600)
    try:
        model = onnx.load(options["--onnx"])
        onnx.checker.check_model(model)
    except Exception:
        fail(
            "[TRT] ModelImporter.cpp:773: Failed to parse ONNX model from file: " + options["--onnx"],
            "Failed to parse onnx file", "Parsing model failed", "Failed to create engine from model or file.",
            "Engine set up failed",
        )  # fmt: skip
    if FAIL == "build":
        fail(
            "Error[10]: Could not find any implementation for node {ForeignNode[a.../MatMul]}.",
            "Error[10]: [optimizer.cpp::computeCosts::3873] Error Code 10: Internal Error (Could not find any "
            "implementation for node {ForeignNode[a.../MatMul]}.)",
            "Engine could not be created from network", "Building engine failed",
            "Failed to create engine from model or file.", "Engine set up failed",
        )  # fmt: skip
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and len(node.input) > 2 and constants[node.input[2]].any():
            fail(
                '[TRT] ModelImporter.cpp:773: input: "x"\noutput: "q"\nop_type: "QuantizeLinear"\n',
                "[TRT] ModelImporter.cpp:774: --- End node ---",
                "[TRT] ModelImporter.cpp:777: ERROR: builtin_op_importers.cpp:1197 In function "
                'QuantDequantLinearHelper:\n[6] Assertion failed: shiftIsAllZeros(zeroPoint) && "TRT only supports '
                'symmetric quantization - zero point must be 0"',
                "Failed to parse onnx file", "Parsing model failed", "Engine set up failed",
            )  # fmt: skip
        if node.op_type == "QuantizeLinear" and "--int8" not in options:
            fail("Error[4]: [network.cpp::validate] Error Code 4: Internal Error (Int8 precision is not set)")
    for each in model.graph.input:
        sizes = [size.dim_value for size in each.type.tensor_type.shape.dim]
        if 0 in sizes and each.name not in shapes_of(options):
            say("W", f"Dynamic dimensions required for input: {each.name}, but no shapes were provided.")
    content = model.SerializeToString()
    head = {"version": VERSION, "shapes": shapes_of(options), "half": "--fp16" in options and "--int8" not in options}
    engine = MAGIC + json.dumps({**head, "sha256": hashlib.sha256(content).hexdigest()}).encode() + b"\n" + content
    path = Path(options["--saveEngine"])
    if FAIL == "silent":
        return
    if FAIL == "large":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
        with path.open("wb") as stream:
            while True:
                stream.write(bytes(1 << 20))
    with path.open("wb") as stream:
        stream.write(engine[: len(engine) // 2])
        stream.flush()
        if FAIL == "slow":
            time.sleep(600)
        stream.write(engine[len(engine) // 2 :])
    if "--timingCacheFile" in options:
        with Path(options["--timingCacheFile"]).open("ab") as stream:
            stream.write(b"timed\n")
    say("I", "Engine built in 0.5 sec.")


def shapes_of(options: dict[str, str]) -> dict[str, list[int]]:
    pairs = [each.rpartition(":") for each in options.get("--shapes", "").split(",") if each]
    return {name: [int(size) for size in sizes.split("x")] for name, _, sizes in pairs}


def load(path: Path) -> tuple[dict[str, Any], bytes]:
    whole = path.read_bytes()
    head, _, content = whole[len(MAGIC) :].partition(b"\n")
    if whole[: len(MAGIC)] != MAGIC:
        fail(
            "Error[1]: [stdArchiveReader.cpp::StdArchiveReader::40] Error Code 1: Serialization (Serialization "
            "assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not match)",
            "Engine deserialization failed", "Got invalid engine!", "Inference set up failed",
        )  # fmt: skip
    found = json.loads(head)
    if found["version"] != VERSION:
        fail("Error[6]: The engine plan file is not compatible with this version of TensorRT, please rebuild.")
    if hashlib.sha256(content).hexdigest() != found["sha256"]:
        fail("Error[1]: Error Code 1: Serialization (Serialization assertion sizeRead == static_cast failed.)")
    say("I", "Engine deserialized in 0.05 sec.")
    return found, content


def infer(options: dict[str, str]) -> None:
    import numpy as np
    import onnxruntime

    if FAIL == "hang":
        time.sleep(600)
    engine, content = load(Path(options["--loadEngine"]))
    given = shapes_of(options)
    if given != engine["shapes"]:
        fail("Error[3]: [executionContext.cpp::setInputShape::2264] Error Code 3: API Usage Error (Parameter check "
             "failed, condition: engineDims.d[i] == dims.d[i].)", "Inference set up failed")  # fmt: skip
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    settings.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    files = dict(each.rpartition(":")[::2] for each in options["--loadInputs"].split(","))
    feed = {}
    for each in session.get_inputs():
        kind = {"float": "float32", "float16": "float16", "uint8": "uint8", "int64": "int64", "int32": "int32"}[
            each.type[7:-1]
        ]
        shape = given.get(each.name) or each.shape
        stored = "int32" if kind == "int64" and NUMBERS < (10,) else kind
        raw = Path(files[each.name]).read_bytes()
        if len(raw) < int(np.prod(shape)) * np.dtype(stored).itemsize:
            fail(f"Could not read the input: {files[each.name]} has {len(raw)} bytes", "Inference set up failed")
        array = np.frombuffer(raw, np.dtype(stored).newbyteorder("<"), int(np.prod(shape)))
        feed[each.name] = array.reshape(shape).astype(kind)
    outputs = dict(zip([each.name for each in session.get_outputs()], session.run(None, feed), strict=True))
    if engine["half"]:
        outputs = {name: array.astype(np.float16).astype(array.dtype) for name, array in outputs.items()}
    if "--exportOutput" in options:
        export_outputs(Path(options["--exportOutput"]), outputs)
    if "--exportTimes" in options:
        export_times(Path(options["--exportTimes"]), options)
    if "--exportProfile" in options:
        export_layers(Path(options["--exportProfile"]), int(options["--iterations"]))


def export_outputs(path: Path, outputs: dict[str, Any]) -> None:
    parts = []
    for name, array in reversed(outputs.items()):  # in no order: they lie in a hash map there
        values = ", ".join(f"{value:.6g}" if array.dtype.kind == "f" else str(int(value)) for value in array.ravel())
        shape = "x".join(map(str, array.shape))
        parts.append(f'{{ "name" : "{name}"\n  , "dimensions" : "{shape}"\n  , "values" : [ {values} ]\n  }}\n')
    path.write_text("[\n  " + ", ".join(parts) + "]\n")


def export_times(path: Path, options: dict[str, str]) -> None:
    compute, rows = float(os.environ.get("STAND_IN_MS", "2")), []
    count = max(int(options["--iterations"]), int(1000 * float(options["--duration"]) / compute / 10))
    for number in range(count):
        own, start = compute * (9 if number == 0 else 1 + (number % 3) / 10), 10.0 * number
        values = {
            "startEnqMs": start, "endEnqMs": start + 0.1, "startH2dMs": start, "endH2dMs": start + 0.25,
            "startComputeMs": start + 0.25, "endComputeMs": start + 0.25 + own, "startD2hMs": start + 0.25 + own,
            "endD2hMs": start + 0.375 + own, "h2dMs": 0.25, "computeMs": own, "d2hMs": 0.125, "latencyMs": own + 0.375,
            **({"endToEndMs": own + 0.375} if NUMBERS < (8, 5) else {}),
        }  # fmt: skip
        rows.append("{ " + ", ".join(f'"{key}" : {value:.6g}' for key, value in values.items()) + " }\n")
    path.write_text("[\n  " + ", ".join(rows) + "]\n")


def export_layers(path: Path, count: int) -> None:
    rows = []
    for name, each in (('Conv_0 + "Relu"_1', 0.5), ("Reformatting CopyNode for Output Tensor 0 to Gemm_3", 0.125)):
        median = f', "medianMs" : {each:.6g}' if NUMBERS >= (8, 5) else ""
        values = f'"timeMs" : {each * count:.6g}, "averageMs" : {each * 1.5:.6g}{median}, "percentage" : 50'
        rows.append(f', {{ "name" : "{name}", {values} }}\n')
    path.write_text(f'[\n  {{ "count" : {count} }}\n' + "".join(rows) + "]\n")


def main() -> None:
    print(f"&&&& RUNNING {COMMAND}", flush=True)  # noqa: T201
    if sys.argv[1:] == ["--help"]:
        print("=== Model Options ===\n  --onnx=<file>               ONNX model")  # noqa: T201
        return
    if "STAND_IN_LOG" in os.environ:
        with Path(os.environ["STAND_IN_LOG"]).open("a") as stream:
            stream.write(json.dumps(sys.argv[1:]) + "\n")
    options = dict(each.partition("=")[::2] for each in sys.argv[1:])
    for key, value in options.items():
        if key not in (WITH_VALUE if value else FLAGS):
            fail(f"Unknown option: {key} {value}")
    if "--onnx" in options and "--saveEngine" in options:
        build(options)
    elif "--onnx" in options:  # as a provider is tried: all at once
        options["--saveEngine"] = options["--loadEngine"] = "built.engine"
        build(options)
    if "--loadEngine" in options:
        infer(options)
    print(f"&&&& PASSED {COMMAND}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
