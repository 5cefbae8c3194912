"""ExecuTorch: the program as PyTorch exports it, its layers handed to XNNPACK, for a fixed batch.

Two files come from one conversion, float32 and half precision, for both are made of the program and neither of the
other. A converter gives one file, so they come as a zip archive, and are laid out where they are wanted.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from edgespa.bundle import TensorSpec
from edgespa.errors import ExportError
from edgespa.exporting import onnx_file
from edgespa.exporting.converter import HALF_SUFFIX, Form
from edgespa.exporting.lowering import without_batch_norms
from edgespa.graph.program import BATCH, Program
from edgespa.system.quiet import first_line, quiet

EXTRA = "executorch"
PACKAGES = ("executorch.exir",)
_SUFFIX = ".pte"
_WHY = b"none: "
"""In place of a file that there is not; those of ExecuTorch begin otherwise."""
_WAY_ON = "export --format onnx or tflite"


def write_fp32(program: Program, path: Path, form: Form) -> None:
    """Convert a program for a fixed batch, one unless the form says another; see `lay_out` for what is written.

    Args:
        program: In evaluation form.
        path: The archive to write.
        form: A batch; no pixels.

    Raises:
        ExportError: If the files are to take pixels, or the converter fails.
    """
    if form.pixels is not None:
        raise ExportError("executorch files take no pixels", "leave out --preprocess in-graph")
    program = without_batch_norms(program, convolutions=True)
    inputs = program.example_inputs(form.batch or 1)
    try:
        with quiet("executorch"):
            contents = {_SUFFIX: _converted(program.module, inputs)}
    except Exception as error:  # of torch, of the converter
        raise ExportError(
            f"the program cannot be converted to ExecuTorch: {first_line(error)}", f"{_WAY_ON} only"
        ) from error
    try:
        with quiet("executorch"):
            contents[HALF_SUFFIX] = _converted(_Half(program.copy().module), inputs)
    except Exception as error:  # what is not there in half precision: the fp16 file is left out, with that reason
        contents[HALF_SUFFIX] = _WHY + first_line(error).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for suffix, content in contents.items():
            archive.writestr(f"model{suffix}", content)


def lay_out(path: Path) -> None:
    """Put what a conversion has written where it is read: the float32 file there, the one in half beside it.

    Args:
        path: The archive; the ``.pte`` file when it is done.
    """
    with zipfile.ZipFile(path) as archive:
        contents = {suffix: archive.read(f"model{suffix}") for suffix in (_SUFFIX, HALF_SUFFIX)}
    for suffix, content in contents.items():
        path.with_suffix(suffix).write_bytes(content)


class ExecuTorchHalf:
    """The file in half precision: what a quantiser of another format is, of fp16 alone.

    Args:
        source: The fp32 file, as it was laid out.
    """

    layers = float_layers = ()

    def __init__(self, source: Path) -> None:
        self._source = source

    def write_half(self, path: Path) -> None:
        """Weights and activations in half precision; inputs and outputs stay float32.

        Raises:
            ExportError: If the converter could not make one.
        """
        content = self._source.with_suffix(HALF_SUFFIX).read_bytes()
        if content.startswith(_WHY):
            reason = content[len(_WHY) :].decode("utf-8", "replace")
            raise ExportError(
                f"the program cannot be converted to ExecuTorch in half precision: {reason}",
                "leave out --precision fp16",
            )
        path.write_bytes(content)


def specs(
    program: Program, outputs: Sequence[NDArray[Any]], form: Form
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the files have them: by number, for a fixed batch.

    Args:
        program: The program.
        outputs: Example outputs, for their types.
        form: Its batch counts.
    """
    inputs, given = onnx_file.specs(program, outputs, Form(batch=form.batch))
    return numbered(inputs, "in", form), numbered(given, "out", form)


def numbered(specs: Sequence[TensorSpec], side: str, form: Form) -> tuple[TensorSpec, ...]:
    """Tensors as the files have them: without names, and a batch that is free elsewhere is fixed.

    Args:
        specs: As an ONNX file has them.
        side: ``in`` or ``out``, before the number.
        form: Its batch counts.
    """
    batch = form.batch or 1
    return tuple(
        spec.model_copy(
            update={"name": f"{side}{number}", "shape": tuple(batch if size == BATCH else size for size in spec.shape)}
        )
        for number, spec in enumerate(specs)
    )


class _Half(torch.nn.Module):
    """A module in half precision, that takes and gives float32."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.inner = module.half()

    def forward(self, *inputs: torch.Tensor) -> Any:
        found = self.inner(*(each.half() if each.is_floating_point() else each for each in inputs))
        return torch.utils._pytree.tree_map(lambda each: each.float() if each.is_floating_point() else each, found)


def _converted(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    for part in module.modules():
        part.training = False  # an exported module refuses .eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the converter's own, of torch's newer forms
        exported = torch.export.export(module, inputs)
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        return bytes(lowered.to_executorch().buffer)
