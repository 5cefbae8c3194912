"""Strict configuration models: an unknown key is an error that names the key and the nearest allowed one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgespa.errors import ConfigError
from edgespa.pixels.picture import WHITE
from edgespa.system.bounds import oddity, shown, sizes_problem


class Strict(BaseModel):
    """A frozen pydantic model that refuses unknown keys.

    ``parse`` is for everything that comes from a file; it turns pydantic's report into a `ConfigError`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Build the model from plain values.

        Args:
            values: The decoded JSON or TOML.
            where: The file or option that they come from, for the message.

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
                near = difflib.get_close_matches(str(first["loc"][-1]), cls._known_keys(), n=1)
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


class Preprocess(Strict):
    """How an image becomes the model's input: upright, resize (bilinear), channel count, scale to [0, 1], normalise.

    ``input = (pixel / 255 - mean) / std`` per channel; ``mean`` and ``std`` have one value per channel. Images have 1,
    3 or 4 channels; items that are tensors already may have any number.

    Attributes:
        background: Grey value, 0 to 255, behind transparent parts of an image; with 4 channels they stay as they are.
    """

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    channels: int = Field(gt=0)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    background: int = Field(default=WHITE, ge=0, le=255)

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Self:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values, one per channel")
        if not all(map(math.isfinite, (*self.mean, *self.std))):
            raise ValueError("mean and std must be finite")
        if any(value <= 0 for value in self.std):
            raise ValueError("std must be positive")
        if problem := sizes_problem((self.channels, self.height, self.width)):
            raise ValueError(f"an image of {self.channels} x {self.height} x {self.width}: {problem}")
        return self
