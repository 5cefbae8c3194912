"""MLflow: one run of an experiment, by MLflow's own client, which also knows by what name and password it may write."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from edgespa import __version__
from edgespa.adaptation.tracking import Row
from edgespa.system.quiet import quiet

EXPERIMENT = "edgespa"
"""Where ``MLFLOW_EXPERIMENT_NAME`` names no other."""
_SHORT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""A server that went away holds up a training for seconds; MLflow's own patience is four minutes a call."""
_SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true"}
"""Nobody else is told that there is a training."""
_FOLDERS = {"MLFLOW_ALLOW_FILE_STORE": "true"}
"""A folder is what the user named; newer versions of MLflow ask for it to be said twice."""
_SQLITE = "sqlite:///"
_MOST_AT_ONCE, _MOST_PARAMS, _MOST_TEXT = 500, 90, 500


class MLflow:
    """Writes to an MLflow server or store.

    Args:
        uri: ``http://HOST:PORT``, ``sqlite:///FILE.db``, a folder, or what else MLflow takes for a tracking URI.
    """

    option = "--mlflow"

    def __init__(self, uri: str) -> None:
        self.place = without_password(uri)
        self._uri = absolute(uri)
        self._client: Any = None
        self._run = ""
        self._behind: dict[str, set[tuple[int, float]]] | None = None

    def reach(self) -> None:
        """See `edgespa.adaptation.tracking.Sink`."""
        with self._as_asked():
            from mlflow.tracking import MlflowClient

            self._experiment(MlflowClient(tracking_uri=self._uri))

    def begin(self, name: str, config: Mapping[str, Any], resumed: str | None, step: int) -> str:
        """See `edgespa.adaptation.tracking.Sink`."""
        with self._as_asked():
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient

            client = self._client = MlflowClient(tracking_uri=self._uri)
            if resumed is not None:
                try:
                    client.update_run(resumed, status="RUNNING")
                except MlflowException as error:
                    if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                        raise
                else:
                    self._run, self._behind = resumed, {}
                    return resumed
            self._run = client.create_run(
                self._experiment(client),
                run_name=name,
                tags={"edgespa.version": __version__, "mlflow.source.name": "edgespa"},
            ).info.run_id
            self._say(client, config)
        return self._run

    def _experiment(self, client: Any) -> str:
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name))
            except MlflowException:  # another training did at the same moment
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _say(self, client: Any, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:_MOST_TEXT]) for key, value in config.items() if value is not None]
        for at in range(0, len(params), _MOST_PARAMS):
            client.log_batch(self._run, params=params[at : at + _MOST_PARAMS])

    def add(self, rows: Sequence[Row]) -> None:
        """See `edgespa.adaptation.tracking.Sink`."""
        with self._as_asked():
            from mlflow.entities import Metric

            metrics = [
                Metric(tag, value, int(row.at * 1000), row.step)
                for row in rows
                for tag, value in row.figures.items()
                if not self._has(tag, row.step, value)
            ]
            for at in range(0, len(metrics), _MOST_AT_ONCE):
                self._client.log_batch(self._run, metrics=metrics[at : at + _MOST_AT_ONCE])

    def _has(self, tag: str, step: int, value: float) -> bool:
        """Whether a run that is gone on with has a figure: what comes again is as it was, but for times."""
        if self._behind is None:
            return False
        if tag not in self._behind:
            found = self._client.get_metric_history(self._run, tag)
            self._behind[tag] = {_known(tag, metric.step, metric.value) for metric in found}
        return _known(tag, step, value) in self._behind[tag]

    def end(self, status: str) -> None:
        """See `edgespa.adaptation.tracking.Sink`."""
        if self._run:
            with self._as_asked():
                self._client.set_terminated(self._run, status)

    @contextlib.contextmanager
    def _as_asked(self) -> Iterator[None]:
        """MLflow's settings and voice for a while; what the user has set stays."""
        wanted = {**_SHORT, **_SILENT, **(_FOLDERS if self._is_folder else {})}
        added = [name for name in wanted if name not in os.environ]
        os.environ.update({name: wanted[name] for name in added})
        try:
            with quiet("mlflow"):
                yield
        finally:
            for name in added:
                os.environ.pop(name, None)

    @property
    def _is_folder(self) -> bool:
        return "://" not in self._uri or self._uri.startswith("file:")


def absolute(uri: str, folder: Path | None = None) -> str:
    """The same place whatever the current folder is later on: MLflow keeps stores open by their names.

    Args:
        uri: See `MLflow`.
        folder: Where files begin; None for the current one.
    """
    begin = Path() if folder is None else folder
    if uri.startswith(_SQLITE) and not uri.startswith(f"{_SQLITE}/"):
        return f"{_SQLITE}/{(begin / uri.removeprefix(_SQLITE)).absolute().as_posix().lstrip('/')}"
    named = "://" in uri or uri.split(":")[0] in ("databricks", "file")
    return uri if named else str((begin / uri).absolute())


def _known(tag: str, step: int, value: float) -> tuple[int, float]:
    return step, 0.0 if tag.startswith("time/") else value


def without_password(uri: str) -> str:
    """An address as it can be shown.

    Args:
        uri: That may hold a name and a password.
    """
    try:
        parts = urlsplit(uri)
        if "@" not in parts.netloc:
            return uri
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    except ValueError:
        return "that address"
