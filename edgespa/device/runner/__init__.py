"""Runs the models of a bundle: checks them, measures them, says what they see in an image.

The parts are joined into one file (`edgespa.device.assemble.runner_source`) that goes into every bundle as ``run.py``.
It stands alone there: Python 3.8 or newer, numpy, and one of onnxruntime, openvino, ncnn, executorch, ai_edge_litert,
tflite_runtime or tensorflow; Pillow only for ``--input IMAGE``. So the parts import nothing of edgespa but each other
and those of `edgespa.pixels` that stand alone, which are joined to them.
"""

from edgespa.device.runner.answer import Reader, Result, areas, class_map, interpret
from edgespa.device.runner.bundle import RunnerError, read_bundle
from edgespa.device.runner.check import Recorded, noise, noise_pixels, read_samples
from edgespa.device.runner.command import main
from edgespa.device.runner.compare import TOLERANCE, compare, exceeded, scales_of
from edgespa.device.runner.draw import draw
from edgespa.device.runner.inputs import preprocess, read_arrays
from edgespa.device.runner.layouts import as_the_file_takes, to_file_layout, to_program_layout
from edgespa.device.runner.many import files_of, natural
from edgespa.device.runner.measure import summarise
from edgespa.device.runner.model import Model
from edgespa.device.runner.models import infer, open_model
from edgespa.device.runner.places import thinned
from edgespa.device.runner.points import point_rows
from edgespa.device.runner.runtimes import import_runtime
from edgespa.device.runner.sets import reordered
from edgespa.device.runner.tensors import read_tensors
from edgespa.device.runner.weights import BASE, materialise
from edgespa.pixels.boxes import decode_boxes
from edgespa.pixels.values import normalised, to_pixels

__all__ = [
    "BASE",
    "TOLERANCE",
    "Model",
    "Reader",
    "Recorded",
    "Result",
    "RunnerError",
    "areas",
    "as_the_file_takes",
    "class_map",
    "compare",
    "decode_boxes",
    "draw",
    "exceeded",
    "files_of",
    "import_runtime",
    "infer",
    "interpret",
    "main",
    "materialise",
    "natural",
    "noise",
    "noise_pixels",
    "normalised",
    "open_model",
    "point_rows",
    "preprocess",
    "read_arrays",
    "read_bundle",
    "read_samples",
    "read_tensors",
    "reordered",
    "scales_of",
    "summarise",
    "thinned",
    "to_file_layout",
    "to_pixels",
    "to_program_layout",
]
