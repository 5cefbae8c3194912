"""Model files in their runtimes: arrays in the program's layout go in and come out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator  # for annotations only: Python 3.8 cannot subscript them
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.bundle.limits import MAX_ELEMENTS
from edgespa.device.runner.bundle import RunnerError, inside
from edgespa.device.runner.tensors import unpacked
from edgespa.device.runner.weights import materialise
from edgespa.pixels.values import to_pixels

CHUNK = 8  # samples at a time where the batch is free: small boards have little memory
CHUNK_ELEMENTS = 1 << 22  # of their inputs, or one sample


def chunk_of(elements: int) -> int:
    """Samples at a time, by the numbers of one of them."""
    return max(1, min(CHUNK, CHUNK_ELEMENTS // max(1, elements)))


def to_file_layout(array: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
    """From the program's layout (NCHW) to that of the file."""
    if spec.get("layout") == "NHWC":
        array = np.transpose(array, (0, 2, 3, 1))
    return np.ascontiguousarray(array)


def to_program_layout(array: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
    """From the layout of the file to the program's (NCHW)."""
    if spec.get("layout") == "NHWC":
        array = np.transpose(array, (0, 3, 1, 2))
    return np.ascontiguousarray(array)


def as_the_file_takes(arrays: list[np.ndarray], variant: dict[str, Any]) -> list[np.ndarray]:
    """The program's inputs in each input's own layout; pixels where the file normalises by itself."""
    how = variant.get("preprocess")
    if how is not None and arrays[0].dtype.kind == "f":
        arrays = [to_pixels(arrays[0], how), *arrays[1:]]
    return [to_file_layout(array, spec) for array, spec in zip(arrays, variant["inputs"])]


def open_session(
    runtime: Any, model: Any, threads: int, providers: list[str], more: Callable[[Any], None] | None = None
) -> Any:
    """A file in ONNX Runtime, with sums of int8 products that do not overflow.

    Processors of x86 without VNNI add them up in 16 bits: a file that is right on all others is wrong there. ONNX
    Runtime has slower kernels that do not, and takes them where it is told to; but it fails on weights that several
    operators share, which are left as they are.
    """

    def options(exact: bool) -> Any:
        made = runtime.SessionOptions()
        made.intra_op_num_threads = threads
        made.inter_op_num_threads = 1
        made.log_severity_level = 3
        if exact:
            made.add_session_config_entry("session.x64quantprecision", "1")
        if more is not None:
            more(made)
        return made

    try:
        return runtime.InferenceSession(model, options(True), providers=providers)
    except Exception:  # whatever the runtime raises; what is wrong with the file itself, it raises again
        return runtime.InferenceSession(model, options(False), providers=providers)


class OnnxModel:
    """A model file in ONNX Runtime, on the CPU."""

    def __init__(self, runtime: Any, path: Path, variant: dict[str, Any], threads: int) -> None:
        model: Any = str(path)
        content = materialise(path.parent, variant) if variant.get("weights") else None
        if content is not None:
            model = unpacked(path)

        def give_weights(options: Any) -> None:
            if content is not None:
                self.weights = _given(runtime, options, content)

        cpu = "CPUExecutionProvider"  # behind another provider: it takes the operators that the other has not
        providers = list(dict.fromkeys([variant.get("provider") or cpu, cpu]))
        self.session = open_session(runtime, model, threads, providers, give_weights)
        self.variant, self.inputs, self.outputs = variant, variant["inputs"], variant["outputs"]
        self.names = [spec["name"] for spec in self.outputs]

    def provider(self) -> str:
        """What computes: the first provider of the session."""
        return str(self.session.get_providers()[0])

    def feed(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The session's feed for arrays in the program's layout."""
        feed = {}
        for spec, array in zip(self.inputs, as_the_file_takes(arrays, self.variant)):
            if spec["dtype"] in ("int8", "uint8") and array.dtype.kind == "f":
                raise RunnerError(f"input {spec['name']} is quantised, but an ONNX file does not say by what scale")
            feed[spec["name"]] = array.astype(spec["dtype"], copy=False)
        return feed

    def run(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """One inference; outputs as the file gives them."""
        return list(self.session.run(self.names, feed))

    def results(self, raw: list[np.ndarray]) -> list[np.ndarray]:
        """Outputs in the program's layout."""
        return [to_program_layout(array, self.outputs[i]) for i, array in enumerate(raw)]


def _given(runtime: Any, options: Any, weights: dict[str, np.ndarray]) -> list[Any]:
    """Hand weights to a session whose graph has none; what is returned must live as long as the session."""
    if not hasattr(options, "add_external_initializers"):
        raise RunnerError(
            f"onnxruntime {runtime.__version__} cannot be given weights from outside: it takes 1.12 or newer; "
            "ship the bundle instead of the task file"
        )
    values = [runtime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    options.add_external_initializers(list(weights), values)
    return values


class TfliteModel:
    """A model file in LiteRT (TensorFlow Lite); its batch size is fixed."""

    def __init__(self, runtime: Any, path: Path, variant: dict[str, Any], threads: int) -> None:
        self.interpreter = runtime.Interpreter(model_path=str(path), num_threads=threads)
        self.interpreter.allocate_tensors()
        self.variant, self.inputs, self.outputs = variant, variant["inputs"], variant["outputs"]
        self.input_details = self._find("input", self.inputs)
        self.output_details = self._find("output", self.outputs)

    def _find(self, kind: str, specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The runtime's tensors in the manifest's order, by tensor name, signature name, or as the only one."""
        details = getattr(self.interpreter, f"get_{kind}_details")()
        names = [spec["name"] for spec in specs]
        tables = [{detail["name"]: detail for detail in details}]
        for key in self.interpreter.get_signature_list():
            tables.append(getattr(self.interpreter.get_signature_runner(key), f"get_{kind}_details")())
        for table in tables:
            if all(name in table for name in names):
                return [table[name] for name in names]
        if len(details) == len(names) == 1:
            return list(details)
        raise RunnerError(f"the file's {kind}s are {', '.join(sorted(tables[0]))}; the manifest says {names}")

    def provider(self) -> str:
        """What computes: XNNPACK where LiteRT handed the graph to it."""
        operators: list[dict[str, Any]] = getattr(self.interpreter, "_get_ops_details", list)()
        return "CPU (XNNPACK)" if any(each.get("op_name") == "DELEGATE" for each in operators) else "CPU"

    def feed(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Tensors for arrays in the program's layout, quantised where the file's inputs are."""
        feed = []
        for detail, array in zip(self.input_details, as_the_file_takes(arrays, self.variant)):
            scale, zero = detail["quantization"]
            if scale and array.dtype.kind == "f":
                limits = np.iinfo(detail["dtype"])
                array = np.clip(np.round(array / np.float32(scale)) + zero, limits.min, limits.max)
            feed.append(array.astype(detail["dtype"], copy=False))
        return feed

    def run(self, feed: list[np.ndarray]) -> list[np.ndarray]:
        """One inference; outputs as the file gives them."""
        for i, detail in enumerate(self.input_details):
            self.interpreter.set_tensor(detail["index"], feed[i])
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(detail["index"]) for detail in self.output_details]

    def results(self, raw: list[np.ndarray]) -> list[np.ndarray]:
        """Outputs in the program's layout, dequantised where the file's outputs are quantised."""
        arrays = []
        for i, detail in enumerate(self.output_details):
            scale, zero = detail["quantization"]
            array = (raw[i].astype(np.float32) - zero) * np.float32(scale) if scale else raw[i]
            arrays.append(to_program_layout(array, self.outputs[i]))
        return arrays


def open_model(folder: Path, variant: dict[str, Any], threads: int, runtime: Any) -> Any:
    """Load a variant's file in its runtime."""
    model = OnnxModel if variant["format"] == "onnx" else TfliteModel
    try:
        return model(runtime, inside(folder, variant["file"]), variant, threads)
    except RunnerError:
        raise
    except Exception as error:
        raise RunnerError(f"{variant['name']}: cannot load {variant['file']}: {error}") from error


@contextlib.contextmanager
def running(variant: dict[str, Any]) -> Iterator[None]:
    """Name the variant whose inference fails; the runtimes raise whatever they like."""
    try:
        yield
    except RunnerError:
        raise
    except Exception as error:
        raise RunnerError(f"{variant['name']} does not run: {error}") from error


def infer(model: Any, arrays: list[np.ndarray], alone: int = 0) -> list[np.ndarray]:
    """Outputs for any number of samples, in pieces of the file's batch size.

    A file may take and give one sample whole: with a batch of 1 that is not the first dimension of everything, as of
    outputs [T, N, C]. The samples of what does not begin with 1 are then along one more dimension, before all others.

    Args:
        model: An opened model.
        arrays: One per input, in the program's layout; all with the same first size, the samples.
        alone: So many of them are run one by one where the file takes any number: it may be right for one of the two.
    """
    if takes_whole(model):
        return _one_by_one(model, arrays)
    batch = model.inputs[0]["shape"][0]
    count = len(arrays[0])
    elements = sum(array.size for array in arrays) // max(1, count)
    size = batch if isinstance(batch, int) else chunk_of(elements)
    if size * elements > MAX_ELEMENTS:  # each may be within its bounds, and what they make together not
        raise RunnerError(f"a batch of {size:,} samples of {elements:,} numbers is more than {MAX_ELEMENTS:,}")
    if isinstance(batch, int):
        alone = 0
    edges = [*range(alone), *range(alone, count, size), count]
    pieces = []
    for start, end in zip(edges, edges[1:]):
        part = [array[start:end] for array in arrays]
        missing = size - len(part[0]) if isinstance(batch, int) else 0
        if missing:  # a fixed batch must be full: repeat the last sample, drop its results
            part = [np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) for array in part]
        results = model.results(model.run(model.feed(part)))
        pieces.append([result[: len(result) - missing] for result in results])
    return [np.concatenate([piece[i] for piece in pieces]) for i in range(len(pieces[0]))]


def takes_whole(model: Any) -> bool:
    """Whether a run of a file is one sample: its sizes are fixed, and not all tensors have the same first one."""
    firsts = {spec["shape"][0] if len(spec["shape"]) else 1 for spec in (*model.inputs, *model.outputs)}
    return len(firsts) > 1 and all(isinstance(first, int) for first in firsts)


def _one_by_one(model: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    runs = []
    for spec, array in zip(model.inputs, arrays):
        single = array.ndim == len(spec["shape"]) and spec["shape"][0] != 1
        runs.append(list(array[None] if single else array if array.ndim > len(spec["shape"]) else array[:, None]))
    if len({len(own) for own in runs}) > 1:
        raise RunnerError(f"the inputs are of {', '.join(str(len(own)) for own in runs)} samples")
    pieces = []
    for part in zip(*runs):
        results = model.results(model.run(model.feed(list(part))))
        pieces.append([result if result.shape[:1] == (1,) else result[None] for result in results])
    return [np.concatenate([piece[i] for piece in pieces]) for i in range(len(pieces[0]))]
