"""The program trtexec of TensorRT: where it is, a bounded process of it, what it writes and says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable  # for annotations only: Python 3.8 cannot subscript it
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError

TRTEXEC = "trtexec"
TRTEXEC_PLACES = ("/usr/src/tensorrt/bin", "/opt/tensorrt/bin", "/usr/local/tensorrt/bin")
GET_TRTEXEC = "it comes with JetPack: sudo apt install libnvinfer-bin"
OLDEST_TENSORRT = (8, 0, 0)
_SAID_BYTES = 64 << 10  # of what it says, at the beginning and at the end
_HELP_S, _HELP_BYTES = 60.0, 4 << 20
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
_BANNER = re.compile(r"TensorRT\.trtexec \[TensorRT v([0-9]{4,7})\]")
_LINE = re.compile(r"\[[0-9/:-]+\] \[([VIWEF])\] ?(?:\[TRT\] ?)?(.*)")
_GENERAL = (
    "Failed to parse onnx file",
    "Parsing model failed",
    "Failed to create engine from model",
    "Engine could not be created from network",
    "Building engine failed",
    "Engine set up failed",
    "Inference set up failed",
    "Network And Config setup failed",
    "--- Begin node ---",
    "--- End node ---",
    "While parsing node number",
    "input: ",
)
_OUTPUT = re.compile(
    r'\{ "name" : "([^\n]*)"\s*,\s*"dimensions" : "([0-9x]*)"\s*,\s*"values" : \[([^\]]*)\]'
)  # as it is printed: names are not escaped, and not-a-number is no JSON
_TIMES = re.compile(r'"computeMs" : ([0-9.eE+-]+).*"latencyMs" : ([0-9.eE+-]+)')
_LAYER = re.compile(r'\{ "name" : "(.*)", "timeMs" : [^,]+, "averageMs" : ([^,]+), (?:"medianMs" : ([^,]+), )?"perc')


class Trtexec:
    """The program as it was found: in place of the module that other runtimes are.

    Attributes:
        path: Of the program.
        version: Of TensorRT, as its banner says it: ``(10, 3, 0)``.
    """

    __name__ = TRTEXEC

    def __init__(self) -> None:
        path = self.place()
        if path is None:
            raise RunnerError(f"neither on PATH nor in {TRTEXEC_PLACES[0]}; {GET_TRTEXEC}")
        self.path = path
        with tempfile.TemporaryDirectory(prefix="edgespa-") as folder:
            said, status, _ = self._end(["--help"], Path(folder), _HELP_S, _HELP_BYTES)
        found = _BANNER.search(said)
        if found is None:
            raise RunnerError(f"{path} does not say which TensorRT it is of: {failure_of(said, status)}")
        self.version = tensorrt_version(found.group(1))
        if self.version < OLDEST_TENSORRT:
            raise RunnerError(f"{path} is of TensorRT {self.__version__}: it takes 8.0 or newer")

    @property
    def __version__(self) -> str:
        return ".".join(map(str, self.version))

    @staticmethod
    def place() -> str | None:
        """Its path: on PATH, of folders that do not depend on where one is, or where JetPack has it; nothing is run."""
        folders = [each for each in os.environ.get("PATH", "").split(os.pathsep) if os.path.isabs(each)]
        return shutil.which(TRTEXEC, path=os.pathsep.join([*folders, *TRTEXEC_PLACES])) if os.name == "posix" else None

    def run(self, options: list[str], folder: Path, seconds: float, most_bytes: int) -> int | None:
        """Run it to its end.

        Args:
            options: Of the command line.
            folder: That it runs in.
            seconds: It is ended after so long; and with this process in any case.
            most_bytes: Of each file that it writes.

        Returns:
            The peak of its memory in KiB.

        Raises:
            RunnerError: It failed; with the error of its log that says most.
        """
        said, status, peak = self._end(options, folder, seconds, most_bytes)
        if status != 0:
            raise RunnerError(f"{TRTEXEC}: {failure_of(said, status)}")
        return peak

    def _end(
        self, options: list[str], folder: Path, seconds: float, most_bytes: int
    ) -> tuple[str, int | str, int | None]:
        """What it said, how it ended (a status, or why in words), and the peak of its memory in KiB."""
        with tempfile.TemporaryFile() as out:
            try:
                child = subprocess.Popen(
                    [self.path, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    cwd=str(folder),
                    preexec_fn=_bounded(most_bytes),
                )
            except OSError as error:
                raise RunnerError(f"{self.path} cannot be run: {error.strerror or error}") from error
            late = threading.Event()

            def end() -> None:
                late.set()
                child.kill()

            timer = threading.Timer(seconds, end)
            timer.daemon = True
            timer.start()
            try:
                _, ended, used = os.wait4(child.pid, 0)
            except BaseException:
                child.kill()
                child.wait()
                raise
            finally:
                timer.cancel()
            code = child.returncode = os.WEXITSTATUS(ended) if os.WIFEXITED(ended) else -os.WTERMSIG(ended)
            status: int | str = code
            if late.is_set():
                status = f"it has not ended after {seconds:g} s"
            elif code == -signal.SIGXFSZ:
                status = f"it wrote more than {most_bytes >> 20} MiB into one file"
            elif code < 0:
                status = f"it was ended by signal {-code}"
            return _ends_of(out), status, int(used.ru_maxrss) or None


def _bounded(most_bytes: int) -> Callable[[], None]:
    """What a process does before it becomes trtexec: limits of its own, and it ends with its parent."""
    import ctypes
    import resource

    library = ctypes.CDLL(None)

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if hasattr(library, "prctl"):
            library.prctl(_DIE_WITH_PARENT, signal.SIGKILL)

    return bound


def _ends_of(file: Any) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    first = file.read(_SAID_BYTES)
    file.seek(max(len(first), size - _SAID_BYTES))
    return str((first + file.read()).decode("utf-8", "replace"))


def tensorrt_version(digits: str) -> tuple[int, int, int]:
    """Of the number in the banner: ``8601`` is 8.6.1, and ``100300`` 10.3.0."""
    number, unit = int(digits), 10000 if len(digits) > 4 else 1000
    return number // unit, number % unit // 100, number % 100


def failure_of(said: str, status: int | str) -> str:
    """Why it failed, in one line: of the errors in its log the first that names a cause.

    Args:
        said: Its log. A line begins with the time and ``[E]``; what does not, goes on with the one before.
        status: How it ended.
    """
    errors: list[str] = []
    inside = False
    for line in said.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match is not None:
            inside = match.group(1) in "EF"
            if inside:
                errors.append(match.group(2))
        elif inside and line.strip() and not line.startswith("&&&&"):
            errors[-1] += f" {line.strip()}"
    if isinstance(status, str):
        return status
    telling = [each for each in errors if not each.startswith(_GENERAL) and "]: --- " not in each]
    causes = [each for each in telling if re.search(r"error|failed|unsupported|unknown|unable", each, re.IGNORECASE)]
    found = [*causes, *telling, *errors, *said.strip().splitlines()[-1:]]
    return found[0][:400] if found else f"it ended with status {status}"


def read_outputs(path: Path, specs: list[dict[str, Any]]) -> list[np.ndarray]:
    """The outputs that it exported, of six digits each, as they stand in a manifest.

    Raises:
        RunnerError: One is not there, or is not whole.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RunnerError(f"{TRTEXEC} has written no outputs: {error}") from error
    found = {match.group(1): match for match in _OUTPUT.finditer(text)}
    arrays = []
    for spec in specs:
        if spec["name"] not in found:
            raise RunnerError(f"{TRTEXEC} gives no output {spec['name']}")
        _, dimensions, values = found[spec["name"]].groups()
        shape = [int(size) for size in dimensions.split("x") if size]
        whole = np.dtype(spec["dtype"]).kind in "iu"
        try:
            numbers = np.fromstring(values, "int64" if whole else "float64", sep=",") if values.strip() else np.zeros(0)
        except ValueError as error:
            raise RunnerError(f"{TRTEXEC}: output {spec['name']} is no row of numbers: {error}") from error
        if numbers.size != int(np.prod(shape)):
            raise RunnerError(f"{TRTEXEC}: output {spec['name']} is {dimensions}, and {numbers.size} numbers came")
        arrays.append(numbers.astype(spec["dtype"]).reshape(shape))
    return arrays


def read_times(path: Path) -> list[tuple[float, float]]:
    """Milliseconds of each inference, in order: with what goes to the GPU and comes back, and of computing alone."""
    found = []
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                match = _TIMES.search(line)
                if match is not None:
                    found.append((float(match.group(2)), float(match.group(1))))
    except (OSError, ValueError) as error:
        raise RunnerError(f"the times that {TRTEXEC} wrote cannot be read: {error}") from error
    return found


def read_layers(path: Path) -> list[tuple[str, float]]:
    """Name and milliseconds of each layer of an engine: the median of its runs, before TensorRT 8.6 the mean."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        matches = [match for match in map(_LAYER.search, lines) if match is not None]
        return [(match.group(1), float(match.group(3) or match.group(2))) for match in matches]
    except (OSError, ValueError) as error:
        raise RunnerError(f"the layers that {TRTEXEC} wrote cannot be read: {error}") from error
