"""Calibration specs: TOML files, those that come with edgespa and the user's own."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator
from torch.utils import _pytree

from edgespa.config import PixelSettings
from edgespa.data import ImageData, load_data
from edgespa.data.load import is_code
from edgespa.data.whole import below, summary
from edgespa.errors import ConfigError, DataError
from edgespa.models.given import Given
from edgespa.models.imports import nearest
from edgespa.models.trust import is_remembered
from edgespa.pixels.normalisation import refuse_other_scales
from edgespa.system.files import expanded, plain_text

SUFFIX = ".toml"
FOLDER_VARIABLE = "EDGESPA_DATA"


class CalibrationSpec(PixelSettings):
    """Which images calibrate a network, and how they become its inputs where neither it nor the command line says that.

    Attributes:
        format_version: Of the file.
        description: For people.
        source: A data spec, see `edgespa.data.load_data`. A relative path begins at the folder of the file; in a spec
            that comes with edgespa at the folder that ``EDGESPA_DATA`` names, or else the working directory.
        count: Number of images; None for all.
        seed: Which ones.
        balance: ``classes``: as equal a number of each class as there is; ``none``: any, labels are not looked at.
        mean: Subtracted from the scaled pixels, per channel; None if the command line says it. The other fields of
            `edgespa.config.PixelSettings` likewise.
        std: Divided by.
        digest: SHA-256 of the chosen images' pixels, so that they are known to be the same elsewhere; None if it was
            never taken.
    """

    format_version: Literal[1] = 1
    description: str = ""
    source: str
    count: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    balance: Literal["classes", "none"] = "classes"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    digest: str | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together: give both or none")
        if self.mean is not None and self.std is not None:
            refuse_other_scales(self.mean, self.std, self.scale or "0-1", ("mean", "std", "scale"))
        return self

    def to_toml(self) -> str:
        """The content of a file."""
        lines = []
        values = self.model_dump(exclude_none=True)
        own = [key for key in values if key not in PixelSettings.model_fields]
        for key in [*own, *(key for key in values if key not in own)]:
            value = values[key]
            if isinstance(value, str):
                lines.append(f'{key} = "{_escaped(value)}"')
            elif isinstance(value, tuple):
                lines.append(f"{key} = [{', '.join(map(repr, value))}]")
            elif isinstance(value, bool):
                lines.append(f"{key} = {str(value).lower()}")
            else:
                lines.append(f"{key} = {value}")
        return "\n".join([*lines, ""])


@dataclasses.dataclass(frozen=True)
class Named:
    """A spec and where it is from.

    Attributes:
        name: As it is asked for.
        folder: Where a relative source begins.
        spec: Its content.
        own: The user names its source now, so it may be code.
    """

    name: str
    folder: Path
    spec: CalibrationSpec
    own: bool = False

    def __str__(self) -> str:
        return self.name

    def load(self, limit: int | None = None, *, labelled: bool = False) -> ImageData:
        """The images.

        Args:
            limit: At most so many; the first in the spec's own drawing, so that fewer are part of more.
            labelled: Their classes are needed.

        Raises:
            DataError: If they cannot be found, are fewer than the spec wants, or are made by code that the file
                names and nobody here.
        """
        spec = self.spec
        source = _resolved(spec.source, self.folder)
        if not self.own and is_code(source) and not is_remembered(source):
            raise DataError(
                f"calibration {self.name}: its images are made by code that was not used here before: {source}",
                f"look at it first; if you trust it, name it yourself: --calibration {source}",
            )
        try:
            data = load_data(source, labelled=labelled or spec.balance == "classes")
        except DataError as error:
            absent = (
                f"put the images there, set {FOLDER_VARIABLE}, or write a spec of your own: edgespa calibration make"
            )
            found = expanded(source.partition(":")[0]).exists()
            raise DataError(f"calibration {self.name}: {error.message}", error.hint if found else absent) from error
        if spec.count is not None and spec.count > len(data):
            raise DataError(
                f"calibration {self.name}: {spec.count} images are wanted, {source} has {len(data)}",
                "lower the count, or give more images",
            )
        count = min(limit or len(data), spec.count or len(data))
        if count == len(data):
            return data
        if spec.balance == "classes":
            return data.limit(count, spec.seed)
        return data.subset(np.sort(np.random.RandomState(spec.seed).permutation(len(data))[:count]))


def shipped() -> dict[str, Named]:
    """The specs that come with edgespa, by name."""
    return {name: Named(name, _data_folder(), _parse(text, name)) for name, text in _shipped_files()}


def find_spec(text: str) -> Named | None:
    """The spec that ``--calibration`` names: one that comes with edgespa, or a ``.toml`` file; None for anything else.

    Raises:
        ConfigError: If the file is absent, or holds something else; or if there are neither data nor a spec of that
            name, but a spec of nearly that name.
    """
    if isinstance(text, Given):
        return None
    known = dict(_shipped_files())
    if text in known and not Path(text).exists():
        return Named(text, _data_folder(), _parse(known[text], text))
    if not text.endswith(SUFFIX):
        near = [] if ":" in text or expanded(text).exists() else nearest(text, list(known))
        if near:
            raise ConfigError(f"there are no data and no calibration spec '{text}'", f"nearest: {', '.join(near)}")
        return None
    path = expanded(text)
    try:
        content = plain_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", "write one with: edgespa calibration make") from error
    return Named(text, path.absolute().parent, _parse(content, text))


def require_spec(text: str) -> Named:
    """As `find_spec`, for a name that must be one.

    Raises:
        ConfigError: If there is none.
    """
    found = find_spec(text)
    if found is None:
        names = list(shipped())
        near = nearest(text, names)
        raise ConfigError(
            f"there is no calibration spec '{text}'",
            f"nearest: {', '.join(near)}" if near else f"known: {', '.join(names)}",
        )
    return found


def digest_of(data: ImageData) -> str:
    """SHA-256 of the images' sizes and pixels, in their order, as ``sha256:...``.

    Raises:
        DataError: If images cannot be read; all of them are told.
    """
    found = hashlib.sha256()
    faults: list[str] = []
    for index in range(len(data)):
        try:
            parts = _pytree.tree_leaves(data.tensors(index)) if data.preprocessed else [data.image(index)]
        except DataError as error:
            if not data.in_files:
                raise
            faults.append(below(data, index, error.message))
            continue
        for part in parts:
            item = np.asarray(part)
            found.update(f"{item.shape} {item.dtype}\n".encode())
            found.update(np.ascontiguousarray(item).tobytes())
    if faults:
        raise DataError(
            summary(data.name, faults, len(data)), "replace or delete these files; with -v all of them are listed"
        )
    return f"sha256:{found.hexdigest()}"


def check(named: Named) -> dict[str, object]:
    """Read every image of a spec and compare the digest.

    Returns:
        Figures: images, classes, how many of the rarest and of the most frequent one, the digest, and whether it is
        the recorded one (None if none is recorded).

    Raises:
        DataError: If the images cannot be read.
    """
    data = named.load()
    digest = digest_of(data)
    counts = np.bincount(data.labels, minlength=len(data.classes)) if data.labelled else np.zeros(0, dtype=np.int64)
    return {
        "name": named.name,
        "images": len(data),
        "classes": len(data.classes) if data.labelled else None,
        "fewest_of_a_class": int(counts.min()) if counts.size else None,
        "most_of_a_class": int(counts.max()) if counts.size else None,
        "digest": digest,
        "same": None if named.spec.digest is None else digest == named.spec.digest,
    }


def make(spec: CalibrationSpec, folder: Path) -> CalibrationSpec:
    """The spec with the digest of its images, which are read for it.

    Args:
        spec: Without a digest.
        folder: Where its file will lie.
    """
    return spec.model_copy(update={"digest": digest_of(Named("new", folder, spec, own=True).load())})


def _parse(text: str, where: str) -> CalibrationSpec:
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # no TOML, or numbers and lists that Python does not read
        raise ConfigError(f"{where}: not TOML: {error}", "correct it, or write it anew") from error
    return CalibrationSpec.parse(values, where)


def _shipped_files() -> Iterator[tuple[str, str]]:
    folder = resources.files("edgespa") / "calibration"
    for file in sorted(folder.iterdir(), key=lambda item: item.name):
        if file.name.endswith(SUFFIX):
            yield file.name.removesuffix(SUFFIX), file.read_text(encoding="utf-8")


def _data_folder() -> Path:
    return Path(os.environ.get(FOLDER_VARIABLE) or ".").absolute()


def _resolved(source: str, folder: Path) -> str:
    """A source whose path, if it is a relative one that is there, begins at a folder."""
    head = source.partition(":")[0]
    beside = folder / head
    return f"{folder / source}" if beside.exists() and not Path(head).is_absolute() else source


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
