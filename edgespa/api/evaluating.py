"""``edgespa evaluate`` as one call: a model, a task or every file of a bundle on test data, looked at closely."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgespa.api.classes import as_learned
from edgespa.api.early import require_there
from edgespa.api.options import DataOptions, Progress
from edgespa.api.overlap import tell_trained_on
from edgespa.api.quality import count_outputs
from edgespa.bundle import LABELS, MANIFEST, Manifest, OpenBundle, Variant, open_bundle
from edgespa.bundle.decoding import Decoding
from edgespa.data import ImageData, Prepared, prepare, require_whole
from edgespa.data.tensors import prepare_for
from edgespa.errors import BundleError, ConfigError, DeviceError
from edgespa.exporting.confined import confined
from edgespa.findings.evaluation import Column, Details, Subject
from edgespa.findings.stored import file_name
from edgespa.models.inputs import InputSizes
from edgespa.objectives.base import Objective
from edgespa.objectives.boxes import Boxes
from edgespa.objectives.detailed import Closely, closer_for
from edgespa.objectives.evaluate import BATCH_SIZE, MOST_BYTES, batch_size, evaluate, objective_for
from edgespa.objectives.kinds import objective_named
from edgespa.objectives.taught import taught
from edgespa.system.files import plain_text
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task, is_task_file

log = logging.getLogger(__name__)

PROGRAM = "program"
_TEST = "--eval-data"
Run = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class BundleOptions:
    """Of a bundle alone.

    Attributes:
        variants: Names of its files; all where there are none.
        threads: Of the runtime.
        timeout_s: Of one batch.
        signers: Who may have signed it; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
    """

    variants: tuple[str, ...] = ()
    threads: int = 1
    timeout_s: float = 600.0
    signers: Path | None = None
    identity: str | None = None
    revoked: Path | None = None


def is_bundle(spec: str) -> bool:
    """Whether what is evaluated is a bundle, a folder or a packed one."""
    path = Path(spec)
    return (path / MANIFEST).is_file() or (path.suffix == ".tar" and path.is_file())


def evaluate_closely(
    model: str,
    evaluation: str,
    *,
    input_shape: InputSizes | None = None,
    weights: str | None = None,
    base: str | None = None,
    trust: bool = False,
    options: DataOptions | None = None,
    of_bundle: BundleOptions | None = None,
    wrong: int = 100,
    progress: Progress | None = None,
) -> Details:
    """What a model does on test data, by class and by sample.

    Args:
        model: A model spec, a task file, or a bundle.
        evaluation: Test data.
        input_shape: Sizes of a model's inputs.
        weights: Its weight file.
        base: For a task file: its base, if it is not where it was.
        trust: The base that a task file names may be run if it is code.
        options: How images become inputs; a task file and a bundle record it.
        of_bundle: What is for a bundle alone.
        wrong: So many wrong samples of each file are kept.
        progress: Told ``(done, total, text)``.
    """
    options = options or DataOptions()
    if is_bundle(model):
        require_there(data={_TEST: evaluation})
        return _of_bundle(Path(model), evaluation, options, of_bundle or BundleOptions(), wrong, progress)
    require_there(model=model, weights=weights, data={_TEST: evaluation})
    if is_task_file(model):
        task = Task.load(Path(model))
        opened = task.fit(task.open_base(Path(model).absolute().parent, base, weights, trust=trust))
        program, header = task.program(opened), task.header
        classes, recorded = tuple(header.classes), header.preprocess
        learns = header.provenance.get("learns")
        data = _loaded(options, evaluation, count_outputs(program))
        tell_trained_on(data, header.provenance.get("data"))
    else:
        opened = Base.open(model, input_shape, weights)
        program, classes, recorded, learns = opened.program, (), None, None
        data = _loaded(options, evaluation, count_outputs(program))
    kind = learns if isinstance(learns, str) else data.kind
    data = as_learned(data, classes, kind, count_outputs(program)) if data.answered else data
    require_whole({_TEST: data}, progress)
    preprocess = options.preprocess_if_known(opened, [data], recorded)
    test = prepare_for(opened.program, data, preprocess, _reading(progress))
    objective = objective_for(test, opened.detector)
    test = taught(test, objective, (opened.whole or opened).program)
    runtime = f"torch {torch.__version__}"
    found = _seen(PROGRAM, runtime, program, test, objective, batch_size(program), wrong, progress)
    return _details(model, data, objective, [found])


def _loaded(options: DataOptions, evaluation: str, outputs: int | None) -> ImageData:
    return options.load(evaluation, outputs=outputs, measured=True)


def _of_bundle(
    path: Path, evaluation: str, options: DataOptions, how: BundleOptions, wrong: int, progress: Progress | None
) -> Details:
    given = {"signers": how.signers, "identity": how.identity, "revoked": how.revoked}
    with open_bundle(path, **given) as opened:  # type: ignore[arg-type]  # its own keywords
        manifest = opened.manifest
        chosen = [manifest.variant(name) for name in how.variants] if how.variants else list(manifest.variants)
        data, test, objective = data_for_bundle(path, opened, evaluation, options, progress)
        found, refused = [], []
        for variant in chosen:
            try:
                with confined(opened.folder, variant, threads=how.threads, timeout_s=how.timeout_s) as run:
                    size = _batch(manifest, variant)
                    asked = asking(run)
                    found.append(_seen(variant.name, run.runtime, asked, test, objective, size, wrong, progress))
            except DeviceError as error:
                if how.variants or len(chosen) == 1:
                    raise
                refused.append(error)
        if not found:
            raise refused[0]
    for refusal in refused:
        log.warning("NOT EVALUATED: %s", refusal.message)
    return _details(str(path), data, objective, found)


def data_for_bundle(
    path: Path, opened: OpenBundle, evaluation: str, options: DataOptions, progress: Progress | None
) -> tuple[ImageData, Prepared, Objective]:
    """Test data as a bundle takes them, and what is measured of its outputs.

    Args:
        path: The bundle, for messages.
        opened: It.
        evaluation: Test data.
        options: Which part of them; how an image becomes an input is what the bundle says.
        progress: Told ``(done, total, text)``.

    Raises:
        ConfigError: The bundle does not say how an image becomes its input, or the options say it too.
        DataError: The data cannot be read.
    """
    manifest = opened.manifest
    if manifest.preprocessing is None:
        raise ConfigError(
            f"{path}: it does not say how an image becomes its input",
            "evaluate the model or the task that it was made of",
        )
    if options.said:
        raise ConfigError(
            f"{path} says how an image becomes its input, and its files are proved so",
            "leave out --mean, --std, --resize and what else is said of images",
        )
    shape = manifest.outputs[0].shape
    outputs = shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None
    data = _loaded(options, evaluation, outputs)
    data = as_learned(data, _labels(opened.folder), manifest.learns, outputs) if data.answered else data
    recorded = manifest.provenance.get("task")
    tell_trained_on(data, recorded.get("data") if isinstance(recorded, dict) else None)
    require_whole({_TEST: data}, progress)
    test = prepare(data, manifest.preprocessing, progress=_reading(progress))
    return data, test, _objective(manifest, test, path)


def _labels(folder: Path) -> tuple[str, ...]:
    file = folder / LABELS
    if not file.is_file():
        return ()
    try:
        return tuple(plain_text(file).rstrip("\n").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{file} cannot be read: {error}", "check the bundle with: edgespa verify") from error


def _objective(manifest: Manifest, test: Prepared, path: Path) -> Objective:
    """Whose measures, of outputs that are read as the bundle says."""
    if test.kind == "detection":
        if manifest.decoding is None:
            raise ConfigError(f"{path}: it does not say how boxes are read off its outputs", "evaluate the task file")
        return Read(manifest.decoding)
    objective = objective_named(test.kind)
    if objective.of_base:
        raise ConfigError(
            f"what is right for {objective.name} is what the base gives, which a bundle has not",
            "evaluate the task file",
        )
    return objective if manifest.decoding is None else objective.decoded_by(manifest.decoding)


class Read(Boxes):
    """Boxes as a bundle says that they are read; nothing is learned by it.

    Args:
        decoding: The bundle's.
    """

    name = "detection"

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding

    @property
    def decoding(self) -> Decoding:
        """See `Boxes.decoding`."""
        return self._decoding

    def loss(self, outputs: Any, targets: Any, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """There is none."""
        raise NotImplementedError("a bundle is not trained")


def _batch(manifest: Manifest, variant: Variant) -> int:
    """Samples at a time whose outputs are of no more than `MOST_BYTES`."""
    elements = sum(
        int(np.prod([size for size in spec.shape[1:] if isinstance(size, int)] or [1])) for spec in manifest.outputs
    )
    fixed = variant.inputs[0].shape[0]
    return max(1, fixed if isinstance(fixed, int) else 1, min(BATCH_SIZE, MOST_BYTES // max(4 * elements, 1)))


def asking(run: Callable[[Sequence[Any]], list[Any]]) -> Run:
    """What runs a file, called with tensors and giving them, as a program does.

    Args:
        run: From arrays to arrays.
    """

    def asked(*inputs: Tensor) -> Any:
        outputs = [torch.from_numpy(each.copy()) for each in run([each.numpy() for each in inputs])]
        return outputs[0] if len(outputs) == 1 else outputs

    return asked


def _seen(
    name: str,
    runtime: str | None,
    run: Run,
    test: Prepared,
    objective: Objective,
    size: int,
    wrong: int,
    progress: Progress | None,
) -> tuple[Subject, Closely]:
    """What one program or file does, and what its figures are."""

    def told(done: float, total: float | None, _text: str) -> None:
        if progress is not None:
            progress(done, total, f"evaluate {name}")

    closer = closer_for(objective, len(test.classes), test.file, wrong)
    found = evaluate(run, test, objective, batch=size, progress=told, watch=closer)
    seen = closer.result()
    values = zip(found.measures, found.values, strict=True)
    subject = Subject(
        name=name,
        runtime=runtime or None,
        values={each.name: value for each, value in values if math.isfinite(value)},
        classes=seen.classes,
        confusions=seen.confusions,
        confusions_left_out=seen.confusions_left_out,
        wrong=seen.wrong,
        wrong_count=seen.wrong_count,
    )
    return subject, seen


def _details(model: str, data: ImageData, objective: Objective, found: Sequence[tuple[Subject, Closely]]) -> Details:
    seen = found[0][1]
    return Details(
        model=file_name(Path(model).name or model),
        kind=data.kind,
        data=file_name(data.name),
        count=len(data),
        left_out=len(data.left_out),
        counted=seen.counted,
        measures=tuple(map(Column.of, objective.measures)),
        columns=seen.columns,
        by_sample=next((each.by_sample for _, each in found if each.by_sample), None),
        class_names=tuple(file_name(each) for each in data.classes) if seen.classes else (),
        subjects=tuple(subject for subject, _ in found),
    )


def _reading(progress: Progress | None) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(done, total, "read the images of --eval-data")
