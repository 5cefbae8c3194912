"""A bundle that holds a task beside a base which the device has already: kilobytes, and one base for many tasks.

    model.onnx.gz        the graph without weights
    recipe.json.gz       how they are made
    task.spa.gz          of this
    rest.safetensors     and of this, if some cannot be made
    selfcheck.npz        sizes of the noise that goes in, and what the program makes of it
    manifest.json  run.py  README.md  labels.txt

It runs wherever ``base.safetensors`` lies beside it, in ONNX Runtime and float32 only: LiteRT takes no weights from
outside, and int8 would take calibration images and a proof on the device.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgespa.bundle import LABELS, RUNNER, SELFCHECK, BundleWriter, Manifest, Variant
from edgespa.bundle.places import without_places
from edgespa.device import runner, runner_source
from edgespa.exporting import onnx_file
from edgespa.exporting.card import whole_card
from edgespa.exporting.config import INT8_TOLERANCE, Origin
from edgespa.exporting.converter import Form, require
from edgespa.exporting.described import entries_of
from edgespa.exporting.drawing import draw_samples
from edgespa.exporting.onnx_meta import with_entries
from edgespa.exporting.parity import File, bound_for
from edgespa.exporting.recipe import TASK, Made, write_recipe
from edgespa.exporting.skeleton import skeleton
from edgespa.exporting.trial import trials
from edgespa.graph.program import Program
from edgespa.models.interface import in_float32, input_and_output_names, with_batch_first, with_plain_outputs
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

MODEL = "model.onnx.gz"
SAMPLES = 8


def write_task_bundle(
    path: Path,
    task: Task,
    base: Base,
    base_file: Path,
    program: Program,
    origin: Origin,
    output: Path,
    *,
    form: Form | None = None,
    sign: Callable[[bytes], bytes] | None = None,
) -> tuple[Manifest, Made]:
    """Write the bundle of a task without its base, proved like any other.

    Args:
        path: The task file.
        task: What is in it.
        base: Its base, fitted.
        base_file: The base's tensors, see `edgespa.exporting.recipe.base_file`.
        program: The task's merged program.
        origin: Where it comes from.
        output: The folder to make.
        form: Opset, IR version and batch.
        sign: Makes the manifest's signature.

    Raises:
        MissingExtraError: If a converter is not installed.
        ExportError: If the program cannot be converted.
        ParityError: If the file does not compute what the program computes.
    """
    require(onnx_file.PACKAGES, onnx_file.EXTRA)
    form = dataclasses.replace(form or Form(), names=input_and_output_names(program))
    program = with_batch_first(with_plain_outputs(in_float32(program)))
    samples = draw_samples(program, None, 0, most=SAMPLES)
    inputs, outputs = onnx_file.specs(program, samples.outputs, form)
    graph, names = skeleton(program, form)
    content = base_file.read_bytes()
    with trials(), BundleWriter(output, sign=sign) as writer:
        folder = writer.path
        said = entries_of(origin.facts, (inputs, outputs))
        (folder / MODEL).write_bytes(gzip.compress(with_entries(graph, said), 9, mtime=0))
        (folder / TASK).write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
        (folder / runner.BASE).symlink_to(base_file.absolute())
        made = write_recipe(folder, task, base, program, names, hashlib.sha256(content).hexdigest(), len(content))
        file = File(folder / MODEL, "onnx-fp32", "onnx", inputs, outputs, 1, None, made.weights)
        variant = Variant(
            name=file.name,
            file=MODEL,
            format="onnx",
            precision="fp32",
            opset=form.target.opset,
            inputs=inputs,
            outputs=outputs,
            runtime=file.runtime,
            size_bytes=(folder / MODEL).stat().st_size,
            parity=file.prove(samples, bound_for("fp32", INT8_TOLERANCE, samples.explained)),
            weights=made.weights,
        )
        (folder / runner.BASE).unlink()
        own = onnx_file.specs(program, samples.outputs, form.plain())
        manifest = Manifest(
            task=origin.task,
            learns=origin.learns,
            created=task.header.created,  # not now: the same task is the same version
            base=origin.base,
            preprocessing=origin.preprocess,
            inputs=own[0],
            outputs=own[1],
            sets=samples.sets,
            decoding=origin.decoding,
            skeleton=origin.skeleton,
            variants=(variant,),
            compaction=origin.compaction,
            # Each module's figures are for people who look at a bundle; every byte here goes to devices.
            provenance={key: value for key, value in origin.provenance.items() if key != "modules"},
        )
        manifest = without_places(manifest)
        np.savez_compressed(folder / SELFCHECK, **samples.record())  # type: ignore[arg-type]
        (folder / RUNNER).write_bytes(runner_source())
        if origin.classes:
            (folder / LABELS).write_text("\n".join(origin.classes) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(whole_card(manifest, origin.classes), encoding="utf-8")
        return writer.commit(manifest), made
