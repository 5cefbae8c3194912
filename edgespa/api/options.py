"""What recipes have in common: how the user's data become inputs, and how progress is told."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edgespa.config import Preprocess
from edgespa.data import ImageData, Numbering, load_data
from edgespa.data.calibration import find_spec
from edgespa.errors import ConfigError
from edgespa.models.inputs import InputSizes, as_inputs
from edgespa.objectives.kinds import fitted, objective_named
from edgespa.pixels.normalisation import Values, half_given, refuse_bytes, text
from edgespa.system.quiet import NOTE
from edgespa.tasks.base import Base

log = logging.getLogger(__name__)

Progress = Callable[[float, float | None, str], None]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """How the user's data become inputs.

    Attributes:
        mean: Subtracted from pixels in [0, 1], per channel; None for what the model's library records, else zero.
        std: Divided by, per channel; None for the same, else one.
        limit: Use a seeded, class-balanced part of each data set.
        seed: Of that part.
        labels: The class name of each output, or a file with them, a line each; None for the order of the data.
        objective: What is learned or measured; that of the data's kind where nothing is said.
        class_offset: Class k is output k + this, and other outputs have no images; None: the classes are all outputs.
    """

    mean: Values | None = None
    std: Values | None = None
    limit: int | None = None
    seed: int = 0
    labels: Path | tuple[str, ...] | None = None
    class_offset: int | None = None
    objective: str | None = None

    @property
    def normalised(self) -> bool:
        """Whether mean and std are given."""
        return self.mean is not None or self.std is not None

    def load(self, spec: str, *, labelled: bool = True, outputs: int | None = None) -> ImageData:
        """A data set, or the images of a named calibration spec, limited and its classes numbered as asked.

        Args:
            spec: Of the data.
            labelled: Its classes are needed.
            outputs: Of the model, as far as they are known.

        Raises:
            ConfigError: If the file of labels cannot be read.
            DataError: If it cannot be read, is smaller than the limit, or has classes without an output.
        """
        number = Numbering.of(self.labels, self.class_offset) if labelled else Numbering()
        wanted = objective_named(self.objective) if self.objective and labelled else None
        if (found := find_spec(spec)) is not None:
            data = found.load(self.limit, labelled=labelled)
        else:
            items = wanted.name if wanted is not None and wanted.answers == "items" else None
            data = load_data(spec, labelled=labelled and (wanted is None or wanted.answers != "none"), items=items)
            data = data.limit(min(self.limit, len(data)), self.seed) if self.limit else data
        data = number.up_to(outputs, number(data))
        return data if wanted is None else fitted(data, wanted)

    def preprocess(
        self,
        base: Base,
        recorded: Preprocess | None = None,
        *,
        calibration: str | None = None,
        tensors: bool = False,
    ) -> Preprocess:
        """From image to input, for a model's input sizes; which normalisation that is, is told.

        Mean and std are those of the options; else those that a task file records, which need not be said again; else
        those that the model's library records; else those of a calibration spec; else 0 and 1.

        Args:
            base: The model.
            recorded: What a task file has.
            calibration: What ``--calibration`` names.
            tensors: The data are preprocessed already, so nothing is told.

        Raises:
            ConfigError: If the model does not take images alone, or mean and std do not fit its channels or pixels in
                [0, 1], or one of them is given alone.
        """
        channels, height, width = image_size(base.input_sizes)
        if (taken := str(base.program.inputs[0].dtype)) != "torch.float32":
            raise ConfigError(
                f"{base.spec} takes inputs of {taken.removeprefix('torch.')}, and images become float32",
                "give the model with weights in float32: model.float()",
            )
        if recorded is not None and not self.normalised and recorded.channels == channels:
            return recorded.model_copy(update={"height": height, "width": width})
        if question := half_given(self.mean, self.std):
            raise ConfigError(question, "give both --mean and --std, or none")
        mean, std, of = self._normalisation(base, channels, calibration)
        for name, values in (("--mean", mean), ("--std", std)):
            if len(values) not in (1, channels):
                raise ConfigError(
                    f"{name} has {len(values)} values, the model's input has {channels} channels",
                    f"give one value, or {channels}",
                )
        refuse_bytes(mean, std)
        if of and not tensors:
            log.log(NOTE, "normalisation: %s (--mean and --std give others)", of)
        if not tensors and base.recorded is not None and base.recorded.otherwise:
            log.log(
                NOTE,
                "%s saw images that were %s; here each is resized (bilinear) as a whole to %d x %d, its proportions "
                "are not kept: that may cost accuracy",
                base.spec,
                base.recorded.otherwise,
                height,
                width,
            )
        return Preprocess(
            height=height,
            width=width,
            channels=channels,
            mean=mean * channels if len(mean) == 1 else mean,
            std=std * channels if len(std) == 1 else std,
        )

    def preprocess_if_known(
        self,
        base: Base,
        data: Iterable[ImageData] = (),
        recorded: Preprocess | None = None,
        *,
        calibration: str | None = None,
    ) -> Preprocess | None:
        """As `preprocess`; None where there are no images, and nothing says how one would become an input.

        Args:
            base: The model.
            data: Images that are to become inputs.
            recorded: What a task file has.
            calibration: What ``--calibration`` names.
        """
        sets = tuple(data)
        own = base.recorded is not None and base.recorded.mean is not None
        if not (sets or own or self.normalised or recorded is not None):
            return None
        tensors = bool(sets) and all(each.preprocessed for each in sets)
        return self.preprocess(base, recorded, calibration=calibration, tensors=tensors)

    def known(
        self, base: Base, preprocess: Preprocess | None, data: Iterable[ImageData], recorded: Preprocess | None = None
    ) -> Preprocess | None:
        """What there is to record of how an image becomes an input; None where tensors came, and nobody said.

        Args:
            base: The model.
            preprocess: From `preprocess`, with the sizes of the tensors.
            data: What became inputs by it.
            recorded: What a task file has.
        """
        own = base.recorded is not None and base.recorded.mean is not None
        said = self.normalised or own or recorded is not None
        return preprocess if said or not any(each.preprocessed for each in data) else None

    def _normalisation(self, base: Base, channels: int, calibration: str | None) -> tuple[Values, Values, str]:
        """Mean, std, and where they are from, in words; empty for the options' own."""
        if self.mean is not None and self.std is not None:
            return self.mean, self.std, ""
        named = find_spec(calibration) if calibration is not None else None
        spec = named.spec if named is not None else None
        own = base.recorded
        if own is not None and own.mean is not None and own.std is not None and len(own.mean) in (1, channels):
            if spec is not None and spec.mean is not None and (spec.mean, spec.std) != (own.mean, own.std):
                log.warning("mean and std of the calibration spec %s are not those of %s", calibration, base.spec)
            return own.mean, own.std, f"mean {text(own.mean)} and std {text(own.std)}, as {base.spec} records"
        if spec is not None and spec.mean is not None and spec.std is not None:
            return (
                spec.mean,
                spec.std,
                f"mean {text(spec.mean)} and std {text(spec.std)}, of the calibration spec {calibration}",
            )
        return (0.0,), (1.0,), "none given: mean 0 and std 1, so inputs are pixels in 0..1"


def image_size(inputs: InputSizes) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model takes.

    Raises:
        ConfigError: If it does not take images alone.
    """
    sizes = as_inputs(inputs)
    if len(sizes) > 1:
        raise ConfigError(
            f"the model has {len(sizes)} inputs ({'; '.join(map(str, sizes))}), images can feed one only",
            "leave out what needs images, or name a factory that wraps the model in a module whose forward takes "
            "the images and supplies the other inputs",
        )
    if len(sizes[0].shape) != 4 or sizes[0].dtype not in (None, "float32"):
        raise ConfigError(
            f"the model's input of {sizes[0]} is not an image",
            "give a model that takes N,C,H,W in the type of its weights",
        )
    _, channels, height, width = sizes[0].shape
    return channels, height, width


def some(names: Sequence[str]) -> str:
    """The first names of a list that may be long, for a message."""
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
