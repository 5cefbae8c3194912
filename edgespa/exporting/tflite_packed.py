"""TFLite models as bytes: each constant in one piece, where runtimes map it.

The schema's own code writes a constant that is no array byte by byte: seconds for a megabyte; and it aligns none.
"""

from __future__ import annotations

from typing import Any

_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16


def packed(model: Any) -> bytes:
    """The file of a model.

    Args:
        model: A ``ModelT`` of the schema; the objects of its constants are replaced by others with the same content.
    """
    import flatbuffers
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    class Aligned(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> int:
            """As generated, but for speed and alignment."""
            data = None
            if self.data is not None:
                content = _bytes_of(self.data)
                builder.StartVector(1, len(content), _ALIGNMENT)
                builder.head = builder.Head() - len(content)
                builder.Bytes[builder.Head() : builder.Head() + len(content)] = content
                data = builder.EndVector()
            schema.BufferStart(builder)
            if data is not None:
                schema.BufferAddData(builder, data)
            return int(schema.BufferEnd(builder))

    def _bytes_of(data: Any) -> bytes:
        if isinstance(data, bytes | bytearray | memoryview):
            return bytes(data)
        return np.ascontiguousarray(np.asarray(data, dtype=np.uint8)).tobytes()

    def aligned(data: Any) -> Any:
        buffer = Aligned()
        buffer.data = data
        return buffer

    model.buffers = [aligned(each.data) for each in model.buffers]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())
