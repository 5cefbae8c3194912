"""The whole export: convert, quantise, prove, measure, and write the bundle, or nothing."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from edgespa.bundle import LABELS, RUNNER, SELFCHECK, BundleWriter, Kind, Manifest, Quality, Size, TensorSpec, Variant
from edgespa.bundle.places import without_places
from edgespa.data import Prepared
from edgespa.device import runner_source
from edgespa.errors import ConfigError, EdgespaError, ExportError, ParityError
from edgespa.exporting import onnx_file
from edgespa.exporting.agreement import Judge
from edgespa.exporting.cache import Cache
from edgespa.exporting.card import whole_card
from edgespa.exporting.config import FORMATS, PRECISIONS, ExportConfig, Origin
from edgespa.exporting.conversion import CONVERTERS, Conversions, conversions
from edgespa.exporting.converter import require
from edgespa.exporting.decoding import NAMES, with_decoding
from edgespa.exporting.jobs import Job, form_of, plain_program, samples_for_proof
from edgespa.exporting.quantise import NotUseful
from edgespa.exporting.samples import Samples
from edgespa.exporting.sizes import Sized, require_sizes_possible, with_sizes
from edgespa.exporting.trial import trials
from edgespa.exporting.variants import NO_SOURCE, Progress, Steps, make_variants
from edgespa.graph.program import Program
from edgespa.models.interface import input_and_output_names, outputs_like
from edgespa.objectives.base import Objective
from edgespa.system.clock import made_at

log = logging.getLogger(__name__)


def require_possible(config: ExportConfig, *, calibrated: bool, evaluated: bool) -> None:
    """Refuse what cannot be exported whatever the program is.

    Args:
        config: What to export.
        calibrated: Whether there are images to calibrate on.
        evaluated: Whether there are samples to measure on.

    Raises:
        ConfigError: If int8 is asked for without images, or a largest loss without samples or without int8.
        MissingExtraError: If a converter is not installed.
    """
    made_at()  # what is wrong with it is told now
    if "int8" in config.precisions and not calibrated:
        raise ConfigError(
            "int8 needs images to calibrate on",
            "pass --calibration DATA (a few hundred unlabelled images of the task will do)",
        )
    if config.int8_max_loss is not None and not evaluated:
        raise ConfigError(
            "--int8-max-loss is of the objective's measure, and on what is it measured?",
            "pass --eval-data DATA (not what --calibration has), or bound the error of the outputs: --int8-tolerance",
        )
    if config.int8_max_loss is not None and not {"int8", "int8-weights"} & set(config.precisions):
        raise ConfigError("--int8-max-loss is of int8 files, and none is asked for", "add --precision int8")
    require_sizes_possible(config)
    for name in (each for each in config.formats if each in CONVERTERS):
        require(CONVERTERS[name].PACKAGES, CONVERTERS[name].EXTRA)


def require_decodable(config: ExportConfig, origin: Origin) -> None:
    """Refuse boxes from the graph where nobody says how they are read off.

    Args:
        config: What to export.
        origin: Where the program comes from.

    Raises:
        ConfigError: If it is so.
    """
    if config.decode == "in-graph" and origin.decoding is None:
        raise ConfigError(
            "how boxes are read off the model's outputs is not known, so it cannot go into the files",
            "leave out --decode in-graph; or give a detector of torchvision, or --objective with a decoding",
        )


def export(
    program: Program,
    origin: Origin,
    config: ExportConfig,
    output: Path,
    *,
    calibration: Prepared | None = None,
    evaluation: Prepared | None = None,
    objective: Objective | None = None,
    sizes: Sequence[Sized] = (),
    overwrite: bool = False,
    sign: Callable[[bytes], bytes] | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Write a bundle of the files that are proved; of the others it says why they are not there.

    Args:
        program: Compact and merged. Files hold it in float32 or less, whatever its element type; their outputs are
            its output tensors in order, without the names of a dict or dataclass.
        origin: Where it comes from.
        config: What to export.
        output: The folder to make.
        calibration: Images for int8.
        evaluation: Labelled images to measure on, by the objective's measure.
        objective: By whose measures; None for that of the data's kind.
        sizes: The program at other sizes of its input, those of ``config.also_sizes``.
        overwrite: Replace a bundle that is there.
        sign: Makes the manifest's signature, see `BundleWriter`.
        progress: Told ``(done, total, text)``.

    Returns:
        The manifest of the bundle.

    Raises:
        ConfigError: If int8 is asked for without calibration images, or options do not go together.
        MissingExtraError: If a converter is not installed.
        ExportError: If no file can be converted; if any cannot and ``config.strict``.
        ParityError: If no file computes what the program computes; if any does not and ``config.strict``.
        OutputExistsError: If the output is there already.
    """
    require_possible(config, calibrated=calibration is not None, evaluated=evaluation is not None)
    require_decodable(config, origin)
    if sizes:
        config = config.model_copy(update={"int8_rounding": "nearest", "strict": True})
    names, whole = input_and_output_names(program), outputs_like(program)
    program = plain_program(program)
    if config.decode == "in-graph":
        program, origin, objective = _decoded(program, origin, objective)
        names, whole = (names[0], list(NAMES)), list
    form = form_of(program, origin, config, names)
    cache = Cache.of_user() if config.cache else Cache(None)
    steps = Steps(progress, len(config.precisions) * 2 * (len(config.formats) + len(sizes)) + 2)
    with (
        trials(),
        BundleWriter(output, overwrite=overwrite, sign=sign) as writer,
        conversions(program, form, tuple(each for each in config.formats if each in CONVERTERS), cache) as made,
    ):
        steps.next("run the program")
        data = evaluation or calibration
        samples = samples_for_proof(program, form, origin, config, data)
        if samples.weak is not None:
            log.warning("a weak proof: %s; give --calibration or --eval-data, and weights", samples.weak)
            origin = dataclasses.replace(origin, provenance={**origin.provenance, "weak_proof": samples.weak})
        origin = dataclasses.replace(origin, learns=_learns(origin, samples))
        job = Job(
            program=program,
            config=config,
            form=form,
            folder=writer.path,
            samples=samples,
            calibration=calibration,
            judge=Judge(program, evaluation, calibration, origin.learns, samples.decides, whole, objective),
            facts=origin.facts,
            cache=cache,
            ranges=origin.ranges_for(config),
        )
        variants, left_out = _all_variants(job, made, steps)
        others: tuple[Size, ...] = ()
        if sizes:
            variants, others = with_sizes(job, variants, sizes, steps)
        steps.next("write the bundle")
        specs = onnx_file.specs(program, samples.outputs, form.plain())
        manifest = _manifest(
            specs, origin, samples, variants, job.judge.accuracy, left_out, config.max_latency_ms, others
        )
        _write_rest(writer.path, manifest, samples, origin.classes)
        return writer.commit(manifest)


def _decoded(program: Program, origin: Origin, objective: Objective | None) -> tuple[Program, Origin, Objective | None]:
    """The program with its decoding, and what that changes."""
    assert origin.decoding is not None  # of `require_decodable`
    program, decoding = with_decoding(program, origin.decoding)
    if objective is not None:
        objective = objective.decoded_by(decoding)
    return program, dataclasses.replace(origin, decoding=decoding), objective


def _all_variants(job: Job, made: Conversions, steps: Steps) -> tuple[tuple[Variant, ...], list[JsonValue]]:
    variants: list[Variant] = []
    missing: list[tuple[str, EdgespaError | NotUseful]] = []
    for name in job.config.formats:
        outcome = make_variants(job, name, made, steps)
        variants += outcome.variants
        missing += outcome.left_out
    if missing and (job.config.strict or not variants):
        raise _refusal(missing, "--int8-tolerance" if job.config.int8_max_loss is None else "--int8-max-loss")
    left_out: list[JsonValue] = [
        {"variant": name, "reason": str(reason), "hint": getattr(reason, "hint", None)} for name, reason in missing
    ]
    return tuple(variants), left_out


def _refusal(missing: Sequence[tuple[str, EdgespaError | NotUseful]], asked: str) -> EdgespaError:
    """Why there is no bundle: the error of the only file that has one of its own, or all of them."""
    errors = [reason for _, reason in missing if isinstance(reason, EdgespaError)]
    if len(errors) == 1 and len({name.partition("-")[0] for name, _ in missing}) == 1:
        return errors[0]
    words = "".join(f"\n  {name}: {reason}" for name, reason in missing if str(reason) != NO_SOURCE)
    kind = ParityError if all(isinstance(error, ParityError) for error in errors) else ExportError
    hints = dict.fromkeys(error.hint for error in errors if error.hint)
    hint = "; ".join(hints) or f"calibrate on images of the task, raise {asked}, or export --precision fp32"
    return kind(f"no bundle was written:{words}", hint)


def _manifest(
    specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
    origin: Origin,
    samples: Samples,
    variants: tuple[Variant, ...],
    reference: Quality | None,
    left_out: list[JsonValue],
    max_latency_ms: float | None,
    sizes: tuple[Size, ...],
) -> Manifest:
    inputs, outputs = specs
    manifest = Manifest(
        task=origin.task,
        learns=origin.learns,
        created=made_at(),
        base=origin.base,
        preprocessing=origin.preprocess,
        inputs=inputs,
        outputs=outputs,
        sets=samples.sets,
        decoding=origin.decoding,
        skeleton=origin.skeleton,
        variants=variants,
        sizes=sizes,
        compaction=origin.compaction,
        reference_accuracy=reference,
        max_latency_ms=max_latency_ms,
        provenance={**origin.provenance, "left_out": left_out} if left_out else origin.provenance,
    )
    return without_places(manifest)


def _learns(origin: Origin, samples: Samples) -> Kind:
    """One number, of which nobody said that it is a class, is a number."""
    alone = samples.outputs[0].shape[1:] == (1,)
    return "regression" if alone and origin.learns == "classes" and not origin.classes else origin.learns


def _write_rest(folder: Path, manifest: Manifest, samples: Samples, classes: Sequence[str]) -> None:
    np.savez_compressed(folder / SELFCHECK, **samples.record())  # type: ignore[arg-type]
    (folder / RUNNER).write_bytes(runner_source())
    if classes:
        (folder / LABELS).write_text("\n".join(classes) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(whole_card(manifest, classes), encoding="utf-8")


__all__ = ["FORMATS", "PRECISIONS", "ExportConfig", "Origin", "export"]
