"""Small wheels of runtimes that compute, crash or fail as they are told: nothing is fetched from an index."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

# An onnxruntime whose CPU provider computes, whose CUDA provider fails, and which crashes with TensorRT.
ONNXRUNTIME = """
import os, signal
__version__ = "1.20"
def get_available_providers():
    return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
class SessionOptions:
    def add_session_config_entry(self, key, value): pass
class InferenceSession:
    def __init__(self, content, options, providers):
        self.providers = providers
        if providers == ["TensorrtExecutionProvider"]:
            os.kill(os.getpid(), signal.SIGSEGV)
    def get_providers(self): return self.providers
    def run(self, names, feed):
        if self.providers[0].startswith("CUDA"):
            raise RuntimeError("CUDA failure 209: no kernel image is available for execution on the device")
        import numpy
        return [numpy.full((1, 3, 1, 1), 12.5)]
"""
PLAIN = ONNXRUNTIME.replace('"TensorrtExecutionProvider", "CUDAExecutionProvider", ', "")
"""One with the CPU only."""

LITERT = """
import numpy
class Interpreter:
    def __init__(self, **words): pass
    def allocate_tensors(self): pass
    def get_input_details(self): return [{"index": 0}]
    get_output_details = get_input_details
    def set_tensor(self, index, value): pass
    def invoke(self): pass
    def get_tensor(self, index): return numpy.full((1, 3), 12.5)
"""
NUMPY = """
float32 = "float32"
class Array(list):
    def ravel(self): return self
def ones(shape, kind): return Array()
def full(shape, value): return Array([value] * 3)
"""


def wheel(folder: Path, name: str, version: str, source: str, requires: tuple[str, ...] = (), path: str = "") -> None:
    """Write a wheel of one module, of which the path may be given."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    files = {
        path or f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},"
        f"{len(text.encode())}\n"
        for path, text in files.items()
    )
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record + f"{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)


def plain_wheels(folder: Path) -> Path:
    """Two runtimes that work, and what they need."""
    wheel(folder, "onnxruntime", "1.20", PLAIN, ("numpy>=1.20",))
    wheel(folder, "ai_edge_litert", "2.3.0", LITERT, ("numpy>=1.20",), "ai_edge_litert/interpreter.py")
    wheel(folder, "numpy", "1.26", NUMPY)
    wheel(folder, "pillow", "10.1", "")
    return folder
