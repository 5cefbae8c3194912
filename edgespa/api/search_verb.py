"""The public call that searches; see `edgespa.api.verbs`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.arguments import (
    data_if_any,
    data_of,
    devices_of,
    file_of,
    file_of_names,
    model_of,
    several,
    text_of,
    told,
)
from edgespa.api.held import MARK, held, is_running
from edgespa.api.shell import checked
from edgespa.errors import ConfigError, DataError, OutputExistsError, UnfinishedError
from edgespa.models.given import Given

if TYPE_CHECKING:
    from edgespa.api.arguments import Labels, Sizes, Tell, Values
    from edgespa.api.search_asked import Asked
    from edgespa.api.search_results import SearchResult
    from edgespa.latency.known import Foretold

TRIALS, BRACKET = 24, 12
_OURS = ("stages", "front", "study.journal", "study.journal.lock", "search.json", "report.html")


def search(
    model: str | Path,
    *,
    data: str | Path,
    validation_data: str | Path,
    output: str | Path,
    eval_data: str | Path | None = None,
    space: Mapping[str, Any] | None = None,
    goals: str | Sequence[str] = ("quality", "latency", "bytes"),
    latency_ms: float | None = None,
    size_bytes: int | None = None,
    device: str = "local",
    threads: int = 1,
    sampler: str = "tpe",
    trials: int | None = None,
    bracket: int = BRACKET,
    timeout_s: float | None = None,
    jobs: int = 1,
    ray: str | None = None,
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
    seed: int = 0,
    tensorboard: str | Path | None = None,
    mlflow: str | None = None,
    fresh: bool = False,
    progress: Tell = None,
    **settings: Any,
) -> SearchResult:
    """Search settings for a task: the trials that no other beats in quality, time on the device and bytes.

    Trials go through their stages in waves. Each is cut by its weights, and what is too slow by the device's latency
    table is rejected. The best third is trained for few epochs, the best third of those to the end; their files are
    written, proved, and measured on the validation data. What is best of all of them is measured on the device. The
    folder keeps every stage: the same call goes on where it was, and repeats nothing.

    Args:
        model: A spec, see `inspect`; trials run in processes of their own, so no module.
        data: Training data, a spec; see `adapt`.
        validation_data: Labelled images that trials are compared on.
        output: The folder of the search. In it ``search.json`` tells of all trials, ``front`` has task files and
            bundles, ``report.html`` shows it.
        eval_data: Test data; only the front is measured on it, in the end, and nothing chosen by it.
        space: What varies: names of settings with choices, ``"rank": [4, 8]``, or ranges, ``"density": "0.3..1:0.05"``,
            ``"lr": "1e-4..1e-2:log"``. Settings are fields of `edgespa.adaptation.config.AdaptConfig`, and
            ``precision`` and ``format`` of the file. None for density, rank, adapter, criterion, schedule, alignment
            (``round_to``) and precision.
        goals: What counts: ``quality``, ``latency``, ``bytes``.
        latency_ms: What one inference may take: slower trials are rejected before they are trained.
        size_bytes: What the file may have, likewise.
        device: Where.
        threads: Of the runtime.
        sampler: Who proposes: ``tpe`` or ``nsga2``, which learn from what was, ``random``, or ``grid``, which goes
            through all there is.
        trials: How many; None for 24, or for all of a grid. More than before goes on with a search.
        bracket: Trials of a wave, of which the best third goes on.
        timeout_s: Nothing new begins after so many seconds.
        jobs: Processes at a time.
        ray: Use a Ray cluster in their place: ``auto``, ``local`` or ``HOST:PORT``. Its nodes see the same files.
        input_shape: See `inspect`.
        weights: Weight file of the model.
        mean: See `adapt`.
        std: See `adapt`.
        limit: Of ``data``, see `adapt`; of ``validation_data`` all counts.
        eval_limit: Use such a part of ``eval_data``.
        labels: See `adapt`.
        class_offset: See `adapt`.
        objective: See `adapt`.
        skip_bad_files: See `adapt`.
        seed: Of everything random: the same trials come of it.
        tensorboard: Each training of each trial is told to it: see `adapt`. Its run is named by the folder of the
            search, the trial's digest, and ``few`` or ``full``: which epochs.
        mlflow: Likewise.
        fresh: Give up what an earlier search left in the folder.
        progress: See `edgespa.api.verbs`.
        **settings: What is the same in all trials: fields of `edgespa.adaptation.config.AdaptConfig`, ``precision``,
            ``format``, and fields of `edgespa.config.PixelSettings`.

    Raises:
        ConfigError: A setting or a name of the space is not known, which names the nearest one; or not allowed.
        MissingExtraError: Optuna, or Ray, is not installed.
        UnfinishedError: The folder is of a search that was asked for something else, or runs.
        DataError: The data cannot be read.
        ModelError: The model cannot be found, built, loaded or traced.
        DeviceError: The device cannot be reached, or nothing runs there.
    """
    from edgespa.adaptation.tracking import Trackers, require_trackers
    from edgespa.api.early import require_there
    from edgespa.system.files import expanded, require_folder_possible, require_writable
    from edgespa.trials.digests import absolute
    from edgespa.trials.record import GOALS, MOST_TRIALS, SAMPLERS
    from edgespa.trials.sampling import require_optuna

    spec = _spec(model_of(model)[0], "model")
    train, validation = _spec(data_of(data), "data"), _spec(data_of(validation_data), "validation_data")
    test = None if eval_data is None else _spec(data_if_any(eval_data), "eval_data")
    if spec.endswith(".spa"):
        raise ConfigError(f"{spec} is a task file, and a search begins with a network", "name the network")
    _one_of("sampler", sampler, SAMPLERS)
    chosen = several(goals)
    for each in chosen:
        _one_of("goal", each, GOALS)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError("goals: none, or one of them twice", f"choose from: {', '.join(GOALS)}")
    _positive("latency_ms", latency_ms)
    _positive("timeout_s", timeout_s)
    for name, value, least in (
        ("trials", trials, 1), ("bracket", bracket, 2), ("jobs", jobs, 1), ("threads", threads, 1),
        ("size_bytes", size_bytes, 1),
    ):  # fmt: skip
        if value is not None and value < least:
            raise ConfigError(f"{name} must be at least {least}, not {value}", "leave it out for the default")
    if (trials or 0) > MOST_TRIALS:
        raise ConfigError(f"trials: {trials:,} are too many", f"at most {MOST_TRIALS:,}")
    if ray is not None and jobs != 1:
        raise ConfigError("jobs and ray exclude each other: a cluster has its own cores", "leave one of them out")
    if sampler != "grid":
        require_optuna()
    devices_of(device)
    require_trackers(events := file_of(tensorboard), mlflow)
    require_there(
        model=spec,
        weights=text_of(weights),
        data={"--data": train, "--validation-data": validation, "--eval-data": test},
        files={"--labels": file_of_names(labels)},
    )
    folder = expanded(output).absolute()
    require_folder_possible(folder)
    if folder.is_dir():
        require_writable(folder / "search.json")
    asked = _asked(
        model=absolute(spec),
        data=absolute(train),
        validation=absolute(validation),
        test=None if test is None else absolute(test),
        folder=folder,
        device=device,
        threads=threads,
        space=space,
        settings=settings,
        opening={
            "input_shape": _shape_text(input_shape),
            "weights": None if weights is None else absolute(str(weights)),
        },
        reading={"mean": _numbers(mean), "std": _numbers(std), "skip_bad_files": skip_bad_files},
        labelled={"labels": _names(labels), "class_offset": class_offset, "objective": objective},
        limit=limit,
        eval_limit=eval_limit,
        goals=tuple(chosen),
        latency_ms=latency_ms,
        size_bytes=size_bytes,
        sampler=sampler,
        trials=trials if trials is not None or sampler == "grid" else TRIALS,
        bracket=bracket,
        timeout_s=timeout_s,
        jobs=jobs,
        ray=ray,
        seed=seed,
        trackers=_places(events, mlflow),
    )
    _require_ours(asked, fresh)
    checked()
    Trackers.of(events, mlflow, folder).reach()
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        if fresh:
            _clear(folder)
        return _searched(asked, progress)


def _places(tensorboard: Path | None, mlflow: str | None) -> dict[str, str]:
    """Trackers as a training in another process, and another folder, is told them."""
    from edgespa.adaptation.in_mlflow import absolute

    found = {} if tensorboard is None else {"tensorboard": str(tensorboard.absolute())}
    return found if mlflow is None else {**found, "mlflow": absolute(mlflow)}


def _asked(*, space: Mapping[str, Any] | None, settings: Mapping[str, Any], **values: Any) -> Asked:
    """All of it, looked through."""
    from edgespa.api.arguments import parted
    from edgespa.api.search_asked import KNOWN, Asked, require_values, space_of

    pixels, rest = parted({name: tuple(each) if isinstance(each, list) else each for name, each in settings.items()})
    values["reading"] = {
        **{name: each for name, each in values["reading"].items() if each not in (None, False)}, **pixels.said()
    }  # fmt: skip
    values["labelled"] = {name: each for name, each in values["labelled"].items() if each is not None}
    values["opening"] = {name: each for name, each in values["opening"].items() if each is not None}
    known = {name.replace("-", "_"): each for name, each in (space or {}).items()}
    found = Asked(space=space_of(known if space is not None else None, rest), settings=rest, **values)
    require_values(found)
    if found.sampler == "grid":
        for name, each in found.space.dimensions.items():
            each.grid(name)
        if found.trials is None and (found.space.size or 0) > _MOST_OF_GRID:
            raise ConfigError(
                f"the grid has {found.space.size:,} points", "say how many of them: --trials 100; or vary less"
            )
    assert set(found.space.dimensions) <= set(KNOWN)
    return found


_MOST_OF_GRID = 1000


def _searched(asked: Asked, progress: Tell) -> SearchResult:
    from edgespa.api.search_foretold import Foreteller
    from edgespa.api.search_front import finish
    from edgespa.api.search_results import SearchResult
    from edgespa.api.searching import Searching
    from edgespa.workers import open_workers

    with told("search", progress) as report:
        running = Searching(asked, Foreteller((lambda: _tables(asked)) if asked.timed else None), report)
        running.save()
        try:
            with open_workers(jobs=asked.jobs, ray=asked.ray) as workers:
                running.run(workers)
        finally:
            running.save()
        page = finish(running)
        return SearchResult(asked.folder, running.record(), page)


def _tables(asked: Asked) -> Mapping[str, Foretold]:
    """The latency tables of the device for the network; what is missing is measured."""
    import edgespa as es

    found = es.latencies(
        asked.device, model=asked.model, variants=asked.variants(), threads=asked.threads, progress=False,
        **asked.opening,
    )  # fmt: skip
    return {name: each.foretold for name, each in zip(asked.variants(), found.predictions, strict=True)}


def _require_ours(asked: Asked, fresh: bool) -> None:
    """Refuse a folder that is something else, or of another search."""
    from edgespa.trials.record import Search

    folder = asked.folder
    if not folder.is_dir():
        return
    record = folder / "search.json"
    if not record.is_file():
        if any(each.name != MARK for each in folder.iterdir()):
            raise OutputExistsError(folder, ", and is no search", "name another folder, or an empty one")
        return
    if is_running(folder):
        raise UnfinishedError(f"{folder}: a search is running there", "wait for it, or name another --output")
    if not fresh and Search.read(record).identity != asked.identity():
        raise UnfinishedError(
            f"{folder} is of a search that was asked for something else, or its data has changed since",
            "repeat that one to go on with it, name another --output, or give it up: fresh=True, --fresh",
        )


def _clear(folder: Path) -> None:
    """Remove what searches write, and nothing else."""
    for name in _OURS:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()


def _spec(spec: str | None, name: str) -> str:
    if isinstance(spec, Given) or spec is None:
        raise ConfigError(
            f"{name} was given in Python, and trials run in processes of their own",
            "give a spec: a file, a folder, or 'file.py:function'",
        )
    if not str(spec):
        raise DataError(f"{name} is empty", "name a file or a folder")
    return str(spec)


def _one_of(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {what} '{value}'", f"choose from: {', '.join(known)}")


def _positive(name: str, value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise ConfigError(f"{name} must be positive, not {value:g}", "leave it out for no bound")


def _numbers(value: Values | None) -> list[float] | None:
    return None if value is None else [float(value)] if isinstance(value, int | float) else [float(x) for x in value]


def _names(labels: Labels | None) -> str | list[str] | None:
    found = file_of_names(labels)
    if found is not None or labels is None or isinstance(labels, Path):
        return None if found is None else str(found.absolute())
    return [str(each) for each in labels]


def _shape_text(given: Sizes | None) -> Any:
    """Sizes as JSON has them."""
    if given is None:
        return None
    from edgespa.api.arguments import sizes_of

    found: Any = sizes_of(given)
    return [str(each) for each in found] if found and not isinstance(found[0], int) else list(found)
