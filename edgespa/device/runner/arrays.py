"""Arrays of an ``.npz`` file, each as large as the manifest lets it be: its size is known last."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.bundle.limits import MAX_ELEMENTS, MAX_RANK, MAX_SAMPLES
from edgespa.device.runner.bundle import RunnerError

HEADER_BYTES = 4096  # those that numpy writes have 128
PIECE_BYTES = 1 << 20
BYTES_EACH = 4  # float32, as what pixels and noise become
RECORDED_BYTES = 256 << 20  # or so many samples, where those are larger
FEWEST = 4
ROWS = 1024
# four samples of the largest inputs and outputs: the least for a proof
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others set aside whatever their header asks for


class Allowed:
    """How large the arrays of ``selfcheck.npz`` may be, by the manifest's own shapes.

    Args:
        manifest: Of the bundle.
    """

    def __init__(self, manifest: dict[str, Any]) -> None:
        self._most = {side: [_most(spec["shape"]) for spec in manifest[side + "s"]] for side in ("input", "output")}
        sample = sum(min(sum(sizes), MAX_ELEMENTS) for sizes in self._most.values())
        self._left = self._all = max(RECORDED_BYTES, FEWEST * BYTES_EACH * sample)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse an array, or noise of that shape, before there is any.

        Args:
            name: In the file: ``input_0``, ``pixels_0``, ``output_0``, ``scale_0_1`` and so on.
            shape: Of the array; for ``noise_0`` and ``noise_pixels_0``, of the noise that it stands for.
        """
        kind, _, rest = name.replace("noise_pixels", "noise").partition("_")
        index = int(rest.split("_")[0]) if rest.split("_")[0].isdigit() and len(rest) < 10 else -1
        side = "input" if kind in ("input", "pixels", "noise") else "output"
        most = self._most[side]
        if kind not in ("input", "pixels", "noise", "output", "every", "scale", "allowed", "varies"):
            raise RunnerError(f"selfcheck.npz has an array {name[:40]!r}, which is none of those that are recorded")
        if not 0 <= index < len(most):
            raise RunnerError(f"selfcheck.npz: the manifest has no {side} for {name[:40]!r}")
        if len(shape) > MAX_RANK + 1 or any(size < 0 for size in shape):
            raise RunnerError(f"selfcheck.npz: {name} is of shape {shape[:4]}...")
        samples, one = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
        if kind not in ("input", "pixels", "noise", "output"):
            samples, one = 1, math.prod(shape)
        # An output may have several rows of a sample as its first dimension.
        if samples > MAX_SAMPLES * (ROWS if side == "output" else 1) or one > most[index]:
            raise RunnerError(
                f"selfcheck.npz: {name} is of {samples:,} samples of {one:,} numbers; "
                f"by the manifest {MAX_SAMPLES} of {most[index]:,} are the most"
            )
        self._left -= math.prod(shape) * BYTES_EACH
        if self._left < 0:
            raise RunnerError(f"selfcheck.npz holds more than {self._all >> 20:,} MiB when it is unpacked")


def _most(shape: list[Any]) -> int:
    """Numbers of one sample of a tensor; with sizes that are free, as many as there may be."""
    fixed = math.prod(size for size in shape if isinstance(size, int))
    return fixed if all(isinstance(size, int) for size in shape[1:]) else MAX_ELEMENTS


def read_recorded(path: Path, allowed: Allowed) -> dict[str, np.ndarray]:
    """The arrays of a file by name, each checked before it is unpacked; noise comes as its sizes.

    Raises:
        RunnerError: One is not allowed.
        Exception: Whatever zipfile and numpy make of a damaged file.
    """
    found: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(str(path)) as archive:
        for member in archive.infolist():
            name = member.filename[: -len(".npy")] if member.filename.endswith(".npy") else member.filename
            if name in found:
                raise RunnerError(f"selfcheck.npz has two arrays {name[:40]!r}")
            if member.compress_type not in PLAIN or member.flag_bits & 1:
                raise RunnerError(f"selfcheck.npz: {name[:40]!r} is packed in a way that numpy does not")
            with archive.open(member) as stream:
                found[name] = _read(stream, name, allowed)
    return found


def _read(stream: Any, name: str, allowed: Allowed) -> np.ndarray:
    start = stream.read(10)
    if start[:7] != b"\x93NUMPY\x01":
        raise RunnerError(f"selfcheck.npz: {name[:40]!r} is no array as numpy writes it")
    length = int.from_bytes(start[8:10], "little")
    if length > HEADER_BYTES:
        raise RunnerError(f"selfcheck.npz: {name[:40]!r} has a header of {length:,} bytes")
    header = io.BytesIO(start[8:10] + stream.read(length))
    shape, by_columns, kind = np.lib.format.read_array_header_1_0(header)
    if kind.kind not in "biuf" or kind.itemsize > 8:
        raise RunnerError(f"selfcheck.npz: {name[:40]!r} holds {kind}, not numbers")
    if name.startswith("noise"):  # its sizes are there, it is made anew
        if len(shape) != 1 or not 0 < shape[0] <= MAX_RANK + 1 or kind.kind not in "iu":
            raise RunnerError(f"selfcheck.npz: {name[:40]!r} is no list of sizes")
    else:
        allowed.check(name, shape)
    content = bytearray()
    size = math.prod(shape) * kind.itemsize
    while len(content) < size:
        piece = stream.read(min(PIECE_BYTES, size - len(content)))
        if not piece:
            raise RunnerError(f"selfcheck.npz: {name[:40]!r} is cut off")
        content += piece
    array = np.frombuffer(content, kind)
    array = array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)
    if name.startswith("noise"):
        allowed.check(name, tuple(int(each) for each in array))
    return array
