"""Several TFLite files of one network, each for a size of its input, as one file with a signature for each.

A TFLite file has its sizes in its constants, so it is not resized: each size is converted by itself. What the files
hold in common, which are the weights, is stored once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgespa.errors import ExportError
from edgespa.exporting.tflite_packed import packed
from edgespa.system.quiet import quiet

_APART = ("largeCustomOptionsOffset", "offset")
"""Of operators and buffers: where content of files beyond 2 GiB lies, behind the FlatBuffer."""


def joined(files: Mapping[str, bytes]) -> bytes:
    """One file of many: its signatures have the names that are given, in their order; the first graph is the first's.

    Args:
        files: Name of a signature to a TFLite file with one signature. Metadata are the first's; what lies behind a
            model, such as labels, is not taken.

    Returns:
        The file. Equal files give equal bytes.

    Raises:
        ExportError: If a file has not one signature, or content behind its model.
    """
    with quiet("flatbuffers"):
        from ai_edge_quantizer.utils import tfl_flatbuffer_utils

        models = {name: tfl_flatbuffer_utils.read_model(content) for name, content in files.items()}
        for name, model in models.items():
            _require_plain(name, model)
        names = iter(models)
        first = models[next(names)]
        join = _Join(first)
        for name, model in models.items():
            join.add(name, model)
        first.subgraphs, first.signatureDefs = join.graphs, join.signatures
        first.operatorCodes, first.buffers = join.codes, join.buffers
        return packed(first)


class _Join:
    """What the models so far have together.

    Args:
        first: Whose metadata are taken; its buffers are the first ones.
    """

    def __init__(self, first: Any) -> None:
        self.graphs: list[Any] = []
        self.signatures: list[Any] = []
        self.codes: list[Any] = []
        self.buffers: list[Any] = [first.buffers[0]]  # is empty, by the schema
        self._places: dict[bytes, int] = {b"": 0}
        self._known: dict[tuple[Any, ...], int] = {}
        for each in first.metadata or ():
            each.buffer = self._place(first.buffers[each.buffer])

    def add(self, name: str, model: Any) -> None:
        """One more.

        Args:
            name: Of its signature.
            model: A ``ModelT``, which is changed.
        """
        start = len(self.graphs)
        places = [self._place(each) for each in model.buffers]
        codes = [self._code(each) for each in model.operatorCodes]
        for graph in model.subgraphs:
            for tensor in graph.tensors:
                tensor.buffer = places[tensor.buffer]
            for operator in graph.operators:
                operator.opcodeIndex = codes[operator.opcodeIndex]
                for options in (operator.builtinOptions, operator.builtinOptions2):
                    _shift(options, start)
        (signature,) = model.signatureDefs
        signature.signatureKey = name.encode()
        signature.subgraphIndex += start
        self.graphs += model.subgraphs
        self.signatures.append(signature)

    def _place(self, buffer: Any) -> int:
        data = buffer.data
        content = b"" if data is None else bytes(data)
        if content not in self._places:
            self._places[content] = len(self.buffers)
            self.buffers.append(buffer)
        return self._places[content]

    def _code(self, code: Any) -> int:
        key = (code.builtinCode, code.deprecatedBuiltinCode, code.customCode, code.version)
        if key not in self._known:
            self._known[key] = len(self.codes)
            self.codes.append(code)
        return self._known[key]


def _shift(options: Any, start: int) -> None:
    """Graphs that an operator runs, as those of a loop or of a composite, are counted from the whole file's first."""
    for name, value in vars(options).items() if options is not None else ():
        if "subgraph" in name.lower() and value >= 0:
            setattr(options, name, value + start)


def _require_plain(name: str, model: Any) -> None:
    count = len(model.signatureDefs or ())
    operators = [each for graph in model.subgraphs for each in graph.operators]
    apart = any(getattr(each, key, 0) for each in (*operators, *model.buffers) for key in _APART)
    if count == 1 and not apart:
        return
    problem = "content behind its model" if apart else f"{count} signatures"
    raise ExportError(
        f"the file of {name} has {problem}, so it is not joined with others", "export each size to a bundle of its own"
    )
