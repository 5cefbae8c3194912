"""The signature of a quantised TFLite file: that its outputs are the graph's."""

from __future__ import annotations

from pathlib import Path

from edgespa.exporting.tflite_packed import packed
from edgespa.system.quiet import quiet


def keep_signature(path: Path, source: bytes) -> None:
    """Let the signature name the outputs of the graph, as in the file that it was made from.

    ai-edge-quantizer leaves it at the tensor inside of the graph where that is read there, too: what is int8, or not
    there any more when a runtime has joined operators.

    Args:
        path: The quantised file; it is written again where something is to mend.
        source: The file that it was made from.
    """
    with quiet("flatbuffers"):
        from ai_edge_litert.tools import flatbuffer_utils
        from ai_edge_quantizer.utils import tfl_flatbuffer_utils

        before, model = tfl_flatbuffer_utils.read_model(source), flatbuffer_utils.read_model(str(path))
        changed = False
        for old, new in zip(before.signatureDefs or (), model.signatureDefs or (), strict=True):
            places = [int(index) for index in before.subgraphs[old.subgraphIndex].outputs]
            outputs = [int(index) for index in model.subgraphs[new.subgraphIndex].outputs]
            named = {each.name: outputs[places.index(int(each.tensorIndex))] for each in old.outputs}
            for each in new.outputs:
                changed |= int(each.tensorIndex) != named[each.name]
                each.tensorIndex = named[each.name]
        if changed:
            path.write_bytes(packed(model))
