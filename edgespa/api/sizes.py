"""The model or task of an export at other sizes of its image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from edgespa.config import Preprocess
from edgespa.data import ImageData
from edgespa.data.tensors import prepare_for
from edgespa.errors import ConfigError, EdgespaError
from edgespa.exporting.config import Origin
from edgespa.exporting.sizes import Sized
from edgespa.graph.program import Program
from edgespa.objectives.kinds import objective_named
from edgespa.tasks.base import Base

ProgramOf = Callable[[Base], tuple[Program, Origin]]
"""From a base at a size to the program that is exported, and where it comes from."""


def at_other_sizes(
    names: tuple[str, ...],
    opened: Base,
    origin: Origin,
    program_of: ProgramOf,
    data: ImageData | None,
    objective: str | None,
) -> tuple[Sized, ...]:
    """The program at each of the sizes.

    Args:
        names: Of the sizes, height and width.
        opened: The base at the first size.
        origin: What is known at the first size.
        program_of: From the base at a size to the program.
        data: Images to prove on.
        objective: The user's own, which may say how boxes are read.

    Raises:
        ConfigError: The model does not take images of one size, or not of that one; it names the size.
    """
    if not names:
        return ()
    shape = opened.input_shape
    if opened.inputs or len(shape) != 4:
        raise ConfigError(
            f"{opened.spec} does not take one image alone, so --also-size says nothing of its inputs",
            "leave out --also-size",
        )
    if data is not None and data.preprocessed:
        raise ConfigError(
            f"{data.name} gives tensors of one size, and --also-size asks for others", "give images, or leave it out"
        )
    found = []
    for name in names:
        height, width = (int(side) for side in name.split("x"))
        if (height, width) == tuple(shape[2:]):
            raise ConfigError(f"{name} is the model's own size", f"leave out --also-size {name}")
        try:
            base = Base.open(opened.spec, (*shape[:2], height, width), opened.weights, digest=opened.digest)
            program, own = program_of(base)
        except EdgespaError as error:
            raise ConfigError(
                f"the model cannot be had at {name}: {error.message}",
                f"leave out --also-size {name}: its structure or its weights, such as embeddings of positions, depend "
                "on the size",
            ) from error
        decoding = own.decoding
        if objective is not None:
            decoding = objective_named(objective).bound(base.detector).decoding or decoding
        how = None if origin.preprocess is None else _resized(origin.preprocess, height, width)
        own = dataclasses.replace(origin, preprocess=how, decoding=decoding)
        found.append(Sized(name, program, own, None if data is None else prepare_for(base.program, data, how)))
    return tuple(found)


def _resized(how: Preprocess, height: int, width: int) -> Preprocess:
    """The same for another size; what an image is resized to before its middle is taken keeps its share."""
    changed: dict[str, object] = {"height": height, "width": width}
    if how.resize_to is not None:
        sides = zip(how.resize_to, (height, width), (how.height, how.width), strict=True)
        changed["resize_to"] = tuple(round(side * now / before) for side, now, before in sides)
    return Preprocess.model_validate({**how.model_dump(), **changed})
