"""The public call that looks closely at what a model does on test data. See `edgespa.api.verbs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.arguments import (
    base_of,
    configured,
    data_of,
    file_of,
    file_of_names,
    model_of,
    options_of,
    several,
    sizes_of,
    text_of,
    told,
)
from edgespa.api.early import require_signers
from edgespa.api.finding_results import Evaluation
from edgespa.api.results import Bundle
from edgespa.api.shell import checked
from edgespa.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgespa.api.arguments import Data, Labels, Model, Sizes, Tell, Values


def evaluate(
    model: Model | Bundle,
    *,
    eval_data: Data,
    output: str | Path | None = None,
    input_shape: Sizes | None = None,
    weights: str | Path | None = None,
    base: Model | None = None,
    trust: bool = False,
    mean: Values | None = None,
    std: Values | None = None,
    eval_limit: int | None = None,
    labels: Labels | None = None,
    class_offset: int | None = None,
    objective: str | None = None,
    skip_bad_files: bool = False,
    variants: Sequence[str] = (),
    threads: int = 1,
    timeout_s: float = 600.0,
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
    wrong: int = 100,
    seed: int = 0,
    overwrite: bool = False,
    progress: Tell = None,
    **settings: Any,
) -> Evaluation:
    """Measure a model, a task or every file of a bundle on test data, by class and by sample.

    Args:
        model: See `inspect`; a task file; or a bundle, as a folder or packed. Files of a bundle run in a process of
            their own, with bounds of memory and time, and no code of the bundle is run.
        eval_data: Test data of which it is known what is right; see ``data`` of `adapt`.
        output: Write what was found to this file, as JSON; `Evaluation.read` reads it.
        input_shape: See `inspect`.
        weights: Weight file of the model.
        base: For a task file: its base, if it is not where it was.
        trust: The base that a task file names may be run if it is code.
        mean: See `adapt`; a task file and a bundle record it.
        std: See `adapt`.
        eval_limit: Use a seeded, class-balanced part of ``eval_data``.
        labels: See `adapt`.
        class_offset: See `adapt`.
        objective: What is measured; see `adapt`.
        skip_bad_files: See `adapt`.
        variants: Of a bundle: names of the files to run; default: all.
        threads: Of a bundle: of the runtime.
        timeout_s: Of a bundle: end what runs a file where one batch takes longer.
        signers: Of a bundle: who may have signed it; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        wrong: So many wrong samples are listed, at most 1000.
        seed: Of ``eval_limit``.
        overwrite: Replace an output that is there.
        progress: See `edgespa.api.verbs`.
        **settings: Fields of `edgespa.config.PixelSettings`, see `adapt`.

    Raises:
        ConfigError: The data are of another kind or have other classes.
        DataError: The data cannot be read.
        DeviceError: No file of the bundle can be run here.
    """
    from edgespa.api.early import require_there
    from edgespa.config import PixelSettings
    from edgespa.findings.stored import MAX_FILES
    from edgespa.system.files import refuse_existing, require_writable

    require_signers(signers, identity, revoked)
    if not 0 <= wrong <= MAX_FILES:
        raise ConfigError(f"wrong={wrong}", f"list 0 to {MAX_FILES:,} wrong samples")
    spec, own = (str(model.path), None) if isinstance(model, Bundle) else model_of(model)
    data, target = data_of(eval_data), file_of(output)
    require_there(
        model=spec, weights=text_of(weights), data={"--eval-data": data}, files={"--labels": file_of_names(labels)}
    )
    if target is not None:
        refuse_existing(target, overwrite)
        require_writable(target)

    from edgespa.api.evaluating import BundleOptions, evaluate_closely

    pixels = configured(PixelSettings, settings, evaluate)
    checked()
    with told("evaluate", progress) as report:
        found = evaluate_closely(
            spec,
            data,
            input_shape=sizes_of(input_shape),
            weights=text_of(weights),
            base=base_of(base, own),
            trust=trust,
            options=options_of(
                mean, std, None, seed, labels, class_offset, objective, pixels, eval_limit, skip_bad_files
            ),
            of_bundle=BundleOptions(
                tuple(map(str, several(variants))),
                threads,
                timeout_s,
                file_of(signers),
                identity,
                file_of(revoked),
            ),
            wrong=wrong,
            progress=report,
        )
    if target is not None:
        found.write(target)
    return Evaluation(found, target)
