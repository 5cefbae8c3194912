"""The public calls: what each command does, for programs and notebooks.

Everything behind the model, bundle or task is given by its name. What the command line takes as text may be text here
too; besides, a model may be a ``torch.nn.Module``, data a ``Dataset``, a ``DataLoader`` or arrays, sizes an example
input, a path a ``Path``, and a result of one call goes into the next. Nothing is printed but a progress bar, on a
terminal and in a notebook: ``progress=False`` draws none, ``progress=callback`` is told ``(done, total, text)``.

Whatever goes wrong is raised as an `edgespa.errors.EdgespaError`, whose ``message`` says what, and ``hint`` what to do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.results import (
    Bundle,
    Inspection,
    Profile,
    Result,
    Rollback,
    Shipping,
    Status,
    TaskFile,
    Verification,
)
from edgespa.errors import ConfigError, EdgespaError
from edgespa.models.given import Given
from edgespa.system.progress import bar

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import DataLoader, Dataset

    from edgespa.api.options import DataOptions, Progress
    from edgespa.device.board import Device
    from edgespa.device.fleet import Outcome
    from edgespa.latency.stopwatch import LatencyBudget
    from edgespa.models.inputs import InputSize, InputSizes

    Model = str | Path | nn.Module | TaskFile
    Data = str | Path | Dataset[Any] | DataLoader[Any] | tuple[Any, ...] | Tensor
    Sizes = tuple[int, ...] | tuple[InputSize, ...] | Tensor | tuple[Tensor, ...]
    Tell = Progress | bool | None
    Values = float | Sequence[float]


def inspect(
    model: Model,
    *,
    input_shape: Sizes | None = None,
    weights: str | Path | None = None,
    base: Model | None = None,
    trust: bool = False,
) -> Inspection:
    """Look what can be removed from a model, and what cannot and why; of a task file also what it has removed.

    Args:
        model: A module, a model spec as on the command line (``timm:resnet18``, ``net.py:build``, ``net.pt2``), or a
            task file.
        input_shape: Sizes of its input, the batch first, (1, 3, 224, 224); or an example input. A tuple of either for
            several inputs. May be left out for a task file, a ``.pt2`` program, and models of libraries.
        weights: Weight file of the model.
        base: For a task file: its base, if it is not where it was.
        trust: The base that a task file names may be run if it is code.

    Raises:
        ModelError: The model cannot be found, built, loaded or traced.
        TaskFileError: The task file is damaged.
    """
    from edgespa.tasks.base import Base
    from edgespa.tasks.inspection import describe, describe_task
    from edgespa.tasks.task import Task, is_task_file

    spec, own = _model(model)
    if is_task_file(spec):
        path = Path(spec)
        task = Task.load(path)
        opened = task.open_base(path.absolute().parent, _spec(base, own), _text(weights), trust=trust)
        return Inspection.of(describe_task(task, opened, path), opened)
    opened = Base.open(spec, _sizes(input_shape), _text(weights))
    return Inspection.of(describe(opened), opened)


def adapt(
    model: Model | None = None,
    *,
    data: Data,
    output: str | Path,
    eval_data: Data | None = None,
    start: str | Path | TaskFile | None = None,
    distill: str | Path | TaskFile | None = None,
    input_shape: Sizes | None = None,
    weights: str | Path | None = None,
    trust: bool = False,
    mean: Values | None = None,
    std: Values | None = None,
    limit: int | None = None,
    labels: str | Path | None = None,
    class_offset: int | None = None,
    latency_ms: float | None = None,
    device: str = "local",
    log_file: str | Path | None = None,
    resume: bool = False,
    fresh: bool = False,
    overwrite: bool = False,
    progress: Tell = None,
    **settings: Any,
) -> TaskFile:
    """Learn a task on a frozen model while pruning it, and write a task file.

    Args:
        model: See `inspect`; None for the base of ``start``.
        data: Training data: a folder, zip or ``.npz``, a ``Dataset`` or ``DataLoader`` of (image, label), or (images,
            labels) as arrays: uint8 [N, H, W, C], or float32 [N, C, H, W] that go to the model as they are.
        output: The task file, ``fruit.spa``. The state of an unfinished training lies beside it.
        eval_data: Test data; the accuracy on it is recorded and never used to choose anything.
        start: A task file to start from.
        distill: ``"base"``, or a task of the same base, whose outputs are learned from too.
        input_shape: See `inspect`.
        weights: Weight file of the model.
        trust: The base that ``start`` names may be run if it is code.
        mean: Subtracted from pixels in 0..1, one number or one per channel; default: what the model's library records.
        std: Divided by, likewise.
        limit: Use a seeded, class-balanced part of each data set.
        labels: A file with the class name of each output, a line each.
        class_offset: Class k is output k + this.
        latency_ms: Find the density by it, on ``device``.
        device: Where.
        log_file: Gets a JSON document a line for each pruning step and epoch.
        resume: Go on with an interrupted run.
        fresh: Start anew where there is the state of an interrupted run, and give it up.
        overwrite: Replace a task file that is there.
        progress: See `edgespa.api.verbs`.
        **settings: Fields of `edgespa.adaptation.config.AdaptConfig`: ``density``, ``rank``, ``epochs``, ...

    Raises:
        ConfigError: A setting is not known or not allowed; it names the nearest one.
        DataError: The data cannot be read.
        ModelError: The model cannot be found, built, loaded or traced.
    """
    from edgespa.adaptation.config import AdaptConfig
    from edgespa.api.tasks import adapt_to_file

    spec, _ = _model(model) if model is not None else (None, None)
    begin = start.path if isinstance(start, TaskFile) else _file(start)
    if spec is None and isinstance(start, TaskFile):
        spec = start.given
    config = AdaptConfig.parse(_plain(settings), "adapt")
    path = Path(output)
    with _told("adapt", progress) as report:
        task = adapt_to_file(
            spec,
            _data(data),
            path,
            config,
            input_shape=_sizes(input_shape),
            weights=_text(weights),
            trust=trust,
            options=_options(mean, std, limit, config.seed, labels, class_offset),
            evaluation=_data(eval_data) if eval_data is not None else None,
            overwrite=overwrite,
            resume=resume,
            fresh=fresh,
            distill=None if distill is None else str(distill.path if isinstance(distill, TaskFile) else distill),
            start=begin,
            log_file=_file(log_file),
            progress=report,
            latency=_budget(latency_ms, device),
        )
    return TaskFile.of(task, path, _given(spec))


def prune(
    model: Model,
    *,
    output: str | Path,
    density: float | None = None,
    calibration: Data | None = None,
    eval_data: Data | None = None,
    held_out: Data | None = None,
    input_shape: Sizes | None = None,
    weights: str | Path | None = None,
    mean: Values | None = None,
    std: Values | None = None,
    limit: int | None = None,
    labels: str | Path | None = None,
    class_offset: int | None = None,
    latency_ms: float | None = None,
    device: str = "local",
    resume: bool = False,
    fresh: bool = False,
    overwrite: bool = False,
    progress: Tell = None,
    **settings: Any,
) -> TaskFile:
    """Remove units of a model without training, and write a task file.

    Args:
        model: See `inspect`; no task file.
        output: The task file.
        density: Fraction to keep, of channels, parameters or MACs (``budget``); or give ``latency_ms``.
        calibration: Images that units are chosen by, and new weights fitted on; see ``data`` of `adapt`.
        eval_data: Test data; the accuracy before and after is recorded and never used to choose anything.
        held_out: Labelled images, for ``allocation="equal-accuracy"``.
        input_shape: See `inspect`.
        weights: Weight file of the model.
        mean: See `adapt`.
        std: See `adapt`.
        limit: See `adapt`.
        labels: See `adapt`.
        class_offset: See `adapt`.
        latency_ms: Find the density by it, on ``device``.
        device: Where.
        resume: Go on with an interrupted run.
        fresh: Start anew where there is the state of an interrupted run, and give it up.
        overwrite: Replace a task file that is there.
        progress: See `edgespa.api.verbs`.
        **settings: Fields of `edgespa.pruning.PruneConfig`: ``method``, ``budget``, ``allocation``, ``round_to``, ...

    Raises:
        ConfigError: A setting is not known or not allowed; it names the nearest one.
        DataError: The data cannot be read.
        ModelError: The model cannot be found, built, loaded or traced.
    """
    from edgespa.api.tasks import prune_to_file
    from edgespa.pruning import PruneConfig

    if (density is None) == (latency_ms is None):
        raise ConfigError("what is to be kept is not said", "give density=0.5, or latency_ms=X: one of them")
    spec, _ = _model(model)
    config = PruneConfig.parse(_plain({**settings, "density": density if density is not None else 1.0}), "prune")
    path = Path(output)
    with _told("prune", progress) as report:
        task = prune_to_file(
            spec,
            path,
            config,
            input_shape=_sizes(input_shape),
            weights=_text(weights),
            options=_options(mean, std, limit, config.seed, labels, class_offset),
            calibration=_data(calibration) if calibration is not None else None,
            held_out=_data(held_out) if held_out is not None else None,
            evaluation=_data(eval_data) if eval_data is not None else None,
            overwrite=overwrite,
            resume=resume,
            fresh=fresh,
            progress=report,
            latency=_budget(latency_ms, device),
        )
    return TaskFile.of(task, path, _given(spec))


def export(
    model: Model,
    *,
    output: str | Path,
    calibration: Data | None = None,
    eval_data: Data | None = None,
    input_shape: Sizes | None = None,
    weights: str | Path | None = None,
    base: Model | None = None,
    trust: bool = False,
    mean: Values | None = None,
    std: Values | None = None,
    limit: int | None = None,
    labels: str | Path | None = None,
    class_offset: int | None = None,
    sign_key: str | Path | None = None,
    license: str | None = None,
    overwrite: bool = False,
    progress: Tell = None,
    **settings: Any,
) -> Bundle:
    """Compact, merge, convert and prove a model or a task, and write a bundle.

    Args:
        model: See `inspect`; mostly a task file, or what `adapt` and `prune` gave.
        output: The bundle, a folder.
        calibration: Images for int8, labels not needed; see ``data`` of `adapt`.
        eval_data: Labelled images to measure accuracy on.
        input_shape: See `inspect`.
        weights: Weight file of the model.
        base: For a task file: its base, if it is not where it was.
        trust: The base that a task file names may be run if it is code.
        mean: See `adapt`; a task file records it.
        std: See `adapt`.
        limit: See `adapt`.
        labels: See `adapt`.
        class_offset: See `adapt`.
        sign_key: An OpenSSH key to sign the bundle with.
        license: Of the base's weights, for the model card.
        overwrite: Replace a bundle that is there.
        progress: See `edgespa.api.verbs`.
        **settings: Fields of `edgespa.exporting.config.ExportConfig`: ``formats=("onnx",)``, ``precisions=("fp32",
            "int8")``, ``int8_tolerance``, ``onnx_runtime``, ``strict``, ...

    Raises:
        ConfigError: A setting is not known or not allowed; it names the nearest one.
        ExportError: No file can be written.
        ParityError: No file computes what the program computes.
    """
    from edgespa.api.bundles import export_bundle
    from edgespa.exporting.config import ExportConfig

    spec, own = _model(model)
    config = ExportConfig.parse(_plain(settings), "export")
    path = Path(output)
    with _told("export", progress) as report:
        manifest = export_bundle(
            spec,
            path,
            config,
            input_shape=_sizes(input_shape),
            base=_spec(base, own),
            weights=_text(weights),
            trust=trust,
            options=_options(mean, std, limit, config.seed, labels, class_offset),
            calibration=_data(calibration) if calibration is not None else None,
            evaluation=_data(eval_data) if eval_data is not None else None,
            overwrite=overwrite,
            sign_key=_file(sign_key),
            license=license,
            progress=report,
        )
    return Bundle(path, manifest)


def verify(
    bundle: str | Path | Bundle,
    *,
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
    run: bool = True,
    pythons: Sequence[str | Path] = (),
    threads: int = 1,
) -> Verification:
    """Check that a bundle is what was exported: sizes, digests, signature, and its files by recorded inputs.

    No code of the bundle is run, and torch is not needed. What fails is told by ``passed`` and the checks; what is
    damaged or signed by others is raised.

    Args:
        bundle: Its folder, a packed file, or what `export` gave.
        signers: Who may have signed it; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        run: Run its files.
        pythons: Environments whose runtimes are tried too, ``ENV/bin/python``.
        threads: Of the runtime.

    Raises:
        BundleError: It is damaged or incomplete.
        SignatureError: It is not signed by one of the signers.
    """
    from edgespa.api.checking import check_bundle

    return check_bundle(
        _path(bundle),
        signers=_file(signers),
        identity=identity,
        revoked=_file(revoked),
        run=run,
        pythons=[Path(each) for each in pythons],
        threads=threads,
    )


def profile(
    bundle: str | Path | Bundle,
    *,
    device: str = "local",
    against: str | Path | Bundle | None = None,
    variants: Sequence[str] | None = None,
    threads: int | Sequence[int] = 1,
    providers: Sequence[str] = (),
    runs: int | None = None,
    seconds: float | None = None,
    duration: float | None = None,
    cooldown: float | None = None,
    rounds: int | None = None,
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
    trust: bool = False,
    again: bool = False,
    save: bool = True,
    progress: Tell = None,
) -> Profile:
    """Measure latency and memory of a bundle's files on a device, each in processes of their own.

    Args:
        bundle: Its folder, a packed file, or what `export` gave.
        device: Where, a name as of ``edgespa devices``.
        against: Another bundle, measured in alternation, for ratios.
        variants: Names of files; None for all.
        threads: One number, or several, each measured by itself.
        providers: What computes; none for the CPU.
        runs: At most so many inferences per process.
        seconds: Stop after so long per process.
        duration: Likewise, and the sensors are read meanwhile.
        cooldown: Wait until the device is as cool as at the beginning, at most so many seconds.
        rounds: Repeat all in fresh processes; default: 1, and 3 with ``against``.
        signers: Who may have signed the bundles; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        trust: Measure by a bundle's own run.py, whoever wrote it.
        again: Measure all anew, also what an interrupted run of the same has left.
        save: Write the profile into ``BUNDLE/profiles/``, where that is a folder.
        progress: See `edgespa.api.verbs`.

    Raises:
        DeviceError: It cannot be reached, or nothing can run there.
        BundleError: The bundle is damaged.
    """
    from edgespa.bundle import open_bundle
    from edgespa.device import load_device
    from edgespa.device.link.reach import connect
    from edgespa.device.measure.profile import Settings, save_profile
    from edgespa.device.measure.profile import profile as measure
    from edgespa.device.measure.saved import Journal, journal_folder

    settings = Settings(
        variants=variants,
        threads=(threads,) if isinstance(threads, int) else tuple(threads),
        providers=providers,
        runs=runs,
        seconds=seconds,
        duration=duration,
        cooldown=cooldown,
        rounds=rounds or (3 if against is not None else 1),
        trust=trust,
    )
    settings.check()
    path = _path(bundle)
    journal = Journal(journal_folder(), fresh=again)
    with contextlib.ExitStack() as stack:
        opening = partial(open_bundle, signers=_file(signers), identity=identity, revoked=_file(revoked))
        opened = stack.enter_context(opening(path))
        other = stack.enter_context(opening(_path(against))).folder if against is not None else None
        report = stack.enter_context(_told("profile", progress))
        connection = stack.enter_context(connect(load_device(device)))
        found = measure(opened.folder, connection, settings, against=other, progress=report, journal=journal)
    journal.forget()
    return Profile(path, found, save_profile(found, path) if save and path.is_dir() else None)


def ship(
    source: str | Path | Bundle | TaskFile,
    *,
    device: str | Sequence[str],
    task: str | None = None,
    keep: int = 3,
    with_base: bool = False,
    base: Model | None = None,
    weights: str | Path | None = None,
    sign_key: str | Path | None = None,
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
    trust: bool = False,
    volatile: bool = False,
    threads: int = 1,
    progress: Tell = None,
) -> Shipping:
    """Send a bundle or a task to devices, check it there, and use it from now on.

    Whatever fails before it is in use leaves the old version in use.

    Args:
        source: A bundle, as a folder or packed, or a task file; or what `export`, `adapt` and `prune` gave.
        device: Where, a name as of ``edgespa devices``, or several.
        task: Its name there; default: the bundle's.
        keep: Versions that stay there.
        with_base: With a task file: send its base too, to devices that lack it.
        base: Of a task file: its base, if it is not where it was.
        weights: Of a task file: the weights of its base.
        sign_key: Sign what is made of a task file with this OpenSSH key.
        signers: Who may have signed it; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        trust: Run code of the maker: what a task file names as its base, a bundle's own run.py for the check there.
        volatile: Also to a device whose writes are gone after a reboot.
        threads: Of the runtime, for the self-check.
        progress: See `edgespa.api.verbs`.

    Returns:
        What is in use now. With several devices, what failed on some is in ``errors``.

    Raises:
        DeviceError: It failed on the only device.
        BundleError: The bundle is damaged.
        TaskFileError: The task file is damaged.
    """
    from edgespa.api.devices import ship_to
    from edgespa.api.shipping import TaskOptions

    own = source.given if isinstance(source, TaskFile) else None
    key = _file(sign_key)
    with _told("ship", progress) as report:
        delivered = ship_to(
            _devices(device),
            [_path(source)],
            task=task,
            signers=_file(signers),
            identity=identity,
            revoked=_file(revoked),
            options=TaskOptions(_spec(base, own), _text(weights), key, trust=trust),
            keep=keep,
            with_base=with_base,
            volatile=volatile,
            threads=threads,
            trust=trust,
            progress=report,
        )
    return Shipping(_errors(delivered.outcomes), tuple(each for done in delivered.shipped.values() for each in done))


def rollback(task: str, *, device: str | Sequence[str], to: str | None = None, threads: int = 1) -> Rollback:
    """Use an earlier version of a task on devices again, after its digests and its self-check.

    Args:
        task: The task's name there.
        device: Where, or several.
        to: A version, or its number; None for the one before that in use.
        threads: Of the runtime, for the self-check.

    Raises:
        DeviceError: It failed on the only device; what is in use stays.
    """
    from edgespa.api.devices import roll_back_on

    outcomes = roll_back_on(_devices(device), task, to=to, threads=threads)
    return Rollback(_errors(outcomes), tuple(each.result for each in outcomes if each.result is not None))


def status(device: str | Sequence[str] | None = None, *, selfcheck: bool = False, timeout_s: float = 30) -> Status:
    """What is on devices, and whether it is as it was shipped.

    Args:
        device: Where, or several; None for your own profiles and this machine.
        selfcheck: Run the recorded inputs through what is in use, too.
        timeout_s: Give a device up that has not answered for so long.

    Returns:
        What those that answered have; why others did not is in ``errors``.
    """
    from edgespa.api.devices import known_devices, status_of

    outcomes = status_of(
        known_devices() if device is None else _devices(device), selfcheck=selfcheck, timeout_s=timeout_s
    )
    errors = {each.device.name: each.error for each in outcomes if each.error is not None}
    return Status(errors, tuple(each.result for each in outcomes if each.result is not None))


def open_task(path: str | Path) -> TaskFile:
    """Read a task file; its base is not opened, and nothing of it is run.

    Args:
        path: The file.

    Raises:
        TaskFileError: It is damaged, or no task file.
    """
    from edgespa.tasks.task import Task

    return TaskFile.of(Task.load(Path(path)), Path(path))


def open_bundle(
    path: str | Path,
    *,
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
) -> Bundle:
    """Check every file of a bundle against its manifest, and read that; nothing is run.

    Args:
        path: Its folder, or a packed file.
        signers: Who may have signed it; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.

    Raises:
        BundleError: It is damaged or incomplete.
        SignatureError: It is not signed by one of the signers.
    """
    from edgespa.bundle import open_bundle as opening

    with opening(Path(path), signers=_file(signers), identity=identity, revoked=_file(revoked)) as opened:
        return Bundle(Path(path), opened.manifest, opened.signed.identity if opened.signed is not None else None)


def _model(model: Model) -> tuple[str, str | None]:
    """The spec of a model; and of a task whose base was given in Python, that base."""
    if isinstance(model, TaskFile):
        return str(model.path), model.given
    if isinstance(model, (str, Path)):
        return (model if isinstance(model, Given) else str(model)), None
    if callable(getattr(model, "state_dict", None)):
        return Given(model), None
    raise ConfigError(
        f"a {type(model).__name__} is no model",
        "give a torch.nn.Module, a spec such as 'timm:resnet18' or 'net.py:build', or a task file",
    )


def _spec(base: Model | None, own: str | None) -> str | None:
    return own if base is None else _model(base)[0]


def _given(spec: str | None) -> str | None:
    return spec if isinstance(spec, Given) else None


def _data(data: Data) -> str:
    return str(data) if isinstance(data, Path) else data if isinstance(data, str) else Given(data)


def _sizes(given: Sizes | None) -> InputSizes | None:
    """Sizes, also of example inputs."""
    if given is None:
        return None
    from torch import Tensor

    from edgespa.models.inputs import InputSize

    examples = (given,) if isinstance(given, Tensor) else given
    if not any(isinstance(each, Tensor) for each in examples):
        return given  # type: ignore[return-value]
    found = [
        InputSize(tuple(each.shape), None if each.is_floating_point() else str(each.dtype).removeprefix("torch."))
        for each in examples
        if isinstance(each, Tensor)
    ]
    return found[0].shape if len(found) == 1 and found[0].dtype is None else tuple(found)


def _options(
    mean: Values | None,
    std: Values | None,
    limit: int | None,
    seed: int,
    labels: str | Path | None,
    class_offset: int | None,
) -> DataOptions:
    from edgespa.api.options import DataOptions

    def several(value: Values | None) -> tuple[float, ...] | None:
        return None if value is None else (float(value),) if isinstance(value, (int, float)) else tuple(value)

    return DataOptions(several(mean), several(std), limit, seed, Path(labels) if labels else None, class_offset)


def _budget(latency_ms: float | None, device: str) -> LatencyBudget | None:
    if latency_ms is None:
        return None
    from edgespa.device import load_device
    from edgespa.latency.stopwatch import LatencyBudget

    return LatencyBudget(latency_ms, load_device(device))


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as configurations take them: a list is as good as a tuple."""
    return {name: tuple(each) if isinstance(each, list) else each for name, each in settings.items()}


def _path(bundle: str | Path | Result) -> Path:
    return bundle.path if isinstance(bundle, (Bundle, TaskFile)) else Path(str(bundle))


def _devices(names: str | Sequence[str]) -> list[Device]:
    from edgespa.device import load_device

    return [load_device(name) for name in dict.fromkeys([names] if isinstance(names, str) else names)]


def _errors(outcomes: Sequence[Outcome[Any]]) -> dict[str, EdgespaError]:
    """What failed on some; on the only one it is raised."""
    errors = {each.device.name: each.error for each in outcomes if each.error is not None}
    if len(outcomes) == 1 and errors:
        raise next(iter(errors.values()))
    return errors


def _file(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


@contextlib.contextmanager
def _told(text: str, progress: Tell) -> Iterator[Progress]:
    """The callback, or one that draws a bar."""
    if callable(progress):
        yield progress
        return
    with bar(text, enabled=progress is not False) as report:
        yield report
