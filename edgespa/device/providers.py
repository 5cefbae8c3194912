"""Which provider of a runtime computes a variant, from what is asked for. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from edgespa.errors import ConfigError

_SUFFIX = "ExecutionProvider"
_SHORT = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "acl": "ACLExecutionProvider",
    "armnn": "ArmNNExecutionProvider",
}
CPU = _SHORT["cpu"]
DEFAULT = None
"""What the runner takes by itself: the CPU."""


def full_name(text: str) -> str:
    """ONNX Runtime's name for a provider: ``cuda`` -> ``CUDAExecutionProvider``; a full name stays as it is.

    Raises:
        ConfigError: It is neither.
    """
    if text.lower() in _SHORT:
        return _SHORT[text.lower()]
    if text.endswith(_SUFFIX) and len(text) > len(_SUFFIX):
        return text
    raise ConfigError(f"there is no provider '{text}'", f"write one of {', '.join(_SHORT)}, or ONNX Runtime's own name")


def for_format(kind: str, asked: Sequence[str]) -> tuple[str | None, ...]:
    """The providers to measure a variant with.

    Args:
        kind: Its format, ``"onnx"`` or ``"tflite"``.
        asked: As the user wrote them; none for what the runner takes.

    Returns:
        Names for the runner's ``--provider``; `DEFAULT` for its own choice. Empty: none of those asked for runs this
        format. LiteRT has the CPU only.
    """
    if not asked:
        return (DEFAULT,)
    names = [full_name(each) for each in asked]
    if kind == "onnx":
        return tuple(dict.fromkeys(names))
    return (DEFAULT,) if CPU in names else ()
