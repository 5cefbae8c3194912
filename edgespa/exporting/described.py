"""Lets a file say what it is, in the words of its format."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

from edgespa.exporting import executorch_file, onnx_meta, tflite_file, tflite_meta
from edgespa.exporting.converter import SAYS_SUFFIX, Form
from edgespa.exporting.facts import Facts, Specs
from edgespa.exporting.said import ENTRY, text_of


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
    facts = _of_one_image(facts, inputs)
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
    elif name == "ncnn":
        # The text of a .param file has no place for it: what is behind the last layer is not for other readers.
        entries = facts.entries(_by_number(inputs, "in"), _by_number(outputs, "out"), pixels=False)
        path.with_suffix(SAYS_SUFFIX).write_text(text_of(entries), encoding="utf-8")
    elif name == "executorch":
        # Behind the program, whose header says where it ends.
        takes, given = executorch_file.numbered(inputs, "in", form), executorch_file.numbered(outputs, "out", form)
        entries = facts.entries(takes, given, pixels=False)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(zipfile.ZipInfo(ENTRY), text_of(entries))


def entries_of(facts: Facts, specs: tuple[Specs, Specs]) -> dict[str, str]:
    """Keys and texts for a file that is written with them at once, and takes what the program takes.

    Args:
        facts: Of the model.
        specs: Inputs and outputs of the file.
    """
    return _of_one_image(facts, specs[0]).entries(*specs, pixels=False)


def _of_one_image(facts: Facts, inputs: Specs) -> Facts:
    return facts if len(inputs) == 1 else dataclasses.replace(facts, preprocess=None)


def _by_number(specs: Specs, side: str) -> Specs:
    """As the files of ncnn have them: by number, for one sample."""
    return tuple(
        spec.model_copy(update={"name": f"{side}{index}", "shape": (1, *spec.shape[1:])})
        for index, spec in enumerate(specs)
    )
