"""The objectives: those that come with edgespa, those of entry points, and the user's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from edgespa.data import ImageData
from edgespa.errors import ConfigError, DataError
from edgespa.models.imports import find_object, is_module_spec, nearest, split_file_spec
from edgespa.models.sources import code_digest
from edgespa.objectives.base import Objective
from edgespa.objectives.detection import Detection
from edgespa.objectives.embedding import Embedding
from edgespa.objectives.heatmaps import Heatmaps
from edgespa.objectives.image import Image
from edgespa.objectives.match import Match
from edgespa.objectives.measures import Measure
from edgespa.objectives.segmentation import Segmentation
from edgespa.objectives.table import Classes, MultiLabel, Regression
from edgespa.system.files import expanded

GROUP = "edgespa.objectives"
OWN: Mapping[str, type[Objective]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (Classes, MultiLabel, Regression, Segmentation, Detection, Heatmaps, Image, Embedding, Match)
    }
)
_WANTED = "return an instance of a subclass of edgespa.objectives.base.Objective"


def objective_names() -> tuple[str, ...]:
    """All names, those of entry points last; nothing is imported for it."""
    return (*OWN, *(name for name in _plugins() if name not in OWN))


def objective_named(name: str) -> Objective:
    """An objective.

    Args:
        name: One of `objective_names`; or ``path/file.py:factory``, ``package.module:factory`` of the user's own.

    Raises:
        ConfigError: If there is none, or what the factory gives is of no use.
    """
    if name in OWN:
        return OWN[name]()
    if name in _OPENED:
        return _OPENED[name]
    point = _plugins().get(name)
    if point is not None:
        where = f"the objective '{name}' of {point.dist.name if point.dist else point.value}"
        try:
            found = point.load()
            return _checked(found() if callable(found) else found, where, name)
        except ConfigError:
            raise
        except Exception as error:  # the code of a plugin
            raise ConfigError(f"{where} cannot be made: {error}", "repair or uninstall that package") from error
    if split_file_spec(name) is None and not is_module_spec(name):
        near = nearest(name, objective_names(), 1)
        raise ConfigError(
            f"there is no objective {name!r}",
            (f"did you mean {near[0]}? " if near else "")
            + f"there are: {', '.join(objective_names())}; or name your own: file.py:factory",
        )
    made = find_object(name, ConfigError, "objective")
    found = _checked(made.value if isinstance(made.value, Objective) else made.call(), name, None)
    _OPENED[found.name] = found  # data that are loaded for it name it so
    return found


def identity_of(spec: str) -> str:
    """The same for the same objective: of code of the user's with its digest, and that of what it imports.

    Args:
        spec: As `objective_named` takes it.
    """
    file = split_file_spec(spec)
    if file is None:
        return spec
    path = expanded(file[0])
    return f"{spec} {code_digest(path.resolve(), path.resolve().parent)[:16]}"


def fitted(data: ImageData, objective: Objective) -> ImageData:
    """Data as an objective learns them.

    Args:
        data: Loaded.
        objective: It says what has to be known of each sample.

    Raises:
        DataError: Something else is known, or nothing.
    """
    if objective.answers == "none":
        return data.unanswered().of_kind(objective.name)
    has = data.form
    if has != objective.answers or not data.answered:
        found = _KNOWN[has] if data.answered else "nothing"
        raise DataError(
            f"the objective {objective.name} needs {_KNOWN[objective.answers]} for each image, and {data.name} has "
            f"{found}",
            "give other data, or leave out --objective: it is told by the data",
        )
    if objective.name in OWN and objective.name != data.kind:
        raise DataError(
            f"{data.name} is {data.kind} data, which is not learned as {objective.name}",
            "leave out --objective: it is told by the data",
        )
    return data.of_kind(objective.name)


_KNOWN = {
    "table": "a class or a row of numbers",
    "masks": "a mask",
    "boxes": "boxes",
    "points": "key points",
    "images": "a picture that is wanted for it",
    "items": "what a data set of yours gives",
    "none": "nothing",
}
_OPENED: dict[str, Objective] = {}


def _checked(found: object, where: str, name: str | None) -> Objective:
    if not isinstance(found, Objective):
        raise ConfigError(f"{where} gives a {type(found).__name__}", _WANTED)
    called, measures = getattr(found, "name", None), getattr(found, "measures", None)
    if not isinstance(called, str) or not re.fullmatch(r"[a-z][a-z0-9-]*", called):
        raise ConfigError(f"{where} is called {called!r}", "give it a name of lower-case letters, digits and '-'")
    if (name is None and called in OWN) or (name is not None and called != name):
        raise ConfigError(f"{where} is called {called!r}", f"call it {name!r}" if name else "that name is taken")
    if not (isinstance(measures, tuple) and measures and all(isinstance(each, Measure) for each in measures)):
        raise ConfigError(f"{where} has no measures", "give it a tuple of edgespa.objectives.measures.Measure")
    return found


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
