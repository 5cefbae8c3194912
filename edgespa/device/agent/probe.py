"""What a runtime's providers are, and whether one computes: run by the Python that has the runtimes, as ``python -c``.

A provider that a runtime lists may still fail at its first run (a CUDA build for another GPU), end the process, or hand
its work to the CPU without a word. So each is tried by itself, in a process of its own, with a network whose output is
known: two channels of ones, a 3 x 3 convolution of ones with padding 1, ReLU, the mean over 4 x 4 pixels. Corners see 8
ones, edges 12, the middle 18: (4 * 8 + 8 * 12 + 4 * 18) / 16 = 12.5 in each of the three channels.

Arguments: nothing, which says what is installed and imports none of it; a runtime, which imports it and lists its
providers; or a runtime and a provider, which tries. Any import may end the process, so each is in one of its own.
Alone: Python 3.8 or newer, and the runtimes.
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
import time
import zlib
from typing import Any

# The network in the formats, made by onnx.helper (opset 11, so that old runtimes read it), by litert-torch and by
# ExecuTorch 1.5.1; the tests take the first two apart.
ONNX = (
    "eNrjYBNisPrKxKXExVjBxVguxJisxOKcn1emJcjFUpCYUuzACIELGNm5eLgYk4UYi5RYglJzSrkkuRiLhBgrlQTdc/KTEnMcy1KLEtNTA/Lzc4"
    "QYC7ReMHIwczABMbMAoxNjudcNRgaGBvvhiKOkgUEnJMYlwsEoJMDFxMEIxExAzALCSUDJSjRJZijN6MTCxSDADQAQ70MO"
)
TFLITE = (
    "eNrdVc9rE1EQnk22yTaNMWCpggVzKLZoWU0tRWjBoiIVogfx4G2JzdoEk92w2eTcg4cepIj4N3jwIB76B4gnjyIeivSP8CT+aLt+895sdkME0a"
    "OBL+/t25n55n0z7+0sEd2/VbsyTRUyyaIilWkaa2doVo1Z4AFQA9oG4T3RPvsAJ4CneaIdwAKe5YjWAJog2jaJulhrA02gAZTh/wGvMdBNQ8d+"
    "g79vGcQ09HqZ+FfAWEQ2JmaacxaoACeBnhsMWt6W03Af1fvtUPlNS9wFwBJfC/NJwFRrRH4/7PZD5zIzvP4eRbzO6daDrR6vIg3aEPv3URRZwn"
    "0aeOy6XacX1h+23WbbdzZ9Dw9eSF8lDiMM+i5zM7MlnFPAKaDT8pyg74WtjusM3KDX8j1a+qF9ec9Ve8VWicmP93mndvte5YbvwT50GzZWSqhL"
    "UqUS6whcBRZFgziXTr3lkcwr2NiGaL8uOk3KqNVG7qiZCbyAwxxwAJ8nGe3bhOGecJWgC4azGdUjWh/m2MZe4rgZ2Ts/rx1H0YKmWeDnwk/lby"
    "wLL9vx/Nx4XZ24XjJRcQ3pyS/ge4fYZeE3JBbb5GUcCNec5GWJTpyz47BCjmPfXa1SKkY2peGB8mfNteJ50ZxN2ZbrNSf1K5LOxELlihLLSNnm"
    "JXZOYqtzBS2z2ibLNucPdb41ydWSc7Yymu9qMr8U+sFm0/Y8u+M3+m23Z6MxBzb3zFLD2VxN9mWmePcUT0FqZ6k6pHXMiX6kj7La25QaTeUzr1"
    "/Ns+1nyXld9mjJGbo4kvOf8lway5P5PyH2yyOOn1E1zEn8+B6oB62wacdHsTr0L8Jn9yg5WyTxssKxe5TkPPHPOVeHesZgjh3ELhxr7n3FvH3t"
    "f8TH40TD+H5dAy78lYbJmXuLeNcjrVuRRn+voqQHsqkeKI31QNJDZfg8j0Z7IK6/7u0Zda5zwy8eqQ6e0d1iVFL3WEXu8dQZHMYxEcFUPjn1zc"
    "ml9Ih7Luai33KRsZi6v5aV9fhdGH+jzNQe4rNyqPZpqvkvrDhEXQ=="
)
EXECUTORCH = (
    "eNrdVjFrHEcUnt3bO60vizlfDqNChOO4QgQRdvd2pV1hsAkOmBCCihQCRYTd21kkcl4d8ok4xMYqXbhwYVy5SuXSP8FFipQpVbgMIUWKFCkMSTR5b+b"
    "N7ehyKYxdZeDdzM6897037715764xxj75Igj5ge/3Yc1aTA2aHzXV3GNr8LsKc4d5zIW1A2vcYexHoDOgxKrJhu8vJRec/ylEg9Y3gIKYj7fy0s9jf2"
    "sU5lFaJmGYcH+rCKPRZjwaJWXKR1meplHu+1npJzzORnlZ8jguiyRHe9b+EsI2MDfDaJylvEjiaJRHvMjSrZDzIA7yAGCSLAr8KE/GSRlFfDNOx/FmA"
    "Ep5mhQpz8IyQ8ydcyEQz2L1cOgenwGt0/evQgiPzk+bNa8L3vCAwyV/yHPHPPckAp5PaR916nPUuyZXV0HXkPXhq/a4A7sMdhmLgCZAT4D6IDQEWgc6"
    "A4cMHeV7PU6tGhtVPiXbPRlTNQ7ABs12GX52q2qajb/+GIhXRS37+G8hXJLFeB6dzFgb5mzGq+3t2zyrFG9HQrXndrdJZkKE9iWE+fO5wkTdPwnl/xb"
    "Z26T1Cskg9YBH4TPbpTx0Ccs2/Gj61Db2kHcHPn6D+TnQPYqvT7mMOHdFbdPvsH5Yx7vhMEfyPKt5VkKy2ya/6LzB8UPNZ/8i1DvQ44bGtVvgK0fe1Y"
    "wd5st7dD/CaOZ0/9V5rrDWOuy9NO7KrPrOqO85nK9K6S7rsisyGi5Z2aU8mOO1WjJmLSNnmGU3HAPPIXIhspfIPo3fY+//C3/R3jPD3kV8+wK+yh99/"
    "5tAKdBesNH/bjD7dsoH2/3qZDLZ6A/GR9WM350ZGweHk+KYV1/dmfIxbO/t398H2fNF+UF+cjiZHVZ3PpqdTCd8cAFrgGCDZWjvTP5N7L+/1O7icDxb"
    "ULu3P/gviH31nsqj42+y40IGZPeW73/AsPrvOHVlUgN3dz/3A6xJfRkLD+LZU/GGiMqaBBKvIHA9yjsH5tcUQ8yXV1jv6Pt7iD3mm6Ch6+i76QttsMu"
    "Vb6lNea31nBl63r5XtOf53TbeOjPqlmW00XtUo7FPPkJ/ksxrVfst5csueLNFPUJ5uEuIDr0h/T6aJL/4Hv8gPF3nkUPXY5t8YcoNRc1fEb9DtVqIum"
    "dbhg7ceyGW292hSrLMbsSzDQxNtnzblyEnXV3j5rirhj8wmiauttFaYqNNtcPE7JFXNSJ+dQw818BYrEMNCqyO21V1/6bKL7SlN38ZHvHoHtk08qNhY"
    "KPMiiGDfeQWnXtUW3Vvgy7+gLEP2acX3t8avMch/E/YgN4VSa6EXYP8vgmcCsekhqHfJHth34yR6uHKyjb1n/rOHbLOm9/Z9CFbgu2zZeP0+v+T3nz8"
    "A3+LpYs="
)
EXPECTED = 12.5
NCNN = """7767517
3 3
Input x 0 1 x
Convolution conv 1 1 x c 0=3 1=3 5=1 6=54
Pooling mean 1 1 c y 0=1 4=1
"""  # 54 weights of 0.5, and 3.5 added
RUNTIMES = ("onnxruntime", "openvino", "trtexec", "ncnn", "executorch", "ai_edge_litert", "tflite_runtime")
WHOLE = ("onnxruntime", "openvino", "ncnn")  # imported as they are called; of the others a part is
TRTEXEC_PLACES = ("/usr/src/tensorrt/bin", "/opt/tensorrt/bin", "/usr/local/tensorrt/bin")  # a program: it is started
TRTEXEC_S = 110  # it builds an engine
EXECUTORCH_PART = "executorch.extension.pybindings._C"  # linked with torch, which is imported first


def version_of(package: str) -> str:
    """The version of an installed package."""
    module = importlib.import_module(package)
    found = getattr(module, "__version__", None)
    if found is None:
        from importlib import metadata

        found = metadata.version(package.replace("_", "-"))
    return str(found).partition("-")[0]  # OpenVINO's goes on with its build


def trtexec_path() -> str | None:
    """Of the program trtexec; None where it is not."""
    import os
    import shutil

    folders = [each for each in os.environ.get("PATH", "").split(os.pathsep) if os.path.isabs(each)]
    return shutil.which("trtexec", path=os.pathsep.join([*folders, *TRTEXEC_PLACES]))


def run_trtexec(options: list[str], folder: str | None = None) -> tuple[str, int]:
    """What it says, and its status; its banner says ``[TensorRT v100300]`` for 10.3.0, ``v8601`` for 8.6.1."""
    import subprocess

    done = subprocess.run(
        [str(trtexec_path()), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        check=False,
        timeout=TRTEXEC_S,
    )
    return done.stdout.decode("utf-8", "replace"), done.returncode


def trtexec_version() -> str:
    """Of the TensorRT that it belongs to."""
    import re

    said, _ = run_trtexec(["--help"])
    found = re.search(r"TensorRT\.trtexec \[TensorRT v([0-9]{4,7})\]", said)
    if found is None:
        raise RuntimeError(said.strip() or "it does not say its version")
    unit = 10000 if len(found.group(1)) > 4 else 1000
    return "%d.%d.%d" % (int(found.group(1)) // unit, int(found.group(1)) % unit // 100, int(found.group(1)) % 100)


def list_installed() -> list[dict[str, str]]:
    """Each runtime that is installed, and its version as its metadata say it; nothing is imported."""
    from importlib import metadata, util

    rows = []
    for package in RUNTIMES:
        if not is_there(package, util.find_spec):
            continue
        version = "?"
        for name in (package, package + "-gpu"):
            try:
                version = metadata.version(name.replace("_", "-"))
                break
            except metadata.PackageNotFoundError:
                pass
        rows.append({"runtime": package, "version": version})
    return rows


def is_there(package: str, find_spec: Any) -> bool:
    """Whether a runtime is installed; ExecuTorch is a folder without a file, as any other of that name."""
    if package == "trtexec":
        return trtexec_path() is not None
    return find_spec(package) is not None and (package != "executorch" or find_spec(EXECUTORCH_PART) is not None)


def part_of(package: str) -> Any:
    """What of a runtime runs files, imported."""
    if package == "executorch":
        importlib.import_module("torch")
        return importlib.import_module(EXECUTORCH_PART)
    return importlib.import_module(package if package in WHOLE else package + ".interpreter")


def list_providers(package: str) -> dict[str, Any]:
    """What a runtime lists, and its version; or the error of its import."""
    try:
        if package == "trtexec":
            return {"version": trtexec_version(), "providers": ["TensorRT"], "error": None}
        module = part_of(package)
        names = module.get_available_providers() if package == "onnxruntime" else ["CPU"]
        return {"version": version_of(package), "providers": list(names), "error": None}
    except Exception as error:
        return {"error": first_line(error)}


def try_onnx(provider: str) -> tuple[list[float], str]:
    """The network's outputs, and the provider that ONNX Runtime says it took."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not provider.startswith("CPU"):  # a provider that leaves its work to the CPU does not count
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    content = zlib.decompress(base64.b64decode(ONNX))
    session = onnxruntime.InferenceSession(content, options, providers=[provider])
    output = session.run(None, {"x": np.ones((1, 2, 4, 4), np.float32)})[0]
    return [float(value) for value in output.ravel()], str(session.get_providers()[0])


def try_openvino(provider: str) -> tuple[list[float], str]:
    """The network's outputs in float32, and the provider as given: there is one only."""
    import numpy as np
    import openvino

    core = openvino.Core()
    content = zlib.decompress(base64.b64decode(ONNX))
    settings = {"INFERENCE_PRECISION_HINT": openvino.Type.f32, "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(content), "CPU", settings)
    output = next(iter(compiled({"x": np.ones((1, 2, 4, 4), np.float32)}).values()))
    return [float(value) for value in output.ravel()], provider


def try_trtexec(provider: str) -> tuple[list[float], str]:
    """The network's outputs in float32, of an engine that is built for it, and the provider as given."""
    import struct
    import tempfile

    options = ["--onnx=n.onnx", "--noTF32", "--loadInputs=x:x.bin", "--exportOutput=y.json"]
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (
            ("n.onnx", zlib.decompress(base64.b64decode(ONNX))),
            ("x.bin", struct.pack("<32f", *[1.0] * 32)),
        ):
            with open(folder + "/" + name, "wb") as stream:
                stream.write(content)
        said, status = run_trtexec([*options, "--iterations=1", "--duration=0", "--warmUp=0"], folder)
        if status != 0:
            errors = [line.partition("[E] ")[2] for line in said.splitlines() if "[E] " in line]
            raise RuntimeError((errors or ["it ended with status %d" % status])[0])
        with open(folder + "/y.json", encoding="utf-8") as stream:
            (output,) = json.load(stream)
    return [float(value) for value in output["values"]], provider


def try_ncnn(provider: str) -> tuple[list[float], str]:
    """The network's outputs in float32, and the provider as given: there is one only."""
    import struct
    import tempfile

    import ncnn
    import numpy as np

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_vulkan_compute = net.opt.use_bf16_storage = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("p", NCNN.encode()), ("b", struct.pack("<I57f", 0, *([0.5] * 54), 3.5, 3.5, 3.5))):
            with open(folder + "/" + name, "wb") as stream:
                stream.write(content)
        net.load_param(folder + "/p")
        net.load_model(folder + "/b")
    extractor = net.create_extractor()
    extractor.input("x", ncnn.Mat(np.ones((2, 4, 4), np.float32)))
    return [float(value) for value in np.array(extractor.extract("y")[1]).ravel()], provider


def try_executorch(provider: str) -> tuple[list[float], str]:
    """The network's outputs in float32, and the provider as given: there is one only."""
    module = part_of("executorch")
    torch = importlib.import_module("torch")
    content = zlib.decompress(base64.b64decode(EXECUTORCH))  # its bytes are not copied, so they have to stay
    network = module._load_for_executorch_from_buffer(content)
    return [float(value) for value in network.forward([torch.ones(1, 2, 4, 4)])[0].ravel()], provider


def try_tflite(package: str, provider: str) -> tuple[list[float], str]:
    """The network's outputs, and the provider as given: there is one only."""
    import numpy as np

    module = importlib.import_module(package + ".interpreter")
    interpreter = module.Interpreter(model_content=zlib.decompress(base64.b64decode(TFLITE)), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ones((1, 2, 4, 4), np.float32))
    interpreter.invoke()
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return [float(value) for value in output.ravel()], provider


def try_provider(runtime: str, provider: str) -> dict[str, Any]:
    """Whether a provider computes; ``error`` says why not."""
    started = time.perf_counter()
    try:
        if runtime == "onnxruntime":
            outputs, used = try_onnx(provider)
        elif runtime == "openvino":
            outputs, used = try_openvino(provider)
        elif runtime == "trtexec":
            outputs, used = try_trtexec(provider)
        elif runtime == "ncnn":
            outputs, used = try_ncnn(provider)
        elif runtime == "executorch":
            outputs, used = try_executorch(provider)
        else:
            outputs, used = try_tflite(runtime, provider)
    except Exception as error:
        if "disable_cpu_ep_fallback" in str(error) or "fallback to CPU EP" in str(error):
            return {"works": False, "error": "it leaves its work to the CPU"}
        return {"works": False, "error": first_line(error)}
    if used != provider:
        return {"works": False, "error": "%s computes in its place" % used}
    if len(outputs) != 3 or any(abs(value - EXPECTED) > 0.02 for value in outputs):
        return {"works": False, "error": "wrong outputs: %s instead of %s" % (outputs, EXPECTED)}
    return {"works": True, "error": None, "first_run_ms": (time.perf_counter() - started) * 1000}


def first_line(error: Exception) -> str:
    """What an exception says, shortly."""
    lines = str(error).strip().splitlines()
    return "%s: %s" % (type(error).__name__, lines[0][:300] if lines else "no message")


def answer(words: list[str]) -> Any:
    """What is asked for."""
    if not words:
        return {"installed": list_installed()}
    return try_provider(words[0], words[1]) if len(words) > 1 else list_providers(words[0])


if __name__ == "__main__":
    print(json.dumps(answer(sys.argv[1:])))  # noqa: T201
