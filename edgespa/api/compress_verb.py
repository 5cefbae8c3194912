"""The public call that does all of it: from a network and a board to a bundle; see `edgespa.api.verbs`."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.arguments import configured, data_of, devices_of, file_of, file_of_names, model_of, several, text_of
from edgespa.api.compress_results import Compression
from edgespa.api.shell import checked, current
from edgespa.errors import ConfigError, UnfinishedError

if TYPE_CHECKING:
    from edgespa.api.arguments import Data, Labels, Model, Sizes, Tell, Values

log = logging.getLogger(__name__)

FORMATS, PRECISIONS = ("onnx", "tflite"), ("fp32", "int8")
_KNOWN = {"formats": FORMATS, "precisions": ("fp32", "fp16", "int8")}
HEAL_STEPS = 1000


def compress(
    model: Model,
    *,
    images: Data,
    output: str | Path,
    latency_ms: float | None = None,
    speedup: float | None = None,
    device: str = "local",
    threads: int = 1,
    formats: Sequence[str] = FORMATS,
    precisions: Sequence[str] = PRECISIONS,
    eval_data: Data | None = None,
    heal: bool = True,
    heal_steps: int = HEAL_STEPS,
    tensorboard: str | Path | None = None,
    mlflow: str | None = None,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    int8_max_loss: float | None = None,
    input_shape: Sizes | None = None,
    weights: str | Path | None = None,
    mean: Values | None = None,
    std: Values | None = None,
    limit: int | None = None,
    eval_limit: int | None = None,
    labels: Labels | None = None,
    class_offset: int | None = None,
    objective: str | None = None,
    skip_bad_files: bool = False,
    save_task: str | Path | None = None,
    seed: int = 0,
    fresh: bool = False,
    overwrite: bool = False,
    progress: Tell = None,
    **settings: Any,
) -> Compression:
    """Make a network as fast on a device as asked, losing as little as possible, by some hundred images without labels.

    In this order: the network is exported as it is, and its files are measured on the device. If one of them is fast
    enough, that is all. Else channels, residual blocks, heads of attention and dimensions of these are removed until
    the network is (`prune`, with new weights for what is left), what is left is trained towards the original (`heal`),
    and exported; its files are measured in alternation with those of the whole network. Where none is fast enough yet,
    the next candidate is cut for less, at most four in all. The bundle holds the fastest file, proved like any other.

    An interrupted run is gone on with by the same call: each stage that is done is kept beside the bundle until the
    bundle is there.

    Args:
        model: See `inspect`; no task file.
        images: Images like those that it will see, labels not needed; see ``data`` of `adapt`.
        output: The bundle, a folder. The state of an unfinished run lies beside it.
        latency_ms: Of one inference on the device, batch 1. Or give ``speedup``.
        speedup: How many times as fast as the fastest float32 file of the network as it is.
        device: Where, a name as of ``edgespa devices``.
        threads: Of the runtime.
        formats: That may be chosen among.
        precisions: Likewise; the fastest that is near enough to the program is taken.
        eval_data: Labelled images: what is lost is measured on them, and nothing chosen by it.
        heal: Train what is left towards the original.
        heal_steps: For so many training steps.
        tensorboard: Each healing is told to it: see `adapt`.
        mlflow: Likewise.
        keep: Layers that stay whole.
        only: The only layers that may be pruned.
        int8_max_loss: What int8 may lose of the measure on ``eval_data``; see `export`.
        input_shape: See `inspect`.
        weights: Weight file of the model.
        mean: See `adapt`.
        std: See `adapt`.
        limit: Of ``images``; see `adapt`.
        eval_limit: See `adapt`.
        labels: See `adapt`.
        class_offset: See `adapt`.
        objective: What is measured on ``eval_data``; see `adapt`.
        skip_bad_files: See `adapt`.
        save_task: Write the task file here, too: for other files of the same network, and for shipping it to a board
            that has the base.
        seed: Of everything random.
        fresh: Start anew where there is the state of another run, and give it up.
        overwrite: Replace a bundle that is there.
        progress: See `edgespa.api.verbs`.
        **settings: Fields of `edgespa.config.PixelSettings`, see `adapt`.

    Raises:
        ConfigError: A setting is not known or not allowed; it names the nearest one.
        BudgetError: The device cannot be made to answer so fast; it says how fast it can.
        UnfinishedError: There is the state of another run.
        ModelError: The model cannot be found, built, loaded or traced.
        DataError: The images cannot be read.
        DeviceError: The device cannot be reached, or nothing runs there.
    """
    from edgespa.adaptation.tracking import require_trackers
    from edgespa.api.compressing import Asked, Budget, Stages, is_of, is_state
    from edgespa.api.early import require_there
    from edgespa.bundle import BundleWriter
    from edgespa.config import PixelSettings
    from edgespa.system.files import refuse_existing, require_folder_possible, require_writable
    from edgespa.tasks.unfinished import state_path

    spec, _ = model_of(model)
    path, kept = Path(output), file_of(save_task)
    if (latency_ms is None) == (speedup is None):
        raise ConfigError("how fast it is to be is not said", "give latency_ms=20 or speedup=2: one of them")
    if latency_ms is not None and not 0 < latency_ms < float("inf"):
        raise ConfigError(f"latency_ms must be positive, not {latency_ms:g}", "20 is a fiftieth of a second")
    if speedup is not None and not 1 < speedup < float("inf"):
        raise ConfigError(f"speedup must be above 1, not {speedup:g}", "2 is twice as fast")
    if threads < 1:
        raise ConfigError(f"threads must be at least 1, not {threads}", "leave it out for 1")
    if not heal and heal_steps != HEAL_STEPS:
        raise ConfigError("heal_steps says how long is healed, and nothing is", "leave one of them out")
    if not heal and (tensorboard is not None or mlflow is not None):
        raise ConfigError("trackers are told of a training, and there is none", "leave out heal=False, --no-heal")
    require_trackers(file_of(tensorboard), mlflow)
    if str(spec).endswith(".spa"):
        raise ConfigError(
            f"{spec} is a task file, and compress begins with a network",
            "make it one, whose model.pt2 can be given: edgespa export TASK.spa --format pt2 --output FOLDER",
        )
    for name, given in (("formats", formats), ("precisions", precisions)):
        for each in several(given) or ("",):
            if each not in _KNOWN[name]:
                raise ConfigError(f"unknown {name[:-1]} '{each}'", f"choose from: {', '.join(_KNOWN[name])}")
    devices_of(device)
    test = None if eval_data is None else data_of(eval_data)
    require_there(
        model=spec,
        weights=text_of(weights),
        data={"--images": data_of(images), "--eval-data": test},
        files={"--labels": file_of_names(labels)},
    )
    BundleWriter(path, overwrite=overwrite)
    require_folder_possible(path)
    if kept is not None:
        refuse_existing(kept, overwrite)
        require_writable(kept)
    configured(PixelSettings, settings, compress)
    data: dict[str, Any] = {
        "mean": mean, "std": std, "limit": limit, "eval_limit": eval_limit, "labels": labels,
        "class_offset": class_offset, "objective": objective, "skip_bad_files": skip_bad_files, "seed": seed,
        **settings,
    }  # fmt: skip
    exporting = {} if int8_max_loss is None else {"int8_max_loss": int8_max_loss}
    asked = Asked(
        model=model,
        images=images,
        output=path,
        budget=Budget(latency_ms, speedup),
        device=device,
        threads=threads,
        formats=several(formats),
        precisions=several(precisions),
        heal=heal,
        opening={"input_shape": input_shape, "weights": weights},
        data=data,
        test=eval_data,
        pruning={"eval_data": eval_data, "keep": several(keep), "only": several(only)},
        healing={"steps": heal_steps, "eval_data": eval_data},
        exporting=exporting,
        trackers={"tensorboard": tensorboard, "mlflow": mlflow},
        task=kept,
        overwrite=overwrite,
    )
    state = state_path(path)
    if os.path.lexists(state) and not is_state(state):
        raise UnfinishedError(f"{state} is in the way, and no state of compress", "move it, or name another --output")
    if state.exists() and not fresh and not is_of(state, asked):
        raise UnfinishedError(
            f"{state} is the state of another run, which was asked for something else",
            "repeat that one to go on with it, or give it up: fresh=True, --fresh",
        )
    checked()
    if fresh and state.exists():
        shutil.rmtree(state)
    return Stages(asked, current().stage or log.info, progress).run()
