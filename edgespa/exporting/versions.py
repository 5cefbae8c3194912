"""Which ONNX files an ONNX Runtime loads: the newest opset and IR version of each of its versions.

From the table "ONNX opset support" of https://onnxruntime.ai/docs/reference/compatibility.html; for 1.9 and 1.10 the
careful 7 of that page, though their ONNX release (1.10) already knows IR 8.
"""

from __future__ import annotations

import dataclasses

from edgespa.errors import ConfigError

DEFAULT_RUNTIME = "1.19"
"""The newest for JetPack 5, the oldest board that is aimed at by default."""
LEAST_OPSET = 13
"""It has quantisation per channel."""
EXPORTER_OPSET = 18
"""The least that torch.onnx writes by itself; older ones are converted from it."""

_TABLE = {
    (1, 8): (14, 7),
    (1, 9): (15, 7),
    (1, 10): (15, 7),
    (1, 11): (16, 8),
    (1, 12): (17, 8),
    (1, 13): (17, 8),
    (1, 14): (18, 8),
    (1, 15): (19, 8),
    (1, 16): (19, 9),
    (1, 17): (20, 9),
    (1, 18): (21, 10),
}
# Gelu came with 20 and makes transformers smaller; what 21 added (4 and 16 bits) is not used.
_PREFERRED_OPSET = 20


@dataclasses.dataclass(frozen=True)
class Target:
    """What a file is written for.

    Attributes:
        opset: ONNX opset.
        ir: ONNX IR version.
    """

    opset: int
    ir: int


def target_of(runtime: str, opset: int | None = None) -> Target:
    """The opset and IR version for the oldest runtime that is to load a file.

    Args:
        runtime: A version of ONNX Runtime: ``1.19``, ``1.19.2``, ``onnxruntime==1.19.2``.
        opset: Another opset that is wished for, not newer than the runtime knows.

    Raises:
        ConfigError: If the version is none, or too old, or does not know the opset.
    """
    text = runtime.strip().removeprefix("onnxruntime").removeprefix("-gpu").lstrip("=<> ")
    parts = text.split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts[:2]):
        raise ConfigError(f"'{runtime}' is not a version of ONNX Runtime", "write it as in 1.19 or onnxruntime==1.19.2")
    version = (int(parts[0]), int(parts[1]))
    known = max((each for each in _TABLE if each <= version), default=None)
    if known is None:
        oldest = ".".join(map(str, min(_TABLE)))
        raise ConfigError(
            f"ONNX Runtime {text} is older than {oldest}, the oldest that files can be written for",
            f"name {oldest} or newer, or export --format tflite",
        )
    newest, ir = _TABLE[known]
    if opset is None:
        return Target(min(newest, _PREFERRED_OPSET), ir)
    if not LEAST_OPSET <= opset <= newest:
        raise ConfigError(
            f"opset {opset} is not between {LEAST_OPSET} and {newest}, the newest that ONNX Runtime {text} loads",
            "name another --opset, or a newer --onnx-runtime",
        )
    return Target(opset, ir)


DEFAULT = target_of(DEFAULT_RUNTIME)
