"""One TFLite file for several sizes of the image: each converted and proved by itself, joined, and proved again."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence

import numpy as np

from edgespa.bundle import Size, Variant
from edgespa.data import Prepared
from edgespa.errors import ConfigError, ExportError
from edgespa.exporting import onnx_file
from edgespa.exporting.agreement import Judge
from edgespa.exporting.config import ExportConfig, Origin
from edgespa.exporting.conversion import conversions
from edgespa.exporting.converter import size_of
from edgespa.exporting.described import describe
from edgespa.exporting.elsewhere import proofs_elsewhere, ways_beside
from edgespa.exporting.jobs import Job, form_of, plain_program, samples_for_proof
from edgespa.exporting.tflite_sizes import joined
from edgespa.exporting.variants import Outcome, Steps, make_variants, open_file
from edgespa.graph.program import Program
from edgespa.models.interface import (
    input_and_output_names,
    outputs_like,
)

FIRST = "serving_default"
"""Signature of the first size, as the converter calls it."""


@dataclasses.dataclass(frozen=True)
class Sized:
    """The program at another size of its input.

    Attributes:
        name: Height and width, ``"160x160"``.
        program: Traced at that size.
        origin: With what an image and boxes are at that size.
        data: Images to prove on, and to calibrate int8; None for noise.
    """

    name: str
    program: Program
    origin: Origin
    data: Prepared | None = None

    @property
    def signature(self) -> str:
        """Its name in files."""
        return f"size_{self.name}"


def require_sizes_possible(config: ExportConfig) -> None:
    """Refuse what does not go together with several sizes.

    Args:
        config: What to export.

    Raises:
        ConfigError: If it is so.
    """
    if not config.also_sizes:
        return
    if config.formats != ("tflite",):
        raise ConfigError(
            "several sizes in one file are of TFLite files, by their signatures",
            "add --format tflite, or export once for each size",
        )
    if len(set(config.also_sizes)) < len(config.also_sizes):
        raise ConfigError(f"a size is named twice: {', '.join(config.also_sizes)}", "name each --also-size once")
    found = {
        "--int8-io": config.int8_io != "float32",
        "--int8-max-loss": config.int8_max_loss is not None,
        "--decode in-graph": config.decode == "in-graph",
    }
    for option in (name for name, is_asked in found.items() if is_asked):
        raise ConfigError(
            f"{option} does not go together with --also-size", "export once for each size, or leave it out"
        )


def with_sizes(
    first: Job, variants: Sequence[Variant], sizes: Sequence[Sized], steps: Steps
) -> tuple[tuple[Variant, ...], tuple[Size, ...]]:
    """Put the other sizes into the files of the first one.

    Args:
        first: The export of the first size; its files are replaced.
        variants: Its files, proved.
        sizes: The others.
        steps: Two for each precision of each size.

    Returns:
        The files by their first signature, and what is to be said of the other sizes.

    Raises:
        ExportError: One cannot be made at a size; it names the size.
        ParityError: One does not compute what the program computes at a size.
    """
    jobs = {each.name: _job(first, each) for each in sizes}
    made = {each.name: _made(jobs[each.name], each, steps) for each in sizes}
    proved: dict[str, list[Variant]] = {name: [] for name in ("", *made)}
    for variant in variants:
        path = first.folder / variant.file
        own = {
            name: next(each for each in outcome.variants if each.name == variant.name) for name, outcome in made.items()
        }
        files = {FIRST: path.read_bytes()}
        files |= {each.signature: (jobs[each.name].folder / own[each.name].file).read_bytes() for each in sizes}
        path.write_bytes(joined(files))
        specs = onnx_file.specs(first.program, first.samples.outputs, first.form)
        describe(path, "tflite", first.facts, first.form, specs)
        proved[""].append(_again(dataclasses.replace(first, signature=FIRST), variant))
        for each in sizes:
            job = dataclasses.replace(jobs[each.name], folder=first.folder, signature=each.signature)
            proved[each.name].append(_again(job, own[each.name]))
    for job in jobs.values():
        shutil.rmtree(job.folder)
    return tuple(proved[""]), tuple(_size(jobs[each.name], first, each, proved[each.name]) for each in sizes)


def _job(first: Job, size: Sized) -> Job:
    config, names, whole = first.config, input_and_output_names(size.program), outputs_like(size.program)
    program = plain_program(size.program)
    form = form_of(program, size.origin, config, names)
    samples = samples_for_proof(program, form, size.origin, config, size.data)
    folder = first.folder / f"size.{size.name}"
    folder.mkdir()
    return Job(
        program=program,
        config=config,
        form=form,
        folder=folder,
        samples=samples,
        calibration=size.data,
        judge=Judge(program, None, size.data, size.origin.learns, samples.decides, whole),
        facts=size.origin.facts,
        cache=first.cache,
        ranges=first.ranges,
    )


def _made(job: Job, size: Sized, steps: Steps) -> Outcome:
    with conversions(job.program, job.form, ("tflite",), job.cache) as made:
        outcome = make_variants(job, "tflite", made, steps)
    for name, reason in outcome.left_out:
        raise ExportError(
            f"{name} cannot be made at {size.name}: {reason}",
            getattr(reason, "hint", None) or f"leave out --also-size {size.name}",
        )
    return outcome


def _again(job: Job, variant: Variant) -> Variant:
    """The proof of one signature of a file, by the bound that its own file has kept."""
    path, precision, threads = job.folder / variant.file, variant.precision, job.config.threads
    file = open_file(job, "tflite", path, precision, threads)
    parity = file.prove(job.samples, variant.parity.bound)
    proofs = proofs_elsewhere(
        lambda runtime, arithmetic: open_file(job, "tflite", path, precision, threads, runtime, arithmetic),
        ways_beside("tflite", precision, file.runtime),
        job.samples,
        precision,
        parity,
    )
    changed = {"parity": parity, "proofs": proofs, "signature": job.signature, "size_bytes": size_of(path)}
    return variant.model_copy(update=changed)


def _size(job: Job, first: Job, size: Sized, variants: Sequence[Variant]) -> Size:
    inputs, outputs = onnx_file.specs(job.program, job.samples.outputs, job.form.plain())
    recorded = f"selfcheck.{size.name}.npz"
    np.savez_compressed(first.folder / recorded, **job.samples.record())  # type: ignore[arg-type]
    return Size(
        name=size.name,
        preprocessing=size.origin.preprocess,
        inputs=inputs,
        outputs=outputs,
        sets=job.samples.sets,
        decoding=size.origin.decoding,
        selfcheck=recorded,
        variants=tuple(variants),
    )
