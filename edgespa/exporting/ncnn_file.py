"""ncnn: pnnx on the program as TorchScript, or on its ONNX file where it takes that better; one sample at a time.

Two files: what is computed (``.param``, text) and the weights (``.bin``). A converter gives one file, so they come as a
zip archive, with the weights in half precision beside them, and are laid out where they are wanted.
"""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from edgespa.bundle import TensorSpec
from edgespa.errors import EdgespaError, ExportError
from edgespa.exporting import onnx_file
from edgespa.exporting.converter import HALF_SUFFIX, WEIGHTS_SUFFIX, Form
from edgespa.exporting.lowering import plain_projections, plain_strides, without_batch_norms
from edgespa.graph.program import Program
from edgespa.system.quiet import first_line, quiet

EXTRA = "ncnn"
PACKAGES = ("ncnn", "pnnx")
LONGEST_S = 1800
_MEMBERS = (".param", WEIGHTS_SUFFIX, HALF_SUFFIX)
_MOST_DIMENSIONS = 5
_WAY_ON = "export --format onnx or tflite"


def write_fp32(program: Program, path: Path, form: Form) -> None:
    """Convert a program; see `lay_out` for what is written.

    Args:
        program: In evaluation form.
        path: The archive to write.
        form: Neither pixels nor a batch other than one.

    Raises:
        ExportError: If ncnn cannot take such files, or the converter fails.
    """
    _require_one_image_of_numbers(program, form)
    program = plain_projections(plain_strides(without_batch_norms(program, convolutions=True)))
    problems = []
    for write in (_torchscript, _onnx):
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            try:
                with quiet("pnnx"):
                    source, shapes = write(program, Path(folder)), _shapes(program)
                    files = {half: _converted(source, shapes, half) for half in (False, True)}
                    _require_known(files[False])
            except EdgespaError as error:
                problems.append(error)
                continue
            except Exception as error:  # of torch, of pnnx
                problems.append(
                    ExportError(f"the program cannot be converted to ncnn: {first_line(error)}", f"{_WAY_ON} only")
                )
                continue
            with zipfile.ZipFile(path, "w") as archive:
                contents = (files[False], *(files[half].with_suffix(WEIGHTS_SUFFIX) for half in (False, True)))
                for suffix, content in zip(_MEMBERS, contents, strict=True):
                    archive.write(content, f"model{suffix}")
            return
    raise problems[0]


def lay_out(path: Path) -> None:
    """Put what a conversion has written where it is read: ``.param`` there, ``.bin`` and ``.half`` beside it.

    Args:
        path: The archive; the ``.param`` file when it is done.
    """
    with zipfile.ZipFile(path) as archive:
        contents = {suffix: archive.read(f"model{suffix}") for suffix in _MEMBERS}
    for suffix, content in contents.items():
        path.with_suffix(suffix).write_bytes(content)


class NcnnHalf:
    """The weights in half precision: what a quantiser of another format is, of fp16 alone.

    Args:
        source: The fp32 file, as it was laid out.
    """

    layers = float_layers = ()

    def __init__(self, source: Path) -> None:
        self._source = source

    def write_half(self, path: Path) -> None:
        """Weights in half precision; what is computed is in float32, or in half where it is asked for."""
        path.write_bytes(self._source.read_bytes())
        path.with_suffix(WEIGHTS_SUFFIX).write_bytes(self._source.with_suffix(HALF_SUFFIX).read_bytes())


def specs(program: Program, outputs: Sequence[NDArray[Any]]) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the files have them: by number, for one sample.

    Args:
        program: The program.
        outputs: Example outputs, for their types.
    """
    names = tuple(
        tuple(f"{side}{i}" for i in range(n)) for side, n in (("in", len(program.inputs)), ("out", len(outputs)))
    )
    return onnx_file.specs(program, outputs, Form(batch=1, names=(names[0], names[1])))


def _require_one_image_of_numbers(program: Program, form: Form) -> None:
    problem = None
    if form.pixels is not None:
        problem = "take no pixels", "leave out --preprocess in-graph"
    elif form.batch not in (None, 1):
        problem = "take one sample at a time", "leave out --batch"
    elif any(spec.dtype != torch.float32 for spec in program.inputs):
        problem = "take float32 only, not integers", _WAY_ON
    else:
        samples = program.example_inputs(1)
        with torch.no_grad():
            results = torch.utils._pytree.tree_leaves(program(*samples))
        if any(each.dtype != torch.float32 for each in results):
            problem = "give float32 only, not integers", _WAY_ON
        elif any(each.shape[:1] != (1,) for each in (*samples, *results)):
            problem = "take one sample at a time, and the model takes several, or something without a batch", _WAY_ON
        elif any(each.dim() > _MOST_DIMENSIONS for each in (*samples, *results)):
            problem = f"have at most {_MOST_DIMENSIONS - 1} dimensions beside the batch", _WAY_ON
    if problem is not None:
        raise ExportError(f"ncnn files {problem[0]}", problem[1])


def _torchscript(program: Program, folder: Path) -> Path:
    path = folder / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; pnnx reads nothing newer but ONNX
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            program.module, program.example_inputs(1), check_trace=False
        )
    traced.save(str(path))
    return path


def _onnx(program: Program, folder: Path) -> Path:
    missing = [package for package in onnx_file.PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ExportError("the program cannot be converted to ncnn", _WAY_ON)
    path = folder / "model.onnx"
    onnx_file.write_fp32(program, path, Form(batch=1))
    return path


def _shapes(program: Program) -> str:
    """Of the inputs, as the converter wants them."""
    return ",".join(f"[{','.join(map(str, each.shape))}]f32" for each in program.example_inputs(1))


def _converted(source: Path, shapes: str, half: bool) -> Path:
    """The ``.param`` file, its ``.bin`` beside it."""
    import pnnx

    folder = source.parent / ("half" if half else "whole")
    folder.mkdir()
    named = {name: folder / f"model.{name}" for name in ("pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx", "ncnnpy")}
    made = folder / "model.param"
    command = [pnnx.EXEC_PATH, str(source), f"inputshape={shapes}", f"fp16={int(half)}", "optlevel=2"]
    command += [f"{name}={path}" for name, path in named.items()]
    command += [f"ncnnparam={made}", f"ncnnbin={made.with_suffix(WEIGHTS_SUFFIX)}"]
    done = subprocess.run(
        command, cwd=folder, check=False, capture_output=True, text=True, errors="replace", timeout=LONGEST_S
    )
    if done.returncode or not made.is_file():
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise ExportError(f"pnnx cannot convert the program: {''.join(last)[:200]}", f"{_WAY_ON} only")
    return made


def _require_known(path: Path) -> None:
    """What pnnx does not know it leaves as operators of its own, of which ncnn knows nothing."""
    import ncnn

    if not ncnn.Net().load_param(str(path)):
        return
    kinds = {line.split()[0] for line in path.read_text(encoding="utf-8").splitlines()[2:] if line.split()}
    foreign = sorted(kind for kind in kinds if "." in kind or ":" in kind or not kind[:1].isupper())
    raise ExportError(f"ncnn has no layer for {', '.join(foreign) or 'what the program does'}", f"{_WAY_ON} only")
