"""Which versions of runtimes are put on devices: those that bundles are tested with, and none that is known to fail."""

from __future__ import annotations

from dataclasses import dataclass

TESTED: dict[str, tuple[tuple[str, tuple[int, int]], ...]] = {
    "onnxruntime": (("1.31.1", (3, 11)), ("1.23.2", (3, 10)), ("1.19.2", (3, 8))),
    "openvino": (("2026.4.1", (3, 10)),),
    "ncnn": (("1.0.20261020", (3, 9)),),
    "executorch": (("1.5.1", (3, 10)),),
    "ai-edge-litert": (("2.3.0", (3, 10)), ("2.1.0", (3, 9))),
    "tflite-runtime": (("2.14.0", (3, 9)), ("2.13.0", (3, 8))),
}
"""By package, the newest first: a version, and the oldest Python that it has wheels for."""

MODULES = {
    "onnxruntime": "onnxruntime",
    "onnxruntime-gpu": "onnxruntime",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "executorch": "executorch",
    "ai-edge-litert": "ai_edge_litert",
    "tflite-runtime": "tflite_runtime",
}
"""What each package is imported as."""


@dataclass(frozen=True)
class Failing:
    """A version that is known to fail somewhere.

    Attributes:
        version: Of the package.
        where: On what.
        instead: A version that works there.
    """

    version: str
    where: str
    instead: str


FAILING = {
    # github.com/microsoft/onnxruntime, issues 23957, 24112 and 24512
    "onnxruntime": (
        Failing("1.21.0", "processors of Armv8.0, as in a Raspberry Pi 4 and older or a Jetson Nano", "1.20.1"),
    ),
}
"""Never installed unless they are asked for by their number."""


def tested_versions(package: str, python: tuple[int, int]) -> tuple[str, ...]:
    """The tested versions of a package that there are for a Python, the newest first; none where none is known."""
    return tuple(version for version, oldest in TESTED.get(package, ()) if python >= oldest)


def excluded(package: str) -> str:
    """What a requirement says against the versions that are known to fail: ``,!=1.21.0``."""
    return "".join(f",!={each.version}" for each in FAILING.get(package, ()))


def another(module: str, version: str, python: tuple[int, int]) -> str | None:
    """A requirement for a version that may run where this one fails.

    Args:
        module: As it is imported.
        version: That fails.
        python: Of the device.

    Returns:
        For example ``onnxruntime==1.20.1``; None where no other is known.
    """
    package = next((name for name, imported in MODULES.items() if imported == module), module)
    for each in FAILING.get(package, ()):
        if version == each.version:
            return f"{package}=={each.instead}"
    others = [each for each in tested_versions(package, python) if each != version]
    if others:
        return f"{package}=={others[0]}"
    oldest = [each.instead for each in FAILING.get(package, ()) if each.instead != version]
    return f"{package}=={oldest[0]}" if oldest else None


def known_failure(module: str, version: str) -> str | None:
    """Where a version is known to fail, in words; None if it is not."""
    for each in FAILING.get(module.replace("_", "-"), ()):
        if version == each.version:
            return f"{version} fails on {each.where}"
    return None
