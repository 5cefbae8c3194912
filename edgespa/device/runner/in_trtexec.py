"""ONNX files in TensorRT, by its program trtexec: it builds an engine, runs it, and measures it."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator  # for annotations only: Python 3.8 cannot subscript it
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.engines import engine_folder, numbers_of
from edgespa.device.runner.layouts import feed_by_name, to_program_layout
from edgespa.device.runner.trtexec import TRTEXEC, Trtexec, read_layers, read_outputs, read_times

BUILD_S, RUN_S = 3600.0, 600.0
ENGINE_TIMES, ENGINE_BYTES = 8, 1 << 30  # an engine is no larger than so many times its file, and this
NUMBER_BYTES, SPARE_OUTPUT_BYTES = 24, 1 << 20  # of a number as it is printed
TIMES_BYTES = 512 << 20  # of all times of a measurement
WORKSPACE_MIB = 1024  # of the GPU's memory while it computes: what ONNX Runtime gives TensorRT
LEAST_RUNS, LAYER_RUNS = 10, 60
_NEW_POOLS, _NEW_SKIP, _WHOLE_LONG, _TYPED = (8, 4, 0), (8, 6, 0), (10, 0, 0), (11, 0, 0)


class TrtexecModel:
    """An ONNX file as an engine of TensorRT, for one sample at a time where its batch is free.

    Each run is a process, which loads the engine first: so a file can be proved and measured, and no program is served.
    The engine is built when it is opened for the first time, and kept, see `engine_folder`.
    """

    def __init__(self, runtime: Trtexec, path: Path, variant: dict[str, Any], threads: int) -> None:
        if variant.get("weights"):
            raise RunnerError("trtexec cannot be given weights from outside: use onnxruntime, or ship the bundle")
        asked = variant.get("arithmetic") or "fp32"
        if asked not in ("fp32", "fp16"):
            raise RunnerError(f"trtexec has no arithmetic {asked}: fp32 or fp16")
        if asked == "fp16" and runtime.version >= _TYPED and variant.get("precision") != "fp16":
            raise RunnerError(f"TensorRT {runtime.__version__} computes in the types of the file: export it in fp16")
        self.runtime, self.path, self.variant, self.half = runtime, path, variant, asked == "fp16"
        self.free = [spec for spec in variant["inputs"] if not all(isinstance(size, int) for size in spec["shape"])]
        self.inputs, self.outputs = (_of_one_sample(variant[side]) for side in ("inputs", "outputs"))
        for spec in (*self.inputs, *self.outputs):
            if not spec["name"].isprintable() or set(spec["name"]) & set(",'\"*"):
                raise RunnerError(f"trtexec takes no tensor of the name {spec['name']!r}")
        printed = [spec["name"] for spec in self.outputs if spec["dtype"] in ("int8", "uint8")]
        if printed:
            raise RunnerError(f"trtexec prints bytes as letters: output {printed[0]} cannot be read")
        kept = engine_folder(path)
        if kept is None:  # as long as this model: nothing is kept where others might have put it
            scratch = tempfile.mkdtemp(prefix="edgespa-")
            weakref.finalize(self, shutil.rmtree, scratch, True)
            kept = Path(scratch) / "engines" / "one"
        self.folder = kept
        self.engine = self.folder / f"{TRTEXEC}-{runtime.__version__}-{numbers_of(variant)}.engine"
        self._load()

    def _load(self) -> None:
        """Have an engine that loads and runs: one that is damaged, or was built for another GPU, is built anew."""
        kept = self.engine.is_file()
        if not kept:
            self._build()
        try:
            self.run(self._blank())
        except RunnerError:
            if not kept:
                raise
            self._build()
            self.run(self._blank())

    def _blank(self) -> dict[str, np.ndarray]:
        """Inputs of nothing: what it would take by itself is random, and may be no index of a table."""
        return self.feed([to_program_layout(np.zeros(each["shape"], each["dtype"]), each) for each in self.inputs])

    def _build(self) -> None:
        """Build the engine beside its place, and rename it into it; one that is not whole is never there."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_left(self.folder)
        size, free = self.path.stat().st_size, shutil.disk_usage(str(self.folder)).free
        if free < 2 * size:
            raise RunnerError(f"{self.folder}: {free >> 20} MiB are free, and an engine may take {2 * size >> 20} MiB")
        times = self.folder.parent / f"{TRTEXEC}-{self.runtime.__version__}.timing"  # of the GPU: for all models
        new, new_times = (self.folder / f".{name}.{os.getpid()}.part" for name in (self.engine.name, times.name))
        if times.is_file():
            shutil.copyfile(str(times), str(new_times))
        options = [f"--onnx={os.path.abspath(str(self.path))}", f"--saveEngine={new}", f"--timingCacheFile={new_times}"]
        try:
            most = ENGINE_TIMES * size + ENGINE_BYTES
            self.runtime.run([*options, *self._shapes(), *self._how()], self.folder, BUILD_S, most)
            if not new.is_file() or not new.stat().st_size:  # it may say that all went well
                raise RunnerError(f"{TRTEXEC} has built no engine, and does not say why")
            for old in self.folder.glob(f"{TRTEXEC}-*-{numbers_of(self.variant)}.engine"):  # another version's
                old.unlink()
            os.replace(str(new), str(self.engine))
            if new_times.is_file():
                os.replace(str(new_times), str(times))
        except RunnerError as error:
            raise RunnerError(f"{error}{_advice(str(error), self.variant)}") from error
        finally:
            for part in (new, new_times):
                with contextlib.suppress(OSError):
                    part.unlink()

    def _how(self) -> list[str]:
        """How an engine is built, in the words of this version."""
        version, numbers = self.runtime.version, numbers_of(self.variant)
        found = ["--skipInference" if version >= _NEW_SKIP else "--buildOnly"]
        new = version >= _NEW_POOLS
        found.append(f"--memPoolSize=workspace:{WORKSPACE_MIB}" if new else f"--workspace={WORKSPACE_MIB}")
        if numbers == "fp32":  # neither rounded to TF32 nor to half precision
            return [*found, "--noTF32"]
        if version >= _TYPED:
            return found
        return [*found, "--fp16", *(["--int8"] if numbers == "int8" else [])]

    def _shapes(self) -> list[str]:
        """The sizes of inputs whose batch is free: one sample, so that the engine is built for nothing else."""
        names = {spec["name"] for spec in self.free}
        sizes = [f"{each['name']}:{'x'.join(map(str, each['shape']))}" for each in self.inputs if each["name"] in names]
        return [f"--shapes={','.join(sizes)}"] if sizes else []

    @staticmethod
    def others(flags: set[str]) -> list[str]:
        """In which numbers it can compute beside float32: the GPU's, whatever the processor's flags."""
        return ["fp16"]

    def provider(self) -> str:
        """What computes."""
        return "TensorRT"

    def arithmetic(self) -> str:
        """In which numbers layers in float32 may be computed: TensorRT was told so, and takes what is faster."""
        return "fp16" if self.half else "fp32"

    def feed(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays for the inputs by name, as the engine takes them: before TensorRT 10 it has no 64-bit integers."""
        named = feed_by_name(arrays, self.variant)
        if self.runtime.version >= _WHOLE_LONG:
            return named
        return {name: array.astype("int32") if array.dtype == np.int64 else array for name, array in named.items()}

    def run(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """One inference, in a process of its own; outputs as the file gives them."""
        elements = sum(math.prod(spec["shape"]) for spec in self.outputs)
        with self._given(feed) as (folder, options):
            once = ["--iterations=1", "--duration=0", "--warmUp=0", "--exportOutput=outputs.json"]
            self.runtime.run([*options, *once], folder, RUN_S, NUMBER_BYTES * elements + SPARE_OUTPUT_BYTES)
            return read_outputs(folder / "outputs.json", self.outputs)

    def results(self, raw: list[np.ndarray]) -> list[np.ndarray]:
        """Outputs in the program's layout."""
        return [to_program_layout(array, spec) for array, spec in zip(raw, self.outputs)]

    def measure(self, feed: dict[str, np.ndarray], warmup: int, runs: int, seconds: float | None) -> dict[str, Any]:
        """What inferences take, one behind the other in one process, by its own events on the GPU.

        Args:
            feed: Of `feed`.
            warmup: So many are left out behind the first.
            runs: At most.
            seconds: Stop after so long, and at least 10 runs; None for ``runs``.

        Returns:
            ``first_run_ms``; ``times_ms``, with what goes to the GPU and comes back; ``compute_ms``, without;
            ``peak_kib`` of the process.
        """
        count = 1 + warmup + (runs if seconds is None else LEAST_RUNS)
        options = [f"--iterations={count}", f"--duration={math.ceil(seconds or 0)}", "--warmUp=0"]
        options += ["--exposeDMA", "--useSpinWait", "--exportTimes=times.json"]  # the next begins when one has ended
        with self._given(feed) as (folder, given):
            peak = self.runtime.run([*given, *options], folder, RUN_S + 2 * (seconds or 0), TIMES_BYTES)
            times = read_times(folder / "times.json")
        if len(times) < count:
            raise RunnerError(f"{TRTEXEC} was asked for {count} runs, and tells of {len(times)}")
        kept = times[1 + warmup :][:runs]
        return {
            "first_run_ms": times[0][0],
            "times_ms": [each[0] for each in kept],
            "compute_ms": [each[1] for each in kept],
            "peak_kib": peak,
        }

    def layers(self) -> list[tuple[str, float]]:
        """Name and milliseconds of each layer of the engine, in the order in which they run."""
        options = [f"--iterations={LAYER_RUNS}", "--duration=0", "--warmUp=0", "--separateProfileRun", "--dumpProfile"]
        with self._given(self._blank()) as (folder, given):
            self.runtime.run([*given, *options, "--exportProfile=layers.json"], folder, RUN_S, TIMES_BYTES)
            return read_layers(folder / "layers.json")

    @contextlib.contextmanager
    def _given(self, feed: dict[str, np.ndarray]) -> Iterator[tuple[Path, list[str]]]:
        """A folder with the inputs, little-endian, and the options that load them and the engine."""
        with tempfile.TemporaryDirectory(prefix="edgespa-") as place:
            named = []
            for number, (name, array) in enumerate(feed.items()):
                array.astype(array.dtype.newbyteorder("<"), copy=False).tofile(os.path.join(place, f"{number}.bin"))
                named.append(f"{name}:{number}.bin")
            engine = f"--loadEngine={os.path.abspath(str(self.engine))}"
            yield Path(place), [engine, f"--loadInputs={','.join(named)}", *self._shapes()]


def _of_one_sample(specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**spec, "shape": [size if isinstance(size, int) else 1 for size in spec["shape"]]} for spec in specs]


def _remove_left(folder: Path) -> None:
    """Take away what processes that were killed while they built have left there."""
    for part in folder.glob(f".{TRTEXEC}-*.part"):
        with contextlib.suppress(OSError, ValueError):
            try:
                os.kill(int(part.name.split(".")[-2]), 0)
            except ProcessLookupError:
                part.unlink()


def _advice(said: str, variant: dict[str, Any]) -> str:
    """What helps against an error of a build, where that is known."""
    if variant.get("precision") == "int8" and any(word in said for word in ("ero point", "ymmetric", "UINT8")):
        return ": it takes symmetric levels alone, export it with --int8-scheme symmetric"
    return ""
