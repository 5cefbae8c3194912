"""What push and pull do, once it is known that they can: which files, and with which card."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.bundle import MANIFEST, Approval, open_bundle
from edgespa.errors import ConfigError, RegistryError
from edgespa.registry.fetching import Source, fetch_bundle, fetch_task
from edgespa.registry.references import HubReference, Reference

if TYPE_CHECKING:
    from edgespa.api.registry_verbs import Pulled, Pushed
    from edgespa.registry.artifact import Artifact
    from edgespa.tasks.task import Header

Report = Callable[[int, int | None, str], Any]


@dataclasses.dataclass(frozen=True)
class Told:
    """What the user says of a push; see `edgespa.push`."""

    license: str | None
    base_model: str | None
    datasets: tuple[str, ...]
    public: bool
    plain_http: bool


def push_bundle(path: Path, reference: Reference, words: Told, report: Report) -> Pushed:
    """Put a bundle there; see `edgespa.push`."""
    report(0, None, f"checking {path.name}")
    with open_bundle(path) as opened:
        files = len(opened.manifest.files) + 1 + opened.is_signed
        size = sum(entry.size_bytes for entry in opened.manifest.files)
        if not isinstance(reference, HubReference):
            from edgespa.registry.artifact import bundle_artifact

            return _into_registry(bundle_artifact(opened), reference, "bundle", words, report, files, size)
        from edgespa.device.measure.saved import read_profiles
        from edgespa.exporting.card import whole_card
        from edgespa.registry.hub import files_of

        card = whole_card(
            opened.manifest,
            opened.classes,
            read_profiles(opened.folder),
            base_model=words.base_model,
            datasets=words.datasets,
        )
        contents = files_of(opened.folder, opened.manifest, card, signed=opened.is_signed)
        return _onto_hub(contents, reference, "bundle", opened.manifest.task, words, report)


def push_task(
    path: Path,
    reference: Reference,
    words: Told,
    report: Report,
    *,
    with_base: bool,
    base: tuple[str | None, str | None, bool],
) -> Pushed:
    """Put a task file there; ``base`` is a model spec, its weights, and whether code may be run for it."""
    from edgespa.registry.artifact import base_name, task_artifact
    from edgespa.tasks.task import Task

    task = Task.load(path)
    content = None
    if with_base:
        from edgespa.exporting.recipe import base_file

        report(0, None, "opening its base")
        spec, weights, trust = base
        content = base_file(task.find_base(path.absolute().parent, spec, weights, trust=trust))
    size = path.stat().st_size + (len(content) if content is not None else 0)
    if not isinstance(reference, HubReference):
        artifact = task_artifact(path.name, path, _facts(task.header), content, words.license)
        return _into_registry(artifact, reference, "task", words, report, len(artifact.layers), size)
    from edgespa.exporting.task_card import task_card

    name = base_name(content) if content is not None else None
    card = task_card(
        path.name,
        task.header,
        base=name,
        license=words.license,
        base_model=words.base_model,
        datasets=words.datasets,
    )
    contents: dict[str, Path | bytes] = {path.name: path, "README.md": card.encode()}
    if content is not None and name is not None:
        contents[name] = content
    return _onto_hub(contents, reference, "task", path.stem, words, report)


def _facts(header: Header) -> dict[str, Any]:
    image = header.preprocess is not None
    return {"created": header.created, "parameters": header.figures.parameters, "image": image}


def _into_registry(
    artifact: Artifact, reference: Reference, kind: str, words: Told, report: Report, files: int, size: int
) -> Pushed:
    from edgespa.api.registry_verbs import Pushed
    from edgespa.registry.oci import push_artifact

    assert not isinstance(reference, HubReference)
    done = push_artifact(
        artifact,
        reference,
        plain_http=words.plain_http,
        tell=lambda at, total, name: report(at, total, f"sending {name}"),
    )
    return Pushed(
        str(reference),
        kind,
        done.digest,
        files,
        size,
        sent=tuple(each for each in done.sent if each),
        mounted=tuple(each for each in done.mounted if each),
        sent_bytes=done.sent_bytes,
        requests=done.requests,
    )


def _onto_hub(
    contents: dict[str, Path | bytes], reference: HubReference, kind: str, name: str, words: Told, report: Report
) -> Pushed:
    from edgespa.api.registry_verbs import Pushed
    from edgespa.registry.hub import push_files

    report(0, None, f"sending {len(contents)} files")
    done = push_files(contents, reference, name=name, public=words.public)
    size = sum(len(each) if isinstance(each, bytes) else each.stat().st_size for each in contents.values())
    return Pushed(str(reference), kind, done.commit, len(contents), size, page=done.url, private=done.private)


def fetch(
    reference: Reference,
    folder: Path,
    approval: Approval,
    report: Report,
    *,
    with_base: bool,
    plain_http: bool,
    overwrite: bool,
) -> Pulled:
    """Fetch what lies there; see `edgespa.pull`."""
    from edgespa.api.registry_verbs import Pulled

    source: Source
    if isinstance(reference, HubReference):
        from edgespa.registry.hub import HubSource

        source = found = HubSource(reference)
        digest = found.commit
    else:
        from edgespa.registry.oci import RegistrySource

        source = there = RegistrySource(reference, plain_http=plain_http)
        digest = there.digest

    def tell(done: int, total: int, path: str) -> None:
        report(done, total, f"fetching {path}")

    if MANIFEST in set(source.paths()):
        if with_base:
            raise ConfigError(f"{reference} is a bundle: its base is no part of it", "leave out --with-base")
        manifest = fetch_bundle(source, folder, approval, overwrite=overwrite, tell=tell)
        signed = approval.signed
        return Pulled(
            str(reference),
            "bundle",
            folder,
            None,
            digest,
            len(manifest.files),
            sum(entry.size_bytes for entry in manifest.files),
            signed.identity if signed else None,
            approval.is_signed,
        )
    if approval.signers is not None:
        raise RegistryError(
            f"{reference} is a task file, which nobody signs", "leave out --signers, or have a signed bundle pushed"
        )
    from edgespa.tasks.task import Task

    def check(path: Path) -> None:
        Task.load(path)

    task, base = fetch_task(source, folder, check, with_base=with_base, overwrite=overwrite, tell=tell)
    size = task.size_bytes + (base.size_bytes if base is not None else 0)
    beside = folder / base.path if base is not None else None
    return Pulled(
        str(reference), "task", folder / task.path, beside, digest, 2 if base else 1, size, None, is_signed=False
    )
