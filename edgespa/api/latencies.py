"""The public call on latency tables; see `edgespa.api.verbs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgespa.api.arguments import base_of, model_of, several, sizes_of, text_of, told
from edgespa.api.latency_results import Latencies, Prediction, TableFigures
from edgespa.errors import ConfigError

if TYPE_CHECKING:
    from edgespa.api.arguments import Model, Sizes, Tell
    from edgespa.device.board import Device
    from edgespa.graph.groups import Kept
    from edgespa.tasks.base import Base


def latencies(
    device: str = "local",
    *,
    model: Model | None = None,
    variants: str | Sequence[str] = ("onnx-fp32",),
    threads: int = 1,
    input_shape: Sizes | None = None,
    weights: str | Path | None = None,
    base: Model | None = None,
    trust: bool = False,
    again: bool = False,
    remove: bool = False,
    progress: Tell = None,
) -> Latencies:
    """What layers take on a device: measure it for a model, and foretell the model, or a task of it; or what is known.

    For each kind of layer that the device's table lacks, files of one layer are made over a grid of widths and measured
    on the device, some hundred at a time in one process. What is there is used again, by all networks.

    Args:
        device: A name as of ``edgespa devices``.
        model: A model, or a task file, which is foretold with its kept units; see `edgespa.inspect`. None to look what
            there is.
        variants: Of what files: ``onnx-fp32``, ``onnx-int8``, ``tflite-fp32``, ``tflite-int8``; a table for each.
        threads: Of the runtime; a table for each number.
        input_shape: See `edgespa.inspect`.
        weights: Weight file of the model.
        base: For a task file: its base, if it is not where it was.
        trust: The base that a task file names may be run if it is code.
        again: Measure all anew.
        remove: Remove the tables of these variants and so many threads, and measure nothing.
        progress: See `edgespa.api.verbs`.

    Raises:
        ConfigError: There is no such variant.
        DeviceError: There is no such device, it cannot be reached, or it cannot run such files.
        ModelError: The model cannot be found, built, loaded or traced.
    """
    from edgespa.api.early import require_there
    from edgespa.device import load_device

    board = load_device(device)
    asked = several(variants)
    _require_known(asked)
    if threads < 1:
        raise ConfigError(f"threads must be at least 1, not {threads}")
    if remove:
        if model is not None or again:
            raise ConfigError("remove measures nothing", "leave out the model, and again")
        from edgespa.latency.table import remove_tables

        gone = tuple(path for variant in asked for path in remove_tables(board.name, variant, threads))
        return Latencies(board.name, _tables(board), removed=gone)
    if model is None:
        if again:
            raise ConfigError("again is for a model, which says what is measured", "give the model")
        return Latencies(board.name, _tables(board))
    spec, own = model_of(model)
    require_there(model=spec, weights=text_of(weights))
    opened, kept = _opened(spec, sizes_of(input_shape), text_of(weights), base_of(base, own), trust)

    from edgespa.device.link.reach import connect
    from edgespa.latency.known import make_latencies

    found = []
    with connect(board) as connection, told(f"latencies of {board.name}", progress) as report:
        for variant in asked:
            foretold = make_latencies(opened, connection, variant, threads, again=again, progress=report)
            rows = foretold.predictor.layer_ms(kept)
            found.append(
                Prediction(
                    TableFigures.of(foretold.table),
                    foretold.latency_ms(kept),
                    foretold.latency_ms(),
                    foretold.corrected,
                    foretold.predictor.scale,
                    rows,
                    dict(opened.layers.unknown),
                    foretold,
                )
            )
    return Latencies(board.name, _tables(board), tuple(found))


def _require_known(variants: Sequence[str]) -> None:
    known = ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8")
    for variant in variants:
        if variant not in known:
            raise ConfigError(f"there are no latency tables of '{variant}'", f"choose one of: {', '.join(known)}")


def _tables(board: Device) -> tuple[TableFigures, ...]:
    from edgespa.latency.table import saved_tables

    return tuple(TableFigures.of(each) for each in saved_tables(board.name))


def _opened(spec: str, sizes: object, weights: str | None, base: str | None, trust: bool) -> tuple[Base, Kept | None]:
    """The network, and what a task keeps of it."""
    from edgespa.tasks.base import Base
    from edgespa.tasks.task import Task, is_task_file

    if not is_task_file(spec):
        return Base.open(spec, sizes, weights), None  # type: ignore[arg-type]
    path = Path(spec)
    task = Task.load(path)
    return task.open_base(path.absolute().parent, base, weights, trust=trust), task.kept
