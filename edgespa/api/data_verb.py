"""The public call that looks at data. See `edgespa.api.verbs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgespa.api.arguments import data_if_any, data_of, file_of, sizes_of, told
from edgespa.api.finding_results import DataCheck
from edgespa.api.shell import checked

if TYPE_CHECKING:
    from edgespa.api.arguments import Data, Sizes, Tell


def check_data(
    data: Data,
    *,
    eval_data: Data | None = None,
    output: str | Path | None = None,
    input_shape: Sizes | None = None,
    objective: str | None = None,
    overwrite: bool = False,
    progress: Tell = None,
) -> DataCheck:
    """Look at every image of data: what is in them, what cannot be used, what is there twice, what may mislead.

    Nothing is changed, and files that cannot be used end nothing here. Images of which nothing is known are looked at,
    too: a flat folder for calibration.

    Args:
        data: See `adapt`.
        eval_data: Test data, of which no picture should be among ``data``.
        output: Write what was found to this file, as JSON; `DataCheck.read` reads it.
        input_shape: Sizes of the model's input, (1, 3, 224, 224): images that are smaller are told, and boxes that
            become tiny.
        objective: What is to be learned, where data have several answers; see `adapt`.
        overwrite: Replace an output that is there.
        progress: See `edgespa.api.verbs`.

    Raises:
        DataError: There are no data, or none of them can be used.
    """
    from edgespa.api.early import require_there
    from edgespa.system.files import refuse_existing, require_writable

    spec, test, target = data_of(data), data_if_any(eval_data), file_of(output)
    require_there(data={"DATA": spec, "--eval-data": test})
    if target is not None:
        refuse_existing(target, overwrite)
        require_writable(target)

    from edgespa.api.looking import look_at_data

    checked()
    with told("look", progress) as report:
        health = look_at_data(spec, test, input_shape=sizes_of(input_shape), objective=objective, progress=report)
    if target is not None:
        health.write(target)
    return DataCheck(health, target)
