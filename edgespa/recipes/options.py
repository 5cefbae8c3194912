"""What recipes have in common: how the user's data become inputs, and how progress is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from edgespa.calibration import find_spec
from edgespa.config import Preprocess
from edgespa.data import ImageData, load_data
from edgespa.errors import ConfigError
from edgespa.inputs import InputSizes, as_inputs

Progress = Callable[[float, float | None, str], None]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """How the user's data become inputs.

    Attributes:
        mean: Subtracted from pixels in [0, 1], per channel; None for zero.
        std: Divided by, per channel; None for one.
        limit: Use a seeded, class-balanced part of each data set.
        seed: Of that part.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    limit: int | None = None
    seed: int = 0

    def load(self, spec: str, *, labelled: bool = True) -> ImageData:
        """A data set, or the images of a named calibration spec, limited as asked.

        Raises:
            DataError: If it cannot be read, or is smaller than the limit.
        """
        if (found := find_spec(spec)) is not None:
            return found.load(self.limit, labelled=labelled)
        data = load_data(spec, labelled=labelled)
        return data.limit(min(self.limit, len(data)), self.seed) if self.limit else data

    def with_calibration(self, text: str | None) -> DataOptions:
        """The options with mean and std of a named calibration spec, if it has some and none are given."""
        found = find_spec(text) if text is not None else None
        if found is None or found.spec.mean is None or self.mean is not None or self.std is not None:
            return self
        return dataclasses.replace(self, mean=found.spec.mean, std=found.spec.std)

    def preprocess(self, inputs: InputSizes, recorded: Preprocess | None = None) -> Preprocess:
        """From image to input, for a model's input sizes; what a task file records need not be said again.

        Raises:
            ConfigError: If the model does not take images alone, or mean and std do not fit its channels.
        """
        sizes = as_inputs(inputs)
        if len(sizes) > 1:
            raise ConfigError(
                f"the model has {len(sizes)} inputs ({'; '.join(map(str, sizes))}), images can feed one only",
                "leave out what needs images, or name a factory that wraps the model in a module whose forward takes "
                "the images and supplies the other inputs",
            )
        input_shape = sizes[0].shape
        if recorded is not None and self.mean is None and self.std is None:
            return recorded
        if len(input_shape) != 4 or sizes[0].dtype not in (None, "float32"):
            raise ConfigError(
                f"the model's input of {sizes[0]} is not an image",
                "give a model that takes N,C,H,W in the type of its weights",
            )
        _, channels, height, width = input_shape
        mean, std = self.mean or (0.0,), self.std or (1.0,)
        for name, values in (("--mean", mean), ("--std", std)):
            if len(values) not in (1, channels):
                raise ConfigError(
                    f"{name} has {len(values)} values, the model's input has {channels} channels",
                    f"give one value, or {channels}",
                )
        return Preprocess(
            height=height,
            width=width,
            channels=channels,
            mean=mean * channels if len(mean) == 1 else mean,
            std=std * channels if len(std) == 1 else std,
        )


def some(names: Sequence[str]) -> str:
    """The first names of a list that may be long, for a message."""
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
