"""What an ONNX file says of itself: ``metadata_props``, and a text at the model and at each input and output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgespa.exporting.facts import Facts, Specs


def write_metadata(path: Path, facts: Facts, inputs: Specs, outputs: Specs, *, pixels: bool) -> None:
    """Write a file again, with what is known of it; what it said before is replaced, what it computes is not touched.

    Args:
        path: An ONNX file.
        facts: Of the model.
        inputs: Of the file, in the program's order.
        outputs: Likewise.
        pixels: The file normalises by itself.
    """
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, facts.entries(inputs, outputs, pixels=pixels))
    model.doc_string = facts.description
    told = {spec.name: facts.of_input(index, spec, pixels=pixels) for index, spec in enumerate(inputs)}
    told |= {spec.name: facts.of_output(index, spec) for index, spec in enumerate(outputs)}
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = told.get(value.name, "")
    onnx.save(model, path)


def with_entries(content: bytes, entries: Mapping[str, str]) -> bytes:
    """An ONNX file that has them as its ``metadata_props``, and no other; what it computes is not touched.

    Args:
        content: The file; its weights may lie elsewhere.
        entries: Keys and texts.
    """
    import onnx

    model = onnx.load_model_from_string(content)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(entries))
    return bytes(model.SerializeToString(deterministic=True))
