"""``edgespa report`` as one call: whatever lies at some paths is read, and becomes one page.

Nothing that is read is code, and none is run: bundles are checked as `edgespa verify` checks them, and of task files
the base is opened only where it may be run anyway (`edgespa.models.trust`). Files of models are run for examples, those
of each bundle in a process of their own.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edgespa.api.options import DataOptions
from edgespa.api.sweep_stages import BUNDLES, TASKS
from edgespa.bundle import MANIFEST, open_bundle
from edgespa.bundle.opened import OpenBundle
from edgespa.device.measure.results import Profile
from edgespa.device.measure.saved import MAX_PROFILE_BYTES, read_profiles
from edgespa.errors import ConfigError, EdgespaError, UntrustedError
from edgespa.findings.dataset import Health
from edgespa.findings.evaluation import Details
from edgespa.latency.by_layer import by_layer
from edgespa.models.imports import nearest_path
from edgespa.reports.depth_plot import read_depth
from edgespa.reports.examples import MOST, show_examples
from edgespa.reports.page.found import (
    Found,
    FoundBundle,
    FoundDepth,
    FoundEvaluation,
    FoundHealth,
    FoundLog,
    FoundProfile,
    FoundSearch,
    FoundSweep,
    FoundTask,
    FoundText,
    NamedLayer,
    Subject,
)
from edgespa.system.files import plain_text
from edgespa.tasks.modules import describe_modules
from edgespa.tasks.task import SUFFIX, Task
from edgespa.trials.record import Search
from edgespa.trials.swept import RECORD, SweepRecord

Tell = Callable[[float, float | None, str], None]

MOST_FOUND = 200
MOST_SWEPT = 100
MOST_LOG_BYTES = 64 << 20
MOST_EVENTS = 200_000
MOST_IMAGE_BYTES = 96 << 20
_CANDIDATES = 4  # times as many images are looked at as are shown
_LOGS = (".jsonl", ".log")
_KINDS = (
    "bundles (folders or .tar), task files (.spa), profiles and what evaluate, data, search and sweep wrote (.json), "
    "recipes (.toml), training logs (.jsonl)"
)
_KNOWN = tuple(field.name for field in dataclasses.fields(Found) if field.name != "notes")


def gather(
    paths: Sequence[Path],
    output: Path,
    *,
    examples: int,
    images: str | None = None,
    signers: Path | None = None,
    identity: str | None = None,
    revoked: Path | None = None,
    trust: bool = False,
    seed: int = 0,
    progress: Tell | None = None,
) -> Found:
    """Read everything that lies at some paths.

    Args:
        paths: Bundles, task files and the rest; a folder that is no bundle stands for what lies in it.
        output: Where the page will lie, from where its links begin.
        examples: Inputs to show of each bundle.
        images: A data set to show them on; None for what bundles recorded.
        signers: Who may have signed the bundles; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        trust: Bases that task files name may be run if they are code.
        seed: Of the choice among images.
        progress: Told ``(done, total, text)``.

    Raises:
        EdgespaError: What was named cannot be read; of what merely lies in a folder that is told on the page.
    """
    tell = progress or (lambda done, total, text: None)
    shown = _images(images, examples, seed) if images is not None and examples else []
    named = list(_spread(paths))
    names = _names([path for path, _ in named])
    result: dict[str, list[Any]] = {kind: [] for kind in _KNOWN}
    notes: list[str] = []
    # A profile against another bundle tells of that one's operators too.
    profiles = {path: read_profiles(path) for path, _ in named if path.is_dir()}  # an archive has none
    measured = [profile for own in profiles.values() for profile in own]
    for done, (path, is_named) in enumerate(named):
        tell(done, len(named), str(path))
        subject = Subject(names[path], _link(path, output))
        try:
            if path.is_dir() or path.suffix == ".tar":
                with open_bundle(path, signers=signers, identity=identity, revoked=revoked) as opened:
                    result["bundles"].append(
                        _bundle(subject, opened, examples, shown, profiles.get(path, ()), measured)
                    )
            elif path.suffix == SUFFIX:
                result["tasks"].append(_task(subject, path, trust))
            elif path.suffix in _LOGS:
                result["logs"].append(_log(subject, path))
            elif path.suffix == ".toml":
                result["recipes"].append(FoundText(subject.name, subject.link, plain_text(path)))
            else:
                kind, value = _document(subject, path)
                result[kind].append(value)
        except (EdgespaError, OSError, UnicodeDecodeError) as error:
            if is_named:
                raise
            notes.append(f"{names[path]}: {getattr(error, 'message', error)}")
    tell(len(named), len(named), "")
    found = Found(**{kind: tuple(values) for kind, values in result.items()}, notes=tuple(notes))
    if not any(getattr(found, kind) for kind in _KNOWN):
        raise ConfigError(f"there is nothing to report on in {', '.join(map(str, paths))}", f"give {_KINDS}")
    return found


def _spread(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """What was named, and what lies in the folders that were: each once, and whether it was named itself."""
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such file or folder", nearest_path(path) or f"give {_KINDS}")
        inside = path.is_dir() and not (path / MANIFEST).exists()
        for each in _inside(path) if inside else [path]:
            whole = Path(os.path.realpath(each))
            if whole not in seen:
                seen.add(whole)
                yield each, not inside
            if len(seen) > MOST_FOUND:
                raise ConfigError(f"{path} holds more than {MOST_FOUND} things to report on", "name those that matter")


def _inside(folder: Path) -> list[Path]:
    """Of a folder what may be meant: bundles in it, task files, logs, recipes, profiles; of a sweep its tasks too."""
    found = []
    if (folder / RECORD).is_file():
        own = [each for name in (TASKS, BUNDLES) if (folder / name).is_dir() for each in _inside(folder / name)]
        found += own if len(own) <= MOST_SWEPT else []  # all are in the record's table, with links
    for each in sorted(folder.iterdir()):
        if each.name.startswith("."):
            continue
        if each.is_dir():
            if (each / MANIFEST).exists():
                found.append(each)
        elif each.suffix in (SUFFIX, ".tar", ".toml", ".json", *_LOGS):
            found.append(each)
    return found


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Each path's last parts, as many as tell them apart."""
    whole = {path: Path(os.path.abspath(path)).parts for path in paths}
    names: dict[Path, str] = {}
    for path, parts in whole.items():
        count = 1
        others = [other for each, other in whole.items() if each != path]
        while count < len(parts) and any(other[-count:] == parts[-count:] for other in others):
            count += 1
        names[path] = "/".join(parts[-count:])
    return names


def _link(path: Path, output: Path) -> str:
    from urllib.parse import quote

    return quote(Path(os.path.relpath(os.path.abspath(path), output.absolute().parent)).as_posix())


def _bundle(
    subject: Subject,
    opened: OpenBundle,
    count: int,
    images: Sequence[NDArray[np.uint8]],
    profiles: tuple[Profile, ...],
    measured: Sequence[Profile],
) -> FoundBundle:
    remarks: list[str] = []
    pictures: tuple[Any, ...] = ()
    what = ""
    if count:
        try:
            names = [f"image {i + 1}" for i in range(len(images))]
            shown = show_examples(opened.folder, opened.manifest, count, images=images, names=names)
            pictures, what = shown.pictures, shown.what
            remarks += shown.remarks
        except EdgespaError as error:
            remarks.append(error.message)
    signed = f"{opened.signed.identity} ({opened.signed.key})" if opened.signed else ""
    return FoundBundle(
        subject.name,
        subject.link,
        manifest=opened.manifest,
        profiles=profiles,
        signed=signed or ("signed, not checked" if opened.is_signed else ""),
        packed=opened.packed,
        folder=opened.folder.name,
        examples=pictures,
        examples_of=what,
        remarks=tuple(remarks),
        layers=_layers(opened, measured),
    )


def _layers(opened: OpenBundle, profiles: Sequence[Profile]) -> dict[str, dict[str, NamedLayer]]:
    """What the operators are that profiles tell of: which module's weights they have, what they compute."""
    found: dict[str, dict[str, NamedLayer]] = {}
    variants = {each.name: each for each in opened.manifest.variants}
    results = [each for profile in profiles for each in profile.results if each.bundle == opened.folder.name]
    for result in results:
        variant = variants.get(result.variant)
        operators = next((each.operators for each in result.rounds if each.operators), None)
        if variant is None or variant.format != "onnx" or operators is None:
            continue
        exact = next((each for each in variants.values() if (each.format, each.precision) == ("onnx", "fp32")), None)
        plain = None if exact is None or exact is variant else opened.folder / exact.file
        rows = by_layer(operators, opened.folder / variant.file, None, plain)
        own = found.setdefault(variant.name, {})
        own.update(
            {each.name: NamedLayer(row.layer, row.macs, row.remark) for each, row in zip(operators, rows, strict=True)}
        )
    return found


def _task(subject: Subject, path: Path, trust: bool) -> FoundTask:
    task = Task.load(path)
    kept = {name: (int(mask.sum()), len(mask)) for name, mask in task.kept.items()}
    modules: Sequence[dict[str, Any]] = ()
    try:
        base = task.open_base(path.absolute().parent, trust=trust)
        modules = describe_modules(base, task.kept)
    except (EdgespaError, OSError) as error:
        if trust and not isinstance(error, UntrustedError):
            raise
    header = task.header.model_dump(mode="json")
    return FoundTask(subject.name, subject.link, path.stat().st_size, header, kept, modules)


def _log(subject: Subject, path: Path) -> FoundLog:
    text = plain_text(path, most=MOST_LOG_BYTES)
    events = []
    for line in text.splitlines()[:MOST_EVENTS]:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):  # the end of a line that a kill cut off
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            events.append(event)
    if not events:
        raise ConfigError(f"{path}: no training log", "it is what `edgespa adapt --log FILE` writes")
    return FoundLog(subject.name, subject.link, tuple(events))


def _document(subject: Subject, path: Path) -> tuple[str, Any]:
    """A JSON file, by what is in it."""
    if path.suffix != ".json":
        raise ConfigError(f"{path}: it is none of those that a report is made of", f"give {_KINDS}")
    try:
        values = json.loads(plain_text(path, most=MAX_PROFILE_BYTES))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: it is not JSON ({error})", f"give {_KINDS}") from error
    if (depth := read_depth(values)) is not None:
        return "depths", FoundDepth(subject.name, subject.link, depth)
    kind = values.get("format") if isinstance(values, dict) else None
    if kind == Details.FORMAT:
        return "evaluations", FoundEvaluation(subject.name, subject.link, Details.read(path))
    if kind == Health.FORMAT:
        return "healths", FoundHealth(subject.name, subject.link, Health.read(path))
    if kind == Search.FORMAT:
        return "searches", FoundSearch(subject.name, subject.link, Search.read(path))
    if kind == SweepRecord.FORMAT:
        return "sweeps", FoundSweep(subject.name, subject.link, SweepRecord.read(path))
    try:
        return "profiles", FoundProfile(subject.name, subject.link, Profile.model_validate(values))
    except ValidationError as error:
        raise ConfigError(f"{path}: it is none of those that a report is made of", f"give {_KINDS}") from error


def _images(spec: str, count: int, seed: int) -> list[NDArray[np.uint8]]:
    """Some images of a data set, more than are shown: those that files disagree on most are."""
    data = DataOptions(seed=seed, skip_bad=True).load(spec, labelled=False)
    if data.preprocessed:
        raise ConfigError(f"{data.name} gives tensors, and examples are pictures", "give images")
    data = data.limit(min(len(data), _CANDIDATES * min(count, MOST)), seed)
    found: list[NDArray[np.uint8]] = []
    size = 0
    for index in range(len(data)):
        image = data.image(index)
        size += image.nbytes
        if size > MOST_IMAGE_BYTES and found:
            break
        found.append(image)
    return found
