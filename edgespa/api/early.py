"""What can be known to be wrong before torch is loaded: outputs that cannot be written, inputs that are not there.

Each recipe says the same in its own time; here it is said at once, so nothing is looked into: a path is there or not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path

from edgespa.errors import BundleError, ConfigError, DataError, ModelError, TaskFileError, WeightsError
from edgespa.models.imports import is_module_spec, nearest_path, split_file_spec
from edgespa.system.files import expanded, refuse_existing, require_writable
from edgespa.tasks.unfinished import refuse_unfinished, state_path

_PROMISED: ContextVar[frozenset[Path]] = ContextVar("promised", default=frozenset())
_CHECK = "check the path, relative to the current folder"
_LIKE_FILES = (".npz", ".zip", ".py", ".spa", ".pt2", ".onnx")


@contextlib.contextmanager
def promised(paths: Iterable[Path]) -> Iterator[None]:
    """Take files for there that an earlier step of a recipe will write, as long as the block runs.

    Args:
        paths: Of the files.
    """
    token = _PROMISED.set(frozenset(map(_whole, paths)))
    try:
        yield
    finally:
        _PROMISED.reset(token)


def is_promised(path: str | Path) -> bool:
    """Whether an earlier step will write it."""
    return _whole(path) in _PROMISED.get()


def _whole(path: str | Path) -> Path:
    return Path(os.path.normpath(expanded(path).absolute()))


def require_bundles(*paths: Path) -> None:
    """Refuse bundles that are not there.

    Raises:
        BundleError: With the path.
    """
    for path in paths:
        if not path.exists() and not is_promised(path):
            raise BundleError(f"{path}: no such bundle", nearest_path(path) or _CHECK)


def require_signers(signers: str | Path | None, identity: str | None = None, revoked: str | Path | None = None) -> None:
    """Refuse a name without the file that names it, and revoked keys without those that are not.

    Raises:
        ConfigError: There is no file.
    """
    if signers is None and identity is not None:
        raise ConfigError("identity needs signers, the file that names it", "give both")
    if signers is None and revoked is not None:
        raise ConfigError("revoked needs signers, the file of those who may sign", "give both")


def require_outputs_possible(output: Path, *, overwrite: bool, resume: bool = False, fresh: bool = False) -> None:
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


def require_log_possible(log: Path | None) -> None:
    """Refuse a log that cannot be written.

    Raises:
        ConfigError: With the reason.
    """
    if log is None:
        return
    try:
        if log.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        require_writable(log)
    except OSError as error:
        raise ConfigError(
            f"the log {log} cannot be written: {error.strerror}", "name another file with --log"
        ) from error


def require_there(
    *,
    model: str | None = None,
    weights: str | None = None,
    data: Mapping[str, str | None] | None = None,
    tasks: Mapping[str, str | Path | None] | None = None,
    files: Mapping[str, str | Path | None] | None = None,
) -> None:
    """Refuse inputs whose files are not there.

    Args:
        model: A model spec, or a task file.
        weights: A weight file, or a word of a library.
        data: Data sets by option.
        tasks: Task files by option.
        files: Other files by option.

    Raises:
        ModelError: The model's file is not there.
        WeightsError: The weight file is not there.
        DataError: A data set is not there.
        TaskFileError: A task file is not there.
        ConfigError: Another file is not there.
    """
    if model is not None:
        _require_model(model)
    if weights is not None and weights != "random" and not _is_file_or_part(weights):
        raise WeightsError(f"weights {weights}: no such file", nearest_path(expanded(weights)) or _CHECK)
    for spec in (data or {}).values():
        if spec is not None and (missing := _missing_data(spec)) is not None:
            raise DataError(f"data {spec!r}: {missing} does not exist", nearest_path(missing) or _CHECK)
    for option, task in (tasks or {}).items():
        if task is not None and not (Path(task).is_file() or is_promised(task)):
            raise TaskFileError(f"{option} {task}: no such file", nearest_path(Path(task)) or _CHECK)
    for option, file in (files or {}).items():
        if file is not None and not Path(file).is_file():
            raise ConfigError(f"{option} {file}: no such file", nearest_path(Path(file)) or _CHECK)


def _is_file_or_part(weights: str) -> bool:
    """Whether there is FILE of FILE or FILE:KEY."""
    return any(expanded(name).is_file() for name in (weights, weights.rpartition(":")[0]) if name)


def _require_model(spec: str) -> None:
    found = split_file_spec(spec)
    path = expanded(found[0] if found is not None else spec)
    if path.is_file() or is_promised(path) or not (found is not None or path.suffix in (".spa", ".pt2", ".onnx")):
        return
    error = TaskFileError if path.suffix == ".spa" else ModelError
    raise error(f"{path}: no such file", nearest_path(path) or _CHECK)


def _missing_data(spec: str) -> Path | None:
    """The path that is surely meant and not there; None where it is, or where something else may be meant."""
    whole = expanded(spec)
    head, colon, _ = spec.rpartition(":")
    path = expanded(head) if colon and head else whole
    if whole.exists() or path.exists() or is_module_spec(spec) or is_promised(whole) or is_promised(path):
        return None
    named = os.sep in spec or path.suffix in _LIKE_FILES
    return path if named else None
