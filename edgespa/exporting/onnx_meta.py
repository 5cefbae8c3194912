"""What an ONNX file says of itself: ``metadata_props``, and a text at the model and at each input and output."""

from __future__ import annotations

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


def read_metadata(path: Path) -> dict[str, str]:
    """The ``metadata_props`` of a file; empty if there are none.

    Args:
        path: An ONNX file.
    """
    import onnx

    return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
