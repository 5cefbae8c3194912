"""Metadata in TFLite files, as TensorFlow Lite's Task Library and Android Studio read them: normalisation and labels.

The format is ``metadata_schema.fbs`` of tflite-support (1.2.0 where outputs are grouped): a FlatBuffer under the name
``TFLITE_METADATA``, and what it names as a zip behind the model. No package that writes it installs beside a current
Python, so the few tables that are needed are written here (`edgespa.exporting.tflite_tables`).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgespa.bundle import LABELS
from edgespa.config import Preprocess
from edgespa.exporting.facts import MADE_BY, Facts, Specs, line
from edgespa.exporting.said import ENTRY, text_of
from edgespa.exporting.tflite_packed import packed
from edgespa.exporting.tflite_tables import AXIS_LABELS, DESCRIPTIONS, VALUE_LABELS, Tables
from edgespa.system.quiet import quiet

NAME, IDENTIFIER, PARSER, GROUPS_PARSER = "TFLITE_METADATA", b"M001", "1.0.0", "1.2.0"
FACTS = ENTRY
"""The entry of the zip that has all that is known, in the words of the ONNX file."""
GROUP = "detection_result"
_OF_BOXES = {"boxes": "location", "classes": "category", "scores": "score"}
_COUNT = "count", "number of detections"
_MASKS = "segmentation_masks"
SEGMENTER, SEGMENTER_IDENTIFIER, SEGMENTER_PARSER = "SEGMENTER_METADATA", b"V001", "1.5.0"
"""What MediaPipe's image segmenter reads besides: ``image_segmenter_metadata_schema.fbs`` of MediaPipe."""
_NONE, _SIGMOID, _SOFTMAX = 0, 1, 2
_LOGISTIC_OP, _SOFTMAX_OP = 14, 25
_MOVING_OPS = frozenset({6, 22, 39, 114})
"""Of ``BuiltinOperator``: DEQUANTIZE, RESHAPE, TRANSPOSE, QUANTIZE."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_metadata(
    path: Path,
    title: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    preprocess: Preprocess | None = None,
    pixels: bool = False,
    classes: Sequence[str] = (),
    facts: Facts | None = None,
    specs: tuple[Specs, Specs] | None = None,
) -> None:
    """Write a file again with metadata, its constants aligned to 16 bytes.

    Args:
        path: A TFLite file.
        title: Name of the model.
        inputs: Names of its inputs, in their order.
        outputs: Names of its outputs.
        preprocess: From image to the first input; None if it is not an image.
        pixels: The file normalises by itself: its input are pixels.
        classes: Labels of the first output, or of what ``facts`` say.
        facts: What is known of the model besides.
        specs: Inputs and outputs of the file, under those names, for what ``facts`` say of them.
    """
    names = [line(each) for each in classes]
    entries: dict[str, str] = {}
    if facts is not None and specs is not None:
        entries = facts.entries(*specs, pixels=pixels)
    with quiet("flatbuffers"):
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools import flatbuffer_utils

        model = flatbuffer_utils.read_model(str(path))
        says = _Says(title, preprocess, pixels, names, facts, specs)
        takes, gives = _places(model, len(inputs), len(outputs))
        content = says.written(
            [(at, inputs[at]) for at in takes], [(at, outputs[at]) for at in gives], _ends(model, gives)
        )
        entry = next((each for each in model.metadata or [] if _text(each.name) == NAME), None)
        if entry is None:
            entry = schema.MetadataT()
            entry.name, entry.buffer = NAME, len(model.buffers)
            model.buffers = [*model.buffers, schema.BufferT()]
            model.metadata = [*(model.metadata or []), entry]
        model.buffers[entry.buffer].data = content
        written = packed(model)
    path.write_bytes(written + _behind(names, entries))


def read_labels(path: Path) -> list[str]:
    """The labels behind a model; empty if there are none.

    Args:
        path: A TFLite file.
    """
    return (_entry(path, LABELS) or "").splitlines()


def _entry(path: Path, name: str) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name).decode("utf-8")
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError):
        return None


def _ends(model: Any, gives: Sequence[int]) -> int | None:
    """The operator that computes the first output, what only moves or rounds values left out."""
    graph = model.subgraphs[0]
    at = int(graph.outputs[gives.index(0)]) if 0 in gives else -1
    made_by = {int(tensor): each for each in graph.operators for tensor in each.outputs}
    while at in made_by:
        operator = made_by.pop(at)
        code = model.operatorCodes[operator.opcodeIndex]
        kind = max(int(code.builtinCode), int(code.deprecatedBuiltinCode))
        if kind not in _MOVING_OPS:
            return kind
        at = int(operator.inputs[0])
    return None


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _behind(classes: Sequence[str], entries: Mapping[str, str]) -> bytes:
    """The zip behind a model; nothing where there is nothing in it."""
    if not classes and not entries:
        return b""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        if classes:
            archive.writestr(zipfile.ZipInfo(LABELS, _EPOCH), "\n".join(classes) + "\n")
        if entries:
            archive.writestr(zipfile.ZipInfo(FACTS, _EPOCH), text_of(entries).encode())
    return stream.getvalue()


def _places(model: Any, inputs: int, outputs: int) -> tuple[list[int], list[int]]:
    """Of each input and output of the graph its place in the program: the signature has them by number."""
    usual = list(range(inputs)), list(range(outputs))
    if not model.signatureDefs:
        return usual
    signature, graph = model.signatureDefs[0], model.subgraphs[0]
    found = []
    for named, own, count in ((signature.inputs, graph.inputs, inputs), (signature.outputs, graph.outputs, outputs)):
        ordered = sorted(named, key=lambda each: (len(_text(each.name)), _text(each.name)))
        at = {int(each.tensorIndex): place for place, each in enumerate(ordered)}
        places = [at.get(int(index), -1) for index in own]
        if sorted(places) != list(range(count)):  # a tensor that is given twice
            return usual
        found.append(places)
    return found[0], found[1]


class _Says:
    """What the metadata say.

    Args:
        title: Name of the model.
        preprocess: From image to the first input.
        pixels: The file normalises by itself.
        classes: Labels, each in one line.
        facts: What is known besides.
        specs: Inputs and outputs of the file.
    """

    def __init__(
        self,
        title: str,
        preprocess: Preprocess | None,
        pixels: bool,
        classes: Sequence[str],
        facts: Facts | None,
        specs: tuple[Specs, Specs] | None,
    ) -> None:
        import flatbuffers

        self._write = Tables(flatbuffers.Builder(1024))
        self._title, self._how, self._pixels, self._classes = line(title), preprocess, pixels, classes
        self._facts, self._specs = facts, specs

    def written(self, inputs: Sequence[tuple[int, str]], outputs: Sequence[tuple[int, str]], ends: int | None) -> bytes:
        """The FlatBuffer; inputs and outputs by place in the program and name, in the order of the graph.

        ``ends`` is the operator that computes the first output.
        """
        write, facts = self._write, self._facts
        takes = [self._input(at, name) for at, name in inputs]
        gives = [self._output(at, name) for at, name in outputs]
        fields: dict[int, Any]
        groups, parser = None, PARSER
        if facts is not None and facts.gives_boxes:
            members = [write.text(_OF_BOXES[name]) for _, name in outputs if name in _OF_BOXES]
            groups = write.rows(
                [write.table({0: write.text(GROUP), 1: write.rows([each for each in members if each])}, 2)]
            )
            parser = GROUPS_PARSER
        more = None
        if self._is_segmented():
            more = write.rows([write.table({0: write.text(SEGMENTER), 1: write.nested(self._segmenter(ends))}, 2)])
            parser = SEGMENTER_PARSER
        graph = write.table({2: write.rows(takes), 3: write.rows(gives), 8: groups, 9: more}, 10)
        fields = {0: write.text(self._title), 3: write.rows([graph]), 7: write.text(parser)}
        if facts is not None:
            fields |= {1: write.text(facts.description), 4: write.text(MADE_BY)}
            fields[5] = write.text(line(facts.base.license) if facts.base.license is not None else None)
            files = [write.file(FACTS, DESCRIPTIONS, "what is known of the model, by key")] if self._specs else []
            fields[6] = write.rows(files) if files else None
        write.builder.Finish(write.table(fields, 8), file_identifier=IDENTIFIER)
        return bytes(write.builder.Output())

    def _input(self, at: int, name: str) -> int:
        write = self._write
        told = None
        if self._facts is not None and self._specs is not None:
            told = write.text(self._facts.of_input(at, self._specs[0][at], pixels=self._pixels))
        if at or self._how is None:
            return write.table({0: write.text(name), 1: told}, 7)
        units = write.rows([write.normalisation(self._how, inside=self._pixels)])
        return write.table({0: write.text("image"), 1: told, 3: write.image(self._how), 4: units}, 7)

    def _output(self, at: int, name: str) -> int:
        write, facts = self._write, self._facts
        fields: dict[int, Any] = {}
        if facts is not None and self._specs is not None:
            fields[1] = write.text(facts.of_output(at, self._specs[1][at]))
        if facts is not None and facts.gives_boxes and name in _OF_BOXES:
            decoding = facts.decoding
            assert decoding is not None
            if name == "boxes":
                fields[3] = write.boxes(ratio=decoding.unit == "input")
            elif name == "scores":
                fields[4] = write.rows([write.threshold(decoding.threshold)])
            elif self._classes:
                fields[6] = write.rows([write.file(LABELS, VALUE_LABELS, "names of the classes")])
            name = _OF_BOXES[name]
        elif facts is not None and facts.gives_boxes and name == _COUNT[0]:
            name = _COUNT[1]
        elif self._is_labelled(at):
            fields[6] = write.rows([write.file(LABELS, AXIS_LABELS, "names of the classes")])
            name = "scores"
        if at == 0 and self._is_segmented():
            fields[3], name = write.masks(), _MASKS
        return write.table({0: write.text(name), **fields}, 7)

    def _is_segmented(self) -> bool:
        known = self._facts is not None and self._facts.objective == "segmentation"
        return known and self._specs is not None and len(self._specs[1][0].shape) == 4

    def _segmenter(self, ends: int | None) -> bytes:
        """What a reader has to do to get a share of each class at each place: nothing where the file does it."""
        import flatbuffers

        done = ends in (_LOGISTIC_OP, _SOFTMAX_OP)
        activation = _NONE if done else _SIGMOID if self._axis(0) == 1 else _SOFTMAX
        write = Tables(flatbuffers.Builder(64))
        options = write.table({0: ("int8", activation), 1: write.text("1.0.0")}, 2)
        write.builder.Finish(options, file_identifier=SEGMENTER_IDENTIFIER)
        return bytes(write.builder.Output())

    def _is_labelled(self, at: int) -> bool:
        """Whether an output has an entry for each class, and nothing else, along its last axis."""
        facts = self._facts
        if not self._classes:
            return False
        if facts is None or self._specs is None:
            return at == 0
        if facts.decoding is not None:
            scores = facts.decoding.scores
            own = at == scores.output and not scores.rows and not scores.first and facts.decoding.background is None
        else:
            own = at == 0 and facts.objective in ("classes", "multi-label", "regression", "segmentation", "heatmaps")
        return own and self._axis(at) == len(self._classes)

    def _axis(self, at: int) -> Any:
        assert self._specs is not None
        spec = self._specs[1][at]
        return spec.shape[1 if spec.layout == "NCHW" else -1]
