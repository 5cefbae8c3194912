"""The whole export: convert, quantise, prove, measure accuracy, and write the bundle, or nothing."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, JsonValue, model_validator

from edgespa.bundle import (
    LABELS,
    RUNNER,
    SELFCHECK,
    Accuracy,
    BundleWriter,
    Compaction,
    Manifest,
    Variant,
)
from edgespa.bundle import Base as BaseEntry
from edgespa.config import Preprocess, Strict
from edgespa.data import Prepared
from edgespa.device import RUNNER_SOURCE
from edgespa.errors import ConfigError
from edgespa.evaluate import accuracy
from edgespa.export import onnx_file, tflite_file
from edgespa.export.card import model_card
from edgespa.export.converter import RANGES, require
from edgespa.export.parity import INT8_COSINE, File, Samples, bound_for, draw_samples, fixed_batch, run_program
from edgespa.graph.program import Program
from edgespa.interface import in_float32, with_plain_outputs

Progress = Callable[[float, float | None, str], None]
FORMATS = ("onnx", "tflite")
PRECISIONS = ("fp32", "int8")
JUDGE_IMAGES = 32


class ExportConfig(Strict):
    """What to export.

    Attributes:
        formats: ``onnx``, ``tflite``.
        precisions: ``fp32``, ``int8``.
        int8_cosine: Least cosine between the outputs of an int8 file and of the program.
        calibration_images: At most so many images are used to calibrate int8.
        threads: For the runtimes during the proof.
        seed: Of the noise that files are proved on when there are no images.
    """

    formats: tuple[str, ...] = FORMATS
    precisions: tuple[str, ...] = ("fp32",)
    int8_cosine: float = Field(default=INT8_COSINE, ge=-1, le=1)
    calibration_images: int = Field(default=128, ge=1)
    threads: int = Field(default=2, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _known_names(self) -> ExportConfig:
        for values, known, what in ((self.formats, FORMATS, "format"), (self.precisions, PRECISIONS, "precision")):
            unknown = [value for value in values if value not in known]
            if unknown or not values:
                raise ValueError(f"unknown {what} '{', '.join(unknown)}'; choose from: {', '.join(known)}")
            if len(set(values)) < len(values):
                raise ValueError(f"a {what} is named twice")
        return self


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a program comes from, for the manifest.

    Attributes:
        task: What it does, in words.
        base: The model it was made from.
        compaction: What was removed.
        preprocess: From image to input; None if not known.
        classes: Names of the outputs.
        provenance: Anything else.
    """

    task: str
    base: BaseEntry
    compaction: Compaction
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()
    provenance: dict[str, JsonValue] = dataclasses.field(default_factory=dict)


def export(
    program: Program,
    origin: Origin,
    config: ExportConfig,
    output: Path,
    *,
    calibration: Prepared | None = None,
    evaluation: Prepared | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Write a bundle. Nothing is left behind unless every file is proved.

    Args:
        program: Compact and merged. Files hold it in float32 (and int8), whatever its element type; their outputs are
            its output tensors in order, without the names of a dict or dataclass.
        origin: Where it comes from.
        config: What to export.
        output: The folder to make.
        calibration: Images for int8.
        evaluation: Labelled images to measure accuracy on.
        overwrite: Replace a bundle that is there.
        progress: Told ``(done, total, text)``.

    Returns:
        The manifest of the bundle.

    Raises:
        ConfigError: If int8 is asked for without calibration images.
        MissingExtraError: If a converter is not installed.
        ExportError: If a file cannot be converted.
        ParityError: If a file does not compute what the program computes.
        OutputExistsError: If the output is there already.
    """
    if "int8" in config.precisions and calibration is None:
        raise ConfigError(
            "int8 needs images to calibrate on",
            "pass --calibration DATA (a few hundred unlabelled images of the task will do)",
        )
    for name in config.formats:
        require(_CONVERTERS[name].PACKAGES, _CONVERTERS[name].EXTRA)
    program = with_plain_outputs(in_float32(program))
    steps = _Steps(progress, len(config.formats) * len(config.precisions) * 2 + 2)
    with BundleWriter(output, overwrite=overwrite) as writer:
        steps.next("run the program")
        samples = draw_samples(program, evaluation or calibration, config.seed)
        feeds = _calibration_feeds(program, calibration, config) if calibration and "int8" in config.precisions else []
        variants = []
        for name in config.formats:
            variants += _variants(program, name, config, writer.path, samples, feeds, evaluation, steps)
        reference = None
        if evaluation is not None:
            value = accuracy(lambda images: torch.from_numpy(run_program(program, [images])[0]), evaluation)
            reference = Accuracy(value=value, count=len(evaluation), data=evaluation.name)
        steps.next("write the bundle")
        manifest = _manifest(program, origin, samples, tuple(variants), reference)
        _write_rest(writer.path, manifest, samples, origin.classes)
        return writer.commit(manifest)


_CONVERTERS: dict[str, Any] = {"onnx": onnx_file, "tflite": tflite_file}


class _Steps:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = -1

    def next(self, text: str) -> None:
        self._done += 1
        self.within(0, 1, text)

    def within(self, done: float, total: float | None, text: str) -> None:
        if self._progress:
            self._progress(self._done + done / (total or 1), self._total, text)


def _calibration_feeds(program: Program, calibration: Prepared, config: ExportConfig) -> list[list[Any]]:
    size = fixed_batch(program) or 1
    count = -(-min(config.calibration_images, len(calibration)) // size) * size
    chosen = np.linspace(0, len(calibration) - 1, count).astype(np.int64)
    images = calibration.tensor(chosen).numpy()
    if not np.isfinite(images).all():
        raise ConfigError(
            "the calibration images hold values that are not finite", "check --calibration, --mean and --std"
        )
    return [[images[index : index + size]] for index in range(0, count, size)]


def _variants(
    program: Program,
    name: str,
    config: ExportConfig,
    folder: Path,
    samples: Samples,
    feeds: list[list[Any]],
    evaluation: Prepared | None,
    steps: _Steps,
) -> list[Variant]:
    """All precisions of one format; int8 is made from fp32, which is dropped again if it was not asked for."""
    tool = _CONVERTERS[name]
    plain = folder / f"model.{name}"
    made = []
    for precision in sorted({*config.precisions, "fp32"}):
        asked = precision in config.precisions
        steps.next(f"{name} {precision}: convert") if asked else None
        path = plain if precision == "fp32" else folder / f"model.{precision}.{name}"
        began = time.perf_counter()
        calibration = None
        if precision == "fp32":
            tool.write_fp32(program, path)
        else:
            calibration = _write_best_int8(tool, name, plain, path, program, config, feeds, samples)
        if asked:
            steps.next(f"{name} {precision}: prove ({time.perf_counter() - began:.1f} s to convert)")
            variant = _proved(name, precision, path, program, config, samples, evaluation, steps)
            made.append(variant.model_copy(update={"calibration": calibration}))
    if "fp32" not in config.precisions:
        plain.unlink()
    return made


def _write_best_int8(
    tool: Any,
    name: str,
    plain: Path,
    path: Path,
    program: Program,
    config: ExportConfig,
    feeds: list[list[Any]],
    samples: Samples,
) -> str:
    """Quantise with each way of choosing ranges and keep the file that is closest to the program on calibration images.

    Returns:
        The way that was kept.
    """
    chosen = feeds[-JUDGE_IMAGES:]  # percentiles are taken from the first ones
    inputs = [np.concatenate(arrays) for arrays in zip(*chosen, strict=True)]
    judge = Samples(inputs, run_program(program, [torch.from_numpy(array) for array in inputs]), "calibration images")
    best, kept = -2.0, RANGES[0]
    trial = path.with_name(f"trial-{path.name}")
    for ranges in RANGES:
        tool.write_int8(plain, trial, feeds, ranges)
        cosine = _load(name, "int8", trial, program, config, samples).cosine(judge)
        if cosine > best:
            best, kept = cosine, ranges
            trial.replace(path)
    trial.unlink(missing_ok=True)
    return kept


def _proved(
    name: str,
    precision: str,
    path: Path,
    program: Program,
    config: ExportConfig,
    samples: Samples,
    evaluation: Prepared | None,
    steps: _Steps,
) -> Variant:
    file = _load(name, precision, path, program, config, samples)
    parity = file.prove(samples, bound_for(precision, config.int8_cosine))
    measured = file.accuracy(evaluation, steps.within) if evaluation is not None else None
    return Variant(
        name=file.name,
        file=path.name,
        format=name,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        opset=onnx_file.OPSET if name == "onnx" else None,
        inputs=file.inputs,
        outputs=file.outputs,
        runtime=file.runtime,
        size_bytes=path.stat().st_size,
        parity=parity,
        accuracy=measured,
    )


def _load(name: str, precision: str, path: Path, program: Program, config: ExportConfig, samples: Samples) -> File:
    if name == "onnx":
        inputs, outputs = onnx_file.specs(program, samples.outputs)
    else:
        inputs, outputs = tflite_file.specs(path)
    return File(path, f"{name}-{precision}", name, inputs, outputs, config.threads)


def _manifest(
    program: Program, origin: Origin, samples: Samples, variants: tuple[Variant, ...], reference: Accuracy | None
) -> Manifest:
    inputs, outputs = onnx_file.specs(program, samples.outputs)
    return Manifest(
        task=origin.task,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        base=origin.base,
        preprocessing=origin.preprocess,
        inputs=inputs,
        outputs=outputs,
        variants=variants,
        compaction=origin.compaction,
        reference_accuracy=reference,
        provenance=origin.provenance,
    )


def _write_rest(folder: Path, manifest: Manifest, samples: Samples, classes: Sequence[str]) -> None:
    arrays = {f"input_{index}": array for index, array in enumerate(samples.inputs)}
    arrays.update({f"output_{index}": array for index, array in enumerate(samples.outputs)})
    np.savez_compressed(folder / SELFCHECK, **arrays)  # type: ignore[arg-type]
    shutil.copyfile(RUNNER_SOURCE, folder / RUNNER)
    if classes:
        (folder / LABELS).write_text("\n".join(classes) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(manifest, classes), encoding="utf-8")


__all__ = ["FORMATS", "PRECISIONS", "ExportConfig", "Origin", "export"]
