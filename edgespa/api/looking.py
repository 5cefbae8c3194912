"""``edgespa data`` as one call: from data specs to what was found out about them."""

from __future__ import annotations

import logging

from edgespa.api.options import Progress, image_size
from edgespa.data import ImageData, load_data
from edgespa.data.health import health_of
from edgespa.errors import DataError
from edgespa.findings.dataset import Health
from edgespa.models.inputs import InputSizes
from edgespa.objectives.kinds import fitted, objective_named
from edgespa.system.quiet import NOTE

log = logging.getLogger(__name__)


def look_at_data(
    data: str,
    evaluation: str | None = None,
    *,
    input_shape: InputSizes | None = None,
    objective: str | None = None,
    progress: Progress | None = None,
) -> Health:
    """Look at data, and at test data beside them.

    Args:
        data: A data spec.
        evaluation: Another.
        input_shape: Sizes of the model's input.
        objective: What is to be learned.
        progress: Told ``(done, total, text)``.

    Raises:
        DataError: One cannot be opened.
    """
    size = image_size(input_shape)[1:] if input_shape is not None else None
    sets = [_opened(spec, objective) for spec in (data, evaluation) if spec is not None]
    return health_of(sets, size, progress)


def _opened(spec: str, objective: str | None) -> ImageData:
    """With what is known of the images; without, where nothing is."""
    wanted = objective_named(objective) if objective else None
    labelled = wanted is None or wanted.answers != "none"
    items = wanted.name if wanted is not None and wanted.answers == "items" else None
    try:
        found = load_data(
            spec,
            labelled=labelled,
            items=items,
            wanted=wanted.answers if wanted is not None and labelled else None,
            skip=True,
        )
    except DataError as error:
        if wanted is not None:
            raise
        try:
            found = load_data(spec, labelled=False, skip=True)
        except DataError:
            raise error from None
        log.log(NOTE, "the images alone are looked at: %s", error.message)
        return found
    return found if wanted is None else fitted(found, wanted)
