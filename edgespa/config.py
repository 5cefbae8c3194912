"""Strict configuration models: an unknown key is an error that names the key and the nearest allowed one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from edgespa.errors import ConfigError
from edgespa.pixels.picture import GREY, SAMPLED, WHITE
from edgespa.pixels.placement import LETTERBOX, Placement, placed
from edgespa.system.bounds import oddity, shown, sizes_problem


class Strict(BaseModel):
    """A frozen pydantic model that refuses unknown keys.

    ``parse`` is for everything that comes from a file; it turns pydantic's report into a `ConfigError`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str, also: Iterable[str] = ()) -> Self:
        """Build the model from plain values.

        Args:
            values: The decoded JSON or TOML.
            where: The file or option that they come from, for the message.
            also: Names that could be meant beside the model's own.

        Raises:
            ConfigError: With the path of the first offending key.
        """
        for key, value in values.items():
            if problem := oddity([key, value]):
                again = "make the file again, or fetch it again if it was copied"
                raise ConfigError(f"{where}: {shown(str(key))[1:-1]}: {problem}", again)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            found = error.errors()
            # A mistyped key says more than that the right one is missing.
            first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
            path = ".".join(str(part) for part in first["loc"])
            what = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
            hint = None
            if first["type"] == "extra_forbidden":
                what = "is not known"
                near = difflib.get_close_matches(str(first["loc"][-1]), [*cls._known_keys(), *also], n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(sorted(cls.model_fields))}"
            raise ConfigError(": ".join(part for part in (where, path, what) if part), hint) from error

    @classmethod
    def _known_keys(cls) -> list[str]:
        keys = set(cls.model_fields)
        for field in cls.model_fields.values():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, Strict):
                keys |= set(kind._known_keys())
        return sorted(keys)


def _pair(value: Any) -> Any:
    """One size is that of both sides."""
    sides = _row(value)
    return sides * 2 if isinstance(sides, tuple) and len(sides) == 1 else sides


def _row(value: Any) -> Any:
    return (value,) if isinstance(value, int) else tuple(value) if isinstance(value, list) else value


Resize = Literal["stretch", "crop", "letterbox"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Scale = Literal["0-1", "-1-1", "0-255"]
ChannelOrder = Literal["rgb", "bgr"]
Sides = Annotated[tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]], BeforeValidator(_pair)]
Greys = Annotated[tuple[Annotated[int, Field(ge=0, le=255)], ...], Field(min_length=1), BeforeValidator(_row)]


class PixelSettings(Strict):
    """What may be said of how an image becomes an input, beside mean and std; what is None is not said.

    The fields are those of `Preprocess`.
    """

    resize: Resize | None = None
    resize_to: Sides | None = None
    padding: Greys | None = None
    interpolation: Interpolation | None = None
    antialias: bool | None = None
    scale: Scale | None = None
    channel_order: ChannelOrder | None = None

    def said(self) -> dict[str, Any]:
        """The fields that are not None, by name."""
        return {name: getattr(self, name) for name in PixelSettings.model_fields if getattr(self, name) is not None}


class Preprocess(Strict):
    """How an image becomes the model's input: upright, resize, channels, scale, normalise.

    An image is turned as its EXIF orientation says, resized and cropped or padded to ``height`` x ``width``
    (`edgespa.pixels.placement.placed`) and given its channels (`edgespa.pixels.picture.model_pixels`). Then
    ``input = (scaled - mean) / std`` per channel (`edgespa.pixels.values.normalised`). Images have 1, 3 or 4 channels;
    items that are tensors already may have any number.

    What is as in the first versions of edgespa is left out where this is written, so that those read it too.

    Attributes:
        mean: Subtracted from the scaled pixels, one value per channel of the input.
        std: Divided by, likewise.
        background: Grey value, 0 to 255, behind transparent parts of an image; with 4 channels they stay as they are.
        resize: ``stretch``: to ``resize_to`` as a whole, its proportions not kept; ``crop``: until it just covers
            that, proportions kept; ``letterbox``: until it just fits into that. Of the result the middle is taken.
        resize_to: Height and width; None for those of the input. Two that are equal are the shortest side of a crop.
        padding: What is beside a picture that is smaller than the input, 0 to 255: one value, or one per channel of the
            input. A letterbox has 114 unless it is said.
        interpolation: As Pillow has them.
        antialias: Interpolate over all pixels that become one, as Pillow does; else between the nearest alone, as
            OpenCV does: for ``nearest``, ``bilinear`` and ``bicubic``.
        scale: ``0-1``: pixel / 255; ``-1-1``: pixel / 127.5 - 1; ``0-255``: the pixel itself.
        channel_order: Of the input's first three channels.
    """

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    channels: int = Field(gt=0)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    background: int = Field(default=WHITE, ge=0, le=255)
    resize: Resize = "stretch"
    resize_to: Sides | None = None
    padding: Greys | None = Field(default=None, validate_default=True)
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    scale: Scale = "0-1"
    channel_order: ChannelOrder = "rgb"

    @field_validator("padding")
    @classmethod
    def _grey_beside_a_letterbox(cls, value: Greys | None, info: ValidationInfo) -> Greys | None:
        return (GREY,) if value is None and info.data.get("resize") == LETTERBOX else value

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Self:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values, one per channel")
        if not all(map(math.isfinite, (*self.mean, *self.std))):
            raise ValueError("mean and std must be finite")
        if any(value <= 0 for value in self.std):
            raise ValueError("std must be positive")
        if self.padding is not None and len(self.padding) not in (1, self.channels):
            raise ValueError(f"padding needs one value, or {self.channels}, one per channel")
        if self.channel_order == "bgr" and self.channels not in (3, 4):
            raise ValueError(f"channel_order bgr is of colour images, the input has {self.channels} channels")
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        for height, width in ((self.height, self.width), self.resize_to or (1, 1)):
            if problem := sizes_problem((self.channels, height, width)):
                raise ValueError(f"an image of {self.channels} x {height} x {width}: {problem}")
        height, width = self.resize_to or (self.height, self.width)
        smaller = height < self.height or width < self.width
        if smaller and self.padding is None:
            raise ValueError(
                f"resize_to {height} x {width} is smaller than the input of {self.height} x {self.width}: give padding"
            )
        if self.padding is not None and not (smaller or self.resize == LETTERBOX):
            raise ValueError(f"padding is for resize letterbox, and resize is {self.resize}")
        if not self.antialias and self.interpolation not in SAMPLED:
            raise ValueError(f"interpolation {self.interpolation} is always antialiased; without: {', '.join(SAMPLED)}")
        return self

    @model_serializer(mode="wrap")
    def _without_what_always_was(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written = write(self)
        return {name: written[name] for name in written if name not in _USUAL or getattr(self, name) != _USUAL[name]}

    def at(self, height: int, width: int) -> Self:
        """The same for another size of the input; ``resize_to`` keeps its share of it.

        Args:
            height: Wanted.
            width: Wanted.
        """
        to = resized_to(self.resize_to, (self.height, self.width), (height, width))
        return self.model_copy(update={"height": height, "width": width, "resize_to": to})

    def placement(self, height: int, width: int) -> Placement:
        """Where a picture of some size lands in the input.

        Args:
            height: Of the picture, upright.
            width: Of the picture.
        """
        return placed((height, width), self.model_dump())


_USUAL = {name: Preprocess.model_fields[name].default for name in PixelSettings.model_fields}


def resized_to(to: tuple[int, int] | None, own: tuple[int, int], size: tuple[int, int]) -> tuple[int, int] | None:
    """``resize_to`` for an input of another size, in proportion and rounded down, as timm does it.

    Args:
        to: For an input of ``own`` height and width.
        own: Those.
        size: Wanted.
    """
    if to is None or own == size:
        return to
    return to[0] * size[0] // own[0], to[1] * size[1] // own[1]
