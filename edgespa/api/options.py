"""What recipes have in common: how the user's data become inputs, and how progress is told."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgespa.config import PixelSettings, Preprocess
from edgespa.data import ImageData, Numbering, load_data, usable, with_images
from edgespa.data.calibration import Named, find_spec
from edgespa.data.source import UnusableError
from edgespa.errors import ConfigError
from edgespa.models.inputs import InputSizes, as_inputs
from edgespa.objectives.kinds import fitted, objective_named
from edgespa.pixels.normalisation import Values, half_given, refuse_other_scales, text
from edgespa.pixels.picture import SAMPLED
from edgespa.pixels.placement import LETTERBOX
from edgespa.pixels.words import resizing
from edgespa.system.bounds import readable
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
        limit: Use a seeded, class-balanced part of what is trained or calibrated on, or chosen by.
        seed: Of that part.
        labels: The class name of each output, or a file with them, a line each; None for the order of the data.
        objective: What is learned or measured; that of the data's kind where nothing is said.
        class_offset: Class k is output k + this, and other outputs have no images; None: the classes are all outputs.
        pixels: All else of how an image becomes an input.
        skip_bad: Leave out images and annotations that cannot be used, and say so.
        eval_limit: Use such a part of what is measured on.
    """

    mean: Values | None = None
    std: Values | None = None
    limit: int | None = None
    seed: int = 0
    labels: Path | tuple[str, ...] | None = None
    class_offset: int | None = None
    objective: str | None = None
    pixels: PixelSettings = dataclasses.field(default_factory=PixelSettings)
    skip_bad: bool = False
    eval_limit: int | None = None

    @property
    def normalised(self) -> bool:
        """Whether mean, std or scale are given."""
        return self.mean is not None or self.std is not None or self.pixels.scale is not None

    @property
    def said(self) -> bool:
        """Whether anything is given of how an image becomes an input."""
        return self.normalised or bool(self.pixels.said())

    def load(
        self, spec: str, *, labelled: bool = True, outputs: int | None = None, measured: bool = False
    ) -> ImageData:
        """A data set, or the images of a named calibration spec, limited and its classes numbered as asked.

        Args:
            spec: Of the data.
            labelled: Its classes are needed.
            outputs: Of the model, as far as they are known.
            measured: It is for what is reported, and nothing is learned from it or chosen by it.

        Raises:
            ConfigError: If the file of labels cannot be read.
            DataError: If it cannot be read, is smaller than the limit, or has classes without an output.
        """
        wanted = objective_named(self.objective) if self.objective and labelled else None
        labelled = labelled and (wanted is None or wanted.answers != "none")
        number = Numbering.of(self.labels, self.class_offset) if labelled else Numbering()
        limit = self.eval_limit if measured else self.limit
        if (found := find_spec(spec)) is not None:
            data = found.load(limit, labelled=labelled)
            data = usable(data) if self.skip_bad else data
        else:
            items = wanted.name if wanted is not None and wanted.answers == "items" else None
            answers = wanted.answers if wanted is not None and labelled else None
            read = partial(load_data, spec, labelled=labelled, items=items, wanted=answers)
            try:
                data = read(skip=self.skip_bad)
            except UnusableError as error:
                raise with_images(error, partial(read, skip=True)) from None
            data = usable(data) if self.skip_bad else data
            data = data.limit(min(limit, len(data)), self.seed) if limit else data
        data = number.up_to(outputs, number(data))
        if labelled and data.answered:
            (wanted or objective_named(data.kind)).require()
        return data if wanted is None else fitted(data, wanted)

    def preprocess(
        self,
        base: Base,
        recorded: Preprocess | None = None,
        *,
        calibration: str | None = None,
        tensors: bool = False,
    ) -> Preprocess:
        """From image to input, for a model's input sizes; which way that is, and whose, is told.

        Mean, std and scale are those of the options; else those that a task file records, which need not be said
        again; else those that the model's library records; else those of a calibration spec; else 0, 1 and 0-1. What
        else there is to say is taken in the same order; of the options each by itself, but that another way to resize
        begins without a size and a padding.

        Args:
            base: The model.
            recorded: What a task file has.
            calibration: What ``--calibration`` names.
            tensors: The data are preprocessed already, so nothing is told.

        Raises:
            ConfigError: If the model does not take images alone; if mean and std do not fit its channels or the scale,
                or one of them is given alone; if the options do not go together.
        """
        channels, height, width = image_size(base.input_sizes)
        if (taken := str(base.program.inputs[0].dtype)) != "torch.float32":
            raise ConfigError(
                f"{base.spec} takes inputs of {taken.removeprefix('torch.')}, and images become float32",
                "give the model with weights in float32: model.float()",
            )
        task = recorded.at(height, width) if recorded is not None and recorded.channels == channels else None
        if task is not None and not self.said:
            return task
        if question := half_given(self.mean, self.std):
            raise ConfigError(question, "give both --mean and --std, or none")
        named = find_spec(calibration) if calibration is not None else None
        values, of = self._normalisation(base, task, channels, named)
        settings, whose = self._settings(base, task, (channels, height, width), named)
        for name in ("mean", "std"):
            if len(values[name]) not in (1, channels):
                raise ConfigError(
                    f"--{name} has {len(values[name])} values, the model's input has {channels} channels",
                    f"give one value, or {channels}",
                )
            values[name] *= channels if len(values[name]) == 1 else 1
        refuse_other_scales(values["mean"], values["std"], values["scale"])
        try:
            how = Preprocess(height=height, width=width, channels=channels, **values, **settings)
        except ValidationError as error:
            raise ConfigError(
                f"images for an input of {channels} x {height} x {width}: "
                + str(error.errors()[0]["msg"]).removeprefix("Value error, "),
                "change what is said by " + ", ".join(map(option_of, _SETTINGS)),
            ) from error
        if tensors:
            return how
        if of:
            log.log(NOTE, "normalisation: %s (--mean and --std give others)", of)
        if whose:
            log.log(NOTE, "images: %s, %s (--resize and --interpolation give others)", in_words(how), whose)
        if task is None and base.recorded is not None and base.recorded.otherwise:
            log.log(
                NOTE,
                "%s saw images that were %s; here each is %s: that may cost accuracy",
                *(base.spec, base.recorded.otherwise, in_words(how)),
            )
        return how

    def preprocess_if_known(
        self,
        base: Base,
        data: Iterable[ImageData] = (),
        recorded: Preprocess | None = None,
        *,
        calibration: str | None = None,
    ) -> Preprocess | None:
        """As `preprocess`; None where there are no images, and nothing says how one would become an input.

        Of a model that takes no images it is None where all data are tensors: those are its inputs as they are.

        Args:
            base: The model.
            data: Images that are to become inputs.
            recorded: What a task file has.
            calibration: What ``--calibration`` names.
        """
        sets = tuple(data)
        if sets and all(each.preprocessed for each in sets) and not takes_images(base.input_sizes):
            if self.said:
                raise ConfigError(
                    f"{base.spec} takes {'; '.join(map(str, as_inputs(base.input_sizes)))}, no image: there is nothing "
                    "to say of pixels",
                    "leave out --mean, --std, --resize and what else is said of images",
                )
            return None
        own = base.recorded is not None and base.recorded.mean is not None
        if not (sets or own or self.said or recorded is not None):
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
        said = self.said or own or recorded is not None
        return preprocess if said or not any(each.preprocessed for each in data) else None

    def _normalisation(
        self, base: Base, task: Preprocess | None, channels: int, named: Named | None
    ) -> tuple[dict[str, Any], str]:
        """Mean, std, scale, and where they are from, in words; empty for the options' own and a task's."""

        def of(mean: Values | None, std: Values | None, scale: str | None) -> dict[str, Any]:
            return {"mean": mean or (0.0,), "std": std or (1.0,), "scale": scale or "0-1"}

        if self.normalised:
            return of(self.mean, self.std, self.pixels.scale), ""
        if task is not None:
            return of(task.mean, task.std, task.scale), ""
        spec, own = named.spec if named is not None else None, base.recorded
        if own is not None and own.mean is not None and own.std is not None and len(own.mean) in (1, channels):
            if spec is not None and spec.mean is not None and (spec.mean, spec.std) != (own.mean, own.std):
                log.warning("mean and std of the calibration spec %s are not those of %s", named, base.spec)
            found = f"mean {text(own.mean)} and std {text(own.std)}, as {base.spec} records"
            return of(own.mean, own.std, None), found
        if spec is not None and (spec.mean is not None or spec.scale is not None):
            values = of(spec.mean, spec.std, spec.scale)
            scaled = f" of pixels in {spec.scale}" if spec.scale else ""
            found = (
                f"mean {text(values['mean'])} and std {text(values['std'])}{scaled}, of the calibration spec {named}"
            )
            return values, found
        return of(None, None, None), "none given: mean 0 and std 1, so inputs are pixels in 0..1"

    def _settings(
        self, base: Base, task: Preprocess | None, size: tuple[int, int, int], named: Named | None
    ) -> tuple[dict[str, Any], str]:
        """All else, for an input of a size, and whose it is, in words; empty where it is the options' own, or usual."""
        given, found, whose = self.pixels.said(), {}, ""
        if task is not None:
            found = {name: getattr(task, name) for name in _SETTINGS}
        elif base.recorded is not None and (found := base.recorded.for_input(*size)):
            whose = f"as {base.spec} records"
        elif named is not None and (found := {k: v for k, v in named.spec.said().items() if k in _SETTINGS}):
            whose = f"as the calibration spec {named} has it"
        if given.get("resize", found.get("resize")) != found.get("resize"):
            found.update(resize_to=None, padding=None)
        elif "resize_to" in given and found.get("resize") != LETTERBOX:
            found["padding"] = None
        if given.get("interpolation", SAMPLED[0]) not in SAMPLED:
            found["antialias"] = True
        if own := [option_of(name) for name in given if name in _SETTINGS]:
            whose = f"{whose} but for {', '.join(own)}" if whose else ""
        made = {name: value for name, value in {**found, **given}.items() if name in _SETTINGS}
        if made.get("resize_to") == size[1:]:
            made["resize_to"] = None
        return made, whose


_SETTINGS = tuple(name for name in PixelSettings.model_fields if name != "scale")


def left_out_of(sets: Mapping[str, ImageData]) -> dict[str, Any]:
    """What a task or a bundle records of files that were left out of its data; nothing where there are none.

    Args:
        sets: By the option that names them.
    """
    found = {
        option: {"count": len(each.left_out), "files": [readable(file) for file, _ in each.left_out[:_RECORDED]]}
        for option, each in sets.items()
        if each.left_out
    }
    return {LEFT_OUT: found} if found else {}


LEFT_OUT = "left_out_files"
_RECORDED = 100


def option_of(name: str) -> str:
    """How the command line calls a field."""
    return "--" + name.replace("_", "-")


def in_words(how: Preprocess) -> str:
    """How an image becomes the input's size and colours, in words."""
    return resizing(how) + (", in the order blue, green, red" if how.channel_order == "bgr" else "")


def takes_images(inputs: InputSizes) -> bool:
    """Whether a model takes one image for each sample, or what has the form of one."""
    sizes = as_inputs(inputs)
    return len(sizes) == 1 and len(sizes[0].shape) == 4 and sizes[0].dtype in (None, "float32")


def image_size(inputs: InputSizes) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model takes.

    Raises:
        ConfigError: If it does not take images alone.
    """
    sizes = as_inputs(inputs)
    if len(sizes) > 1:
        raise ConfigError(
            f"the model has {len(sizes)} inputs ({'; '.join(map(str, sizes))}), images can feed one only",
            "give samples of all of them: an .npz with an array for each input, or a data set of ((inputs...), label); "
            "or a factory that wraps the model in a module that takes the images and supplies the rest",
        )
    if len(sizes[0].shape) != 4 or sizes[0].dtype not in (None, "float32"):
        raise ConfigError(
            f"the model's input of {sizes[0]} is not an image",
            "give samples of it: an .npz of arrays named as its inputs, or a data set that returns tensors "
            "(module:callable); or a model that takes N,C,H,W in the type of its weights",
        )
    _, channels, height, width = sizes[0].shape
    return channels, height, width


def some(names: Sequence[str]) -> str:
    """The first names of a list that may be long, for a message."""
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
