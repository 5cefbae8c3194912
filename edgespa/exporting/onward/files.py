"""The files for PyTorch: an exported program, Python source, and the tensors of both; each proved like any other.

Nothing on a device runs them. They say what the compact network is to whoever trains it on, or builds it into
something of their own, without edgespa.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import fx

from edgespa.errors import EdgespaError, ExportError
from edgespa.exporting.onward.layers import frozen_norms, ordinary, stripped
from edgespa.exporting.onward.source import source_of
from edgespa.exporting.said import ENTRY, text_of
from edgespa.graph.program import BATCH, Program
from edgespa.system.quiet import first_line, quiet

WEIGHTS = "model.safetensors"
SUFFIXES = {"pt2": "pt2", "python": "py"}
"""Of the files of a format."""
ONWARD = tuple(SUFFIXES)
_LIBRARIES = ("torchvision",)
_OF_PLACES = ("stack_trace", "from_node", "source_fn_stack", "torch_fn")


def write(
    program: Program, name: str, path: Path, entries: Mapping[str, str] | None = None
) -> tuple[Path, tuple[str, ...]]:
    """Write a file of one of the formats, and the tensors beside it.

    Args:
        program: With plain outputs, in float32.
        name: ``pt2`` or ``python``.
        path: The file.
        entries: What it says of itself, see `edgespa.exporting.facts.Facts.entries`.

    Returns:
        The file of the tensors, and the libraries besides torch that the file needs.

    Raises:
        ExportError: If the program cannot be written so; it says why.
    """
    module = ordinary(program)
    weights = path.with_name(WEIGHTS)
    weights.write_bytes(save({key: value.contiguous() for key, value in module.state_dict().items()}, {"format": "pt"}))
    if name == "python":
        path.write_text(source_of(module, WEIGHTS, _notes(module), entries or {}), encoding="utf-8")
        return weights, ()
    path.write_bytes(_exported(stripped(module), program, entries or {}))
    return weights, _libraries(program)


def remove(path: Path) -> None:
    """Remove a file that is not proved, and its tensors where no other file has them.

    Args:
        path: The file.
    """
    path.unlink(missing_ok=True)
    if not any(path.with_suffix(f".{suffix}").exists() for suffix in SUFFIXES.values()):
        path.with_name(WEIGHTS).unlink(missing_ok=True)


def _notes(module: fx.GraphModule) -> list[str]:
    count = frozen_norms(module)
    if not count:
        return []
    some = f"{count} of its batch norms are" if count > 1 else "One of its batch norms is"
    return [f"{some} no layers, and keep their statistics in training, too."]


def _libraries(program: Program) -> tuple[str, ...]:
    spaces = {getattr(node.target, "namespace", "") for node in program.graph.nodes if node.op == "call_function"}
    return tuple(each for each in _LIBRARIES if each in spaces)


def _exported(module: fx.GraphModule, program: Program, entries: Mapping[str, str]) -> bytes:
    """The exported program, in evaluation form, with nothing in it of where and when it was made."""
    free = torch.export.Dim(BATCH)
    shapes = tuple({0: free} if BATCH in spec.shape else None for spec in program.inputs)
    try:
        with quiet("torch.export"):
            made = torch.export.export(module, program.example_inputs(), dynamic_shapes=shapes)
            for part in made.graph_module.modules():
                for node in part.graph.nodes if isinstance(part, fx.GraphModule) else ():
                    for key in _OF_PLACES:
                        node.meta.pop(key, None)
            content = io.BytesIO()
            torch.export.save(made, content, extra_files={ENTRY: text_of(entries)} if entries else None)
    except EdgespaError:
        raise
    except Exception as error:
        raise ExportError(
            f"torch.export cannot save the network: {first_line(error)}",
            "run again with --debug for its own words, or export --format python",
        ) from error
    return content.getvalue()
