"""Jobs as tasks of a Ray cluster: the same functions, where Ray has room for them.

Which task runs where, what waits, and what is begun again when a machine is lost, is Ray's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from edgespa import __version__
from edgespa.errors import ConfigError, EdgespaError, MissingExtraError
from edgespa.system.stopping import held_back
from edgespa.workers.calling import carried_out, ended
from edgespa.workers.job import Ended, Failure, Job
from edgespa.workers.node import on_node
from edgespa.workers.sending import Sending

CORES = 1
"""Of a node, for one job; Ray lets it compute with so many threads."""
RETRIES = 3
"""How often a job begins again whose node, or process, was lost."""
PATIENCE_S = 120.0
_HEED_S = 0.5
_SAME_S = 1.0
_START = "start one (ray start --head), or say local for one on this machine"
_SECONDS = 10.0
_ADDRESS = re.compile(r"auto|local|(ray://)?(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}")


def resource_of(device: str) -> str:
    """The custom resource by which a node says that it serves a device; one of it is one measurement at a time.

    Args:
        device: Its name.
    """
    return f"edgespa-device-{device}"


class RayWorkers:
    """A Ray cluster that takes jobs; see `edgespa.workers.Workers`.

    Args:
        address: ``auto`` for the one that this machine is a node of, ``local`` for one that is started here and ends
            with this, or ``HOST:PORT``.
        devices: That a cluster which is started here serves.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: It is no address, or nothing answers there.
    """

    def __init__(self, address: str, devices: Sequence[str] = ()) -> None:
        # Nothing is told to Ray's makers, and a node without a GPU is told so without a warning.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if not _ADDRESS.fullmatch(address):
            raise ConfigError(f"'{address}' is no address of a Ray cluster", "give auto, local, or HOST:PORT")
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError("ray", "ray") from error
        self._ray = ray
        self._own = not ray.is_initialized()
        if self._own:
            _connect(ray, address, devices)
        self._do = ray.remote(num_cpus=CORES, max_retries=RETRIES)(_there)
        self._resources: Mapping[str, float] = ray.cluster_resources()
        self.slots = max(1, int(self._resources.get("CPU", 0)) // CORES)
        self._refs: dict[Any, tuple[Job, float]] = {}
        self._options: dict[Any, Mapping[str, Any]] = {}
        self._sending = Sending(ray)
        self._stopping = False

    @property
    def running(self) -> tuple[Job, ...]:
        """Jobs that were submitted and have not ended."""
        return tuple(job for job, _ in self._refs.values())

    def submit(self, job: Job) -> None:
        """Give Ray a job.

        Args:
            job: It.

        Raises:
            ConfigError: It measures on a device that no node serves.
            DataError: It reads more than is carried to nodes.
        """
        options: dict[str, Any] = {"name": f"edgespa {job.name}"}
        if job.device is not None:
            name = resource_of(job.device)
            if name not in self._resources:
                self._resources = self._ray.cluster_resources()
            if name not in self._resources:
                raise ConfigError(
                    f"no node of the cluster serves the device '{job.device}'",
                    "start Ray on the machine that reaches it, and has its profile, with: "
                    f"ray start --resources='{{\"{name}\": 1}}'",
                )
            options["resources"] = {name: 1}
        self._give(job, options)

    def _give(self, job: Job, options: Mapping[str, Any], needs: Mapping[str, Any] | None = None) -> None:
        travel = self._sending.of(job, needs)
        ref = self._do.options(**options).remote(__version__, job.call, dict(job.arguments), travel)
        self._refs[ref] = (job, time.monotonic())
        self._options[ref] = options

    def next(self) -> Ended:
        """What came of the job that ends next; waits for it.

        Raises:
            LookupError: None was submitted that has not ended.
        """
        if not self._refs:
            raise LookupError("no job is running")
        while True:
            ready, _ = self._ray.wait(list(self._refs), num_returns=1, timeout=_HEED_S)
            if ready and (found := self._take(ready[0])) is not None:
                return found

    def stop(self) -> list[Ended]:
        """Ask all that was submitted to end, and wait for it; Ctrl-C once more ends it where it is.

        Returns:
            What came of it.
        """
        for ref in self._refs:
            with contextlib.suppress(Exception):  # it has just ended
                self._ray.cancel(ref)
        began, result, forced = time.monotonic(), list[Ended](), False
        self._stopping = True
        with held_back() as again:
            while self._refs:
                ready, left = self._ray.wait(list(self._refs), num_returns=1, timeout=_HEED_S)
                result += [found for ref in ready if (found := self._take(ref)) is not None]
                seconds = time.monotonic() - began
                if not forced and (seconds >= PATIENCE_S or (again.asked is not None and seconds >= _SAME_S)):
                    forced = True
                    for ref in left:
                        with contextlib.suppress(Exception):
                            self._ray.cancel(ref, force=True)
        return result

    def close(self) -> None:
        """Stop what runs, and leave the cluster; one that was started here ends."""
        try:
            self.stop()
        finally:
            self._sending.close()
            if self._own:
                self._ray.shutdown()

    def _take(self, ref: Any) -> Ended | None:
        """What came of a job; None where its node does not see its files, and it was given once more, with them."""
        from ray import exceptions

        job, began = self._refs.pop(ref)
        options = self._options.pop(ref)
        try:
            where, answer = self._ray.get(ref)
            if "needs" not in answer:
                self._sending.take(job, answer)
                return ended(job, answer, where)
            if not self._stopping:
                self._give(job, options, answer["needs"])
                return None
            failure = Failure("interrupted", stopped=True)
        except exceptions.TaskCancelledError:
            failure = Failure("interrupted", stopped=True)
        except exceptions.OutOfMemoryError:
            failure = Failure(
                "its node ran out of memory, and Ray ended it",
                "use smaller batches, or nodes with more memory for each core that Ray is given",
                lost=True,
            )
        except exceptions.RayError as error:
            first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            failure = Failure(
                f"its node or process was lost, {RETRIES} times again: {type(error).__name__}: {first[:200]}",
                "see ray status, and the logs of that node",
                lost=True,
            )
        except EdgespaError as error:
            failure = Failure(error.message, error.hint, kind=type(error).__name__)
        except OSError as error:
            name = f"{error.filename}: " if error.filename is not None else ""
            failure = Failure(f"{name}{error.strerror or error}", kind=type(error).__name__)
        return Ended(job, None, failure, time.monotonic() - began, "the cluster")


def _connect(ray: Any, address: str, devices: Sequence[str]) -> None:
    _require_answer(address)
    local = {"include_dashboard": False, "resources": {resource_of(name): 1 for name in devices}}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(local if address == "local" else {}),
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(f"no Ray cluster answers at {address}: {first[:200]}", _START) from error


def _require_answer(address: str) -> None:
    """Ray itself tries for minutes where nothing listens."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster answers at {address}: {error}", _START) from error


def _there(
    version: str, call: str, arguments: Mapping[str, Any], travel: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """A job on its node; Ray finds this function by its name in the edgespa that is installed there."""
    import ray

    where = f"node {ray.get_runtime_context().get_node_id()[:8]} at {ray.util.get_node_ip_address()}"
    if version != __version__:
        failure = Failure(
            f"{where} has edgespa {__version__}, and it was asked for by {version}", "install the same one everywhere"
        )
        return where, {"value": None, "failure": vars(failure), "seconds": 0.0, "said": []}
    return where, carried_out(call, arguments) if travel is None else on_node(call, arguments, travel, ray.get)
