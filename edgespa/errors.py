"""Everything that edgespa raises on purpose.

    EdgespaError
    ├── ModelError          a model cannot be found, built, loaded or traced
    │   ├── TraceError      torch.export cannot trace it
    │   └── WeightsError    a weight file does not fit the model
    ├── DataError           a data set cannot be found, read or used
    ├── GraphError          the program cannot be changed as asked
    ├── BudgetError         no selection of units meets the budget
    ├── AdapterError        an adapter does not fit, or is not finite
    ├── TaskFileError       a task file is damaged or of another version
    │   ├── BaseMismatchError   the task was made on another base
    │   └── UntrustedError      its base is code, and nobody here has named it
    ├── ExportError         a file cannot be written in the asked format
    │   └── ParityError     a file does not compute what the program computes
    ├── BundleError         a bundle is damaged, incomplete or of another version
    │   └── SignatureError      it is not signed, not by those who may, or cannot be
    ├── DeviceError         a device or a runtime on it cannot do what was asked
    │   ├── UnreachableError    it cannot be reached, or the connection broke
    │   └── RefusedError        what edgespa runs there answered that it cannot
    ├── RegistryError       a hub or a registry cannot be reached, refuses, or holds something else
    ├── OutputExistsError   the output is there already
    ├── UnfinishedError     the state of an unfinished run is in the way, or is not there
    ├── ConfigError         a value in a configuration is not allowed
    └── MissingExtraError   an optional dependency is not installed

Each carries a message that says what failed and where, and a hint that says what to do next.
"""

from __future__ import annotations

from pathlib import Path


class EdgespaError(Exception):
    """Base of all errors that are meant for the user.

    Args:
        message: What failed, and where (layer, file, option).
        hint: What to do next, in one sentence.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:
            self.add_note(hint)  # what a traceback, in a notebook too, shows below the message


class ModelError(EdgespaError):
    """A model cannot be found, built, loaded or traced."""


class TraceError(ModelError):
    """``torch.export`` cannot trace the model."""


class WeightsError(ModelError):
    """A weight file does not fit the model."""


class DataError(EdgespaError):
    """A data set cannot be found, read or used."""


class GraphError(EdgespaError):
    """The program cannot be changed as asked."""


class BudgetError(EdgespaError):
    """No selection of units meets the budget."""


class AdapterError(EdgespaError):
    """An adapter does not fit its tensor, or its values are not finite."""


class TaskFileError(EdgespaError):
    """A task file is damaged or of another version."""


class BaseMismatchError(TaskFileError):
    """The task file was made on another base."""


class UntrustedError(TaskFileError):
    """The base that a task file names is code that nobody here has named, so it is not run."""


class ExportError(EdgespaError):
    """A file cannot be written in the asked format."""


class ParityError(ExportError):
    """An exported file does not compute what the program computes."""


class BundleError(EdgespaError):
    """A bundle is damaged, incomplete or of another version."""


class SignatureError(BundleError):
    """A bundle is not signed, not by those who may, or cannot be signed."""


class DeviceError(EdgespaError):
    """A device, or a runtime on it, cannot do what was asked."""


class UnreachableError(DeviceError):
    """A device cannot be reached, does not answer, or the connection to it broke."""


class RefusedError(DeviceError):
    """What edgespa runs on a device answered that it cannot do what was asked.

    Args:
        kind: One word: ``full``, ``read-only``, ``forbidden``, ``missing``, ``busy``, ``damaged``, ``memory``, ...
        message: As for every error.
        hint: As for every error.
    """

    def __init__(self, kind: str, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.kind = kind


class RegistryError(EdgespaError):
    """A hub or a registry cannot be reached, refuses what was asked, or holds something else."""


class ConfigError(EdgespaError):
    """A value in a configuration is not allowed."""


class OutputExistsError(EdgespaError):
    """The output is there already and was not to be overwritten."""

    def __init__(
        self, path: Path, what: str = "", hint: str = "name another file, or pass --overwrite to replace it"
    ) -> None:
        super().__init__(f"{path} exists already{what}", hint)


class UnfinishedError(EdgespaError):
    """The state of an unfinished run would be lost, or is to be gone on with and is not there."""


class MissingExtraError(EdgespaError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        from edgespa.system.started import installing

        super().__init__(f"{package} is not installed", f"install it with: {installing(extra)}")
