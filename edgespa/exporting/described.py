"""Lets a file say what it is, in the words of its format."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgespa.exporting import onnx_meta, tflite_file, tflite_meta
from edgespa.exporting.converter import Form
from edgespa.exporting.facts import Facts, Specs


def describe(path: Path, name: str, facts: Facts, form: Form, specs: tuple[Specs, Specs]) -> None:
    """Write what is known into a file; formats that have no place for it stay as they are.

    Args:
        path: The file; it is proved as it is afterwards.
        name: Its format.
        facts: Of the model.
        form: What the file looks like.
        specs: Inputs and outputs as an ONNX file of that form has them.
    """
    inputs, outputs = specs
    facts = facts if len(inputs) == 1 else dataclasses.replace(facts, preprocess=None)
    pixels = form.pixels is not None
    if name == "onnx":
        onnx_meta.write_metadata(path, facts, inputs, outputs, pixels=pixels)
    elif name == "tflite":
        # Its own sizes and layouts, under the program's names: the file's own are numbers.
        own = tflite_file.specs(path, form)
        has = tuple(spec.model_copy(update={"name": each.name}) for spec, each in zip(own[0], inputs, strict=True))
        gives = tuple(spec.model_copy(update={"name": each.name}) for spec, each in zip(own[1], outputs, strict=True))
        tflite_meta.write_metadata(
            path,
            facts.task,
            [spec.name for spec in inputs],
            [spec.name for spec in outputs],
            preprocess=facts.preprocess,
            pixels=pixels,
            classes=facts.classes,
            facts=facts,
            specs=(has, gives),
        )
