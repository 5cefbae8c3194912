"""What can be known to be wrong before torch is loaded: outputs that cannot be written, inputs that are not there."""

from __future__ import annotations

from pathlib import Path

from edgespa.files import refuse_existing, require_writable
from edgespa.unfinished import refuse_unfinished, state_path


def require_outputs_possible(output: Path, *, overwrite: bool, resume: bool, fresh: bool) -> None:
    """Refuse an output that is there already or cannot be written, and a state that would be lost.

    Args:
        output: What a run writes in the end; its state lies beside it.
        overwrite: Replace what is there.
        resume: Go on with the state.
        fresh: Give it up.

    Raises:
        OutputExistsError: The output is there.
        UnfinishedError: The state is there, or is not.
        OSError: The output or its state cannot be written.
    """
    refuse_existing(output, overwrite)
    require_writable(state_path(output))
    refuse_unfinished(output, resume=resume, fresh=fresh)
