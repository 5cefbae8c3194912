"""The files of a bundle: each format in each precision, made, proved, measured; or left out, with the reason."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from edgespa.bundle import Variant
from edgespa.errors import EdgespaError, ExportError, ParityError
from edgespa.exporting import executorch_file, ncnn_file, onnx_file, tflite_file
from edgespa.exporting.cache import key_of
from edgespa.exporting.config import PRECISIONS, ExportConfig
from edgespa.exporting.conversion import SUFFIXES, Conversions
from edgespa.exporting.converter import copy, parts, remove, size_of
from edgespa.exporting.corrections import Correction
from edgespa.exporting.described import describe, entries_of
from edgespa.exporting.elsewhere import proofs_elsewhere, ways_beside
from edgespa.exporting.jobs import Job, judged_count
from edgespa.exporting.journal import Journal
from edgespa.exporting.onnx_quant import OnnxQuantiser
from edgespa.exporting.onward import files as onward
from edgespa.exporting.onward.apart import TorchFile
from edgespa.exporting.parity import File, bound_for
from edgespa.exporting.quantise import Loss, Made, NotUseful, make
from edgespa.exporting.running import run_program
from edgespa.exporting.samples import Samples
from edgespa.exporting.tflite_quant import TfliteQuantiser
from edgespa.exporting.tflite_whole import WholeTfliteQuantiser
from edgespa.exporting.trained import ranges_in_file
from edgespa.system.clock import is_still

NO_SOURCE = "the float32 file that it is made from cannot be had"
_JUDGED_BY = "components of all axes, and no clock"
_RETRY = 0.8
FARTHER = 2.0
"""Times the error of a file that is judged by what it loses: its bound. Recorded samples may be worse than all."""
QUANTISERS: dict[str, Any] = {
    "onnx": OnnxQuantiser,
    "tflite": TfliteQuantiser,
    "ncnn": ncnn_file.NcnnHalf,
    "executorch": executorch_file.ExecuTorchHalf,
}
_IN_FLOAT_ALONE = ("ncnn", "executorch")

Progress = Callable[[float, float | None, str], None]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one format.

    Attributes:
        variants: The files that are proved.
        left_out: Name of those that there are not, and why.
    """

    variants: tuple[Variant, ...]
    left_out: tuple[tuple[str, EdgespaError | NotUseful], ...]


class Steps:
    """Progress in whole steps.

    Args:
        progress: Told ``(done, total, text)``.
        total: Number of steps.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = -1

    def next(self, text: str) -> None:
        """The step before is done; this one begins."""
        self._done += 1
        self.within(0, 1, text)

    def within(self, done: float, total: float | None, text: str) -> None:
        """Part of a step is done."""
        if self._progress:
            self._progress(self._done + done / (total or 1), self._total, text)


def make_variants(job: Job, name: str, made: Conversions, steps: Steps) -> Outcome:
    """All precisions of one format, from one fp32 file that is there as long as it takes.

    What cannot be made, or does not keep its bound, is left out; nothing is made of a float32 file that is wrong.

    Args:
        job: The export.
        name: The format.
        made: Gives the fp32 file.
        steps: Two for each precision.
    """
    if name in onward.ONWARD:
        return _onward_variants(job, name, steps)
    source = job.folder / f"source.{SUFFIXES[name]}"
    variants: list[Variant] = []
    left_out: list[tuple[str, EdgespaError | NotUseful]] = []
    quantiser: Any = None
    wrong: EdgespaError | None = None
    for precision in (each for each in PRECISIONS if each in job.config.precisions):
        steps.next(f"{name} {precision}: make")
        path = job.folder / f"model.{precision}.{SUFFIXES[name]}"
        try:
            if wrong is not None:
                raise NotUseful(NO_SOURCE)
            if name in _IN_FLOAT_ALONE and precision.startswith("int8"):
                raise NotUseful(f"{name} files are made in fp32 and fp16")
            if not source.exists():
                try:
                    made.write(name, source)
                except ExportError as error:
                    wrong = error
                    raise
            if precision == "fp32":
                path, how = job.folder / f"model.{SUFFIXES[name]}", Made()
                copy(source, path)
                steps.next(f"{name} {precision}: prove")
                variants.append(_proved(job, name, precision, path, how, steps))
            else:
                if name == "tflite" and precision == "int8" and job.config.int8_io != "float32":
                    own: Any = WholeTfliteQuantiser(source, job.config.int8_io)
                else:
                    own = quantiser = quantiser or _quantiser(job, name, source)
                variants.append(_smaller(job, name, precision, own, source, path, steps))
        except (NotUseful, ExportError) as reason:
            if precision == "fp32" and isinstance(reason, ExportError):
                wrong = reason
            remove(path)
            left_out.append((f"{name}-{precision}", reason))
    remove(source)
    return Outcome(tuple(variants), tuple(left_out))


def _onward_variants(job: Job, name: str, steps: Steps) -> Outcome:
    """A format for PyTorch: one file, in float32."""
    path = job.folder / f"model.{onward.SUFFIXES[name]}"
    variants: list[Variant] = []
    left_out: list[tuple[str, EdgespaError | NotUseful]] = []
    for precision in (each for each in PRECISIONS if each in job.config.precisions):
        steps.next(f"{name} {precision}: make")
        try:
            if precision != "fp32":
                raise NotUseful(f"{name} files are made in fp32")
            specs = onnx_file.specs(job.program, job.samples.outputs, job.form.plain())
            weights, libraries = onward.write(job.program, name, path, entries_of(job.facts, specs))
            steps.next(f"{name} {precision}: prove")
            with contextlib.closing(
                TorchFile(path, f"{name}-{precision}", name, *specs, job.config.threads, libraries)
            ) as file:
                parity = file.prove(job.samples, bound_for(precision, job.config.int8_tolerance, job.samples.explained))
                accuracy, agreement = job.judge.of(file, steps.within)
        except (NotUseful, ExportError) as reason:
            if precision == "fp32":
                onward.remove(path)
            left_out.append((f"{name}-{precision}", reason))
            continue
        variants.append(
            Variant(
                name=file.name,
                file=path.name,
                format=name,  # type: ignore[arg-type]
                precision="fp32",
                inputs=file.inputs,
                outputs=file.outputs,
                runtime=file.runtime,
                size_bytes=path.stat().st_size + weights.stat().st_size,
                parts=(weights.name,),
                parity=parity,
                accuracy=accuracy,
                agreement=agreement,
            )
        )
    return Outcome(tuple(variants), tuple(left_out))


def _quantiser(job: Job, name: str, source: Path) -> Any:
    more = {"symmetric": True} if _is_symmetric(job.config, name) else {}
    return QUANTISERS[name](source, **more)


def _is_symmetric(config: ExportConfig, name: str) -> bool:
    """Of ONNX files; TFLite has one scheme."""
    return name == "onnx" and config.int8_scheme == "symmetric"


def open_file(
    job: Job,
    name: str,
    path: Path,
    precision: str,
    threads: int,
    runtime: str | None = None,
    arithmetic: str | None = None,
) -> File:
    """Load a file in the runner that goes into the bundle.

    Args:
        job: The export.
        name: The format.
        path: The file.
        precision: Of the file.
        threads: For the runtime.
        runtime: Another one than files of the format are proved in.
        arithmetic: In which numbers it computes layers in float32.
    """
    if name == "onnx":
        inputs, outputs = onnx_file.specs(job.program, job.samples.outputs, job.form)
    elif name == "ncnn":
        inputs, outputs = ncnn_file.specs(job.program, job.samples.outputs)
    elif name == "executorch":
        inputs, outputs = executorch_file.specs(job.program, job.samples.outputs, job.form)
    else:
        inputs, outputs = tflite_file.specs(path, job.form, job.signature)
    called, pixels = f"{name}-{precision}", job.form.pixels
    return File(
        path,
        called,
        name,
        inputs,
        outputs,
        threads,
        pixels,
        runtime=runtime,
        arithmetic=arithmetic,
        signature=job.signature,
    )


def _smaller(job: Job, name: str, precision: str, quantiser: Any, plain: Path, path: Path, steps: Steps) -> Variant:
    """A file that is smaller than float32, proved.

    The proof is on other images than those that it is chosen by: where it fails, another one is made that is nearer.

    Raises:
        NotUseful: If there is none that is worth shipping.
        ParityError: If it fails its proof, as does the nearer one.
    """
    how = _made(job, name, precision, quantiser, plain, path, job.config, steps)
    steps.next(f"{name} {precision}: prove")
    try:
        return _proved(job, name, precision, path, how, steps)
    except ParityError as failed:
        if precision == "fp16" or job.config.int8_max_loss is not None:
            raise
        error = open_file(job, name, path, precision, job.config.threads).error(job.samples)
        asked = job.config.int8_tolerance
        nearer = job.config.model_copy(update={"int8_tolerance": _RETRY * asked * min(1.0, asked / error)})
        try:
            how = _made(job, name, precision, quantiser, plain, path, nearer, steps)
        except NotUseful:  # nobody asked for that tolerance
            raise failed from None
        return _proved(job, name, precision, path, how, steps)


def _made(
    job: Job, name: str, precision: str, quantiser: Any, plain: Path, path: Path, config: ExportConfig, steps: Steps
) -> Made:
    """Make a file, or find it in the cache."""

    def tried(done: int, total: int, text: str) -> None:
        steps.within(done, total, f"{name} {precision}: {text}")

    symmetric = _is_symmetric(config, name)

    def correct(weights: Mapping[str, Any], method: str, told: Any) -> dict[str, Correction]:
        if config.int8_rounding == "nearest":
            return {}
        return job.corrections.of(weights, method, symmetric=symmetric, told=told)

    feeds: list[list[Any]] = []
    judge = job.samples
    if precision != "fp16" and job.calibration is not None:
        inputs = job.calibration_inputs()
        chosen = [torch.from_numpy(array[-judged_count(len(array)) :]) for array in inputs]
        judge = Samples(
            [tensor.numpy() for tensor in chosen],
            run_program(job.program, chosen),
            "calibration images",
            job.samples.scales,  # as the proof has it: how much they vary, and what of it is rounding
            job.samples.sets,
        )
        if precision == "int8":
            feeds = _pieces(open_file(job, name, plain, "fp32", 1), inputs)
    loss = _loss(job, config) if precision != "fp16" else None
    asked = config.int8_tolerance if loss is None else f"{loss.most!r} {job.judge.identity}"
    way = (config.int8_calibration, config.int8_rounding, symmetric, config.int8_io, config.int8_slowdown)
    settings = (_JUDGED_BY, asked, *way, config.int8_ratio, config.half_for_gpu)
    images = [array for feed in feeds for array in feed]
    key, journal = "", Journal(None)
    if job.cache.folder and not parts(path):  # what is several files is no entry, and made at once
        ranges = (repr(sorted(job.ranges.items())),) if job.ranges else ()
        made_of = (precision, name, repr(job.form), plain.read_bytes(), *ranges, *images, *judge.inputs)
        key = key_of(*settings, *made_of)
        measured = made_of if loss is None else (*made_of, job.judge.identity)
        journal = Journal(job.cache.beside(key_of(_JUDGED_BY, symmetric, config.int8_io, *measured), "measured"))
    if key and (notes := job.cache.restore(key, path)) is not None:
        return Made(notes["how"], tuple(notes["float_layers"]), notes["time_ratio"], notes["errors"])
    made = make(
        precision,
        quantiser,
        plain,
        path,
        feeds,
        judge,
        lambda file: open_file(job, name, file, precision, 1),
        config,
        journal,
        loss,
        tried,
        correct,
        lambda: ranges_in_file(job.program, quantiser, job.ranges),
    )
    if key:
        job.cache.store(key, path, dataclasses.asdict(made))
    return made


def _loss(job: Job, config: ExportConfig) -> Loss | None:
    if config.int8_max_loss is None or job.judge.accuracy is None:
        return None
    return Loss(job.judge.loss, config.int8_max_loss, job.judge.accuracy.of.title)


def _pieces(file: File, inputs: Sequence[Any]) -> list[list[Any]]:
    """Inputs in the file's layout and batches."""
    batch = file.inputs[0].shape[0]
    size = batch if isinstance(batch, int) else 1
    count = len(inputs[0]) // size * size
    # Of a program that runs whole a sample has all dimensions of a run.
    whole = [array.ndim > len(spec.shape) for array, spec in zip(inputs, file.inputs, strict=True)]
    return [
        file.own_inputs(
            [array[at] if all_of_it else array[at : at + size] for array, all_of_it in zip(inputs, whole, strict=True)]
        )
        for at in range(0, count, size)
    ]


def _proved(job: Job, name: str, precision: str, path: Path, how: Made, steps: Steps) -> Variant:
    describe(path, name, job.facts, job.form, onnx_file.specs(job.program, job.samples.outputs, job.form))
    file = open_file(job, name, path, precision, job.config.threads)
    tolerance, loss = job.config.int8_tolerance, _loss(job, job.config) if precision.startswith("int8") else None
    if loss is not None:  # how near it is, is not asked; what it is held to from now on, is that it stays as near
        tolerance = max(tolerance, FARTHER * file.largest_error(job.samples))
    parity = file.prove(job.samples, bound_for(precision, tolerance, job.samples.explained))
    accuracy, agreement = job.judge.of(file, steps.within)
    proofs = proofs_elsewhere(
        lambda runtime, arithmetic: open_file(job, name, path, precision, job.config.threads, runtime, arithmetic),
        ways_beside(name, precision, file.runtime),
        job.samples,
        precision,
        parity,
    )
    if loss is not None and not job.judge.lost(accuracy) <= loss.most:
        raise ParityError(
            f"{file.name} loses {job.judge.lost(accuracy):.3g} of {loss.title}, more than {loss.most:g}",
            "raise --int8-max-loss, calibrate on images of the task, or leave out the precision",
        )
    return Variant(
        name=file.name,
        file=path.name,
        format=name,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        opset=job.form.target.opset if name == "onnx" else None,
        inputs=file.inputs,
        outputs=file.outputs,
        runtime=file.runtime,
        size_bytes=size_of(path),
        parts=tuple(each.name for each in parts(path)),
        parity=parity,
        proofs=proofs,
        accuracy=accuracy,
        agreement=agreement,
        calibration=how.how,
        float_layers=how.float_layers,
        time_ratio=None if is_still() else how.time_ratio,
        errors=dict(how.errors),
        max_loss=None if loss is None else loss.most,
        preprocess=job.form.pixels,
    )
