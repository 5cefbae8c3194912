"""The public calls that put bundles and tasks on hubs and into registries, and fetch them. See `edgespa.api.verbs`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgespa.api.arguments import base_of, file_of, path_of, several, text_of, told
from edgespa.api.early import require_signers
from edgespa.api.results import Bundle, Result
from edgespa.api.shell import checked
from edgespa.api.task_results import TaskFile
from edgespa.errors import ConfigError

if TYPE_CHECKING:
    from edgespa.api.arguments import Model, Tell

_TASK_FILE = ".spa"


@dataclasses.dataclass(frozen=True, repr=False)
class Pushed(Result):
    """What was put on a hub or into a registry.

    Attributes:
        target: Where.
        kind: ``bundle`` or ``task``.
        digest: Of the artifact, ``sha256:...``; on a hub the commit.
        files: So many lie there.
        size_bytes: Of them.
        sent: Those that were sent, of a registry; None of a hub, which does not say.
        mounted: Those that the registry took over from another repository of its own.
        sent_bytes: In bodies of requests.
        requests: So many were made.
        page: On a hub.
        private: On a hub: not shown to everybody; None where it does not say, and of a registry.
    """

    target: str
    kind: str
    digest: str
    files: int
    size_bytes: int
    sent: tuple[str, ...] | None = None
    mounted: tuple[str, ...] | None = None
    sent_bytes: int | None = None
    requests: int | None = None
    page: str | None = None
    private: bool | None = None

    def _title(self) -> str:
        return f"{self.target}: {self.files} files, {self.size_bytes:,} bytes"

    def _notes(self) -> Sequence[str]:
        notes = [f"{'commit' if self.page else 'digest'}: {self.digest}"]
        if self.sent is not None and self.mounted is not None:
            there = self.files - len(self.sent) - len(self.mounted)
            notes.append(f"sent: {len(self.sent)} files, {self.sent_bytes or 0:,} bytes in {self.requests} requests")
            notes.append(f"there already: {there}, taken over from another repository there: {len(self.mounted)}")
        if self.page is not None:
            notes.append(f"page: {self.page}" + (" (private)" if self.private else ""))
        return notes


@dataclasses.dataclass(frozen=True, repr=False)
class Pulled(Result):
    """What was fetched from a hub or a registry.

    Attributes:
        source: From where.
        kind: ``bundle`` or ``task``.
        path: The bundle's folder, or the task file.
        base: The file with the tensors of the task's base; None where it was not asked for.
        digest: Of the artifact, ``sha256:...``; on a hub the commit.
        files: So many.
        size_bytes: Of them.
        signed_by: Who signed the bundle; None where that was not asked.
        is_signed: Whether there is a signature.
    """

    source: str
    kind: str
    path: Path
    base: Path | None
    digest: str
    files: int
    size_bytes: int
    signed_by: str | None
    is_signed: bool

    def _title(self) -> str:
        return f"{self.path}: {self.files} files, {self.size_bytes:,} bytes, from {self.source}"

    def _notes(self) -> Sequence[str]:
        notes = [f"digest: {self.digest}"]
        if self.base is not None:
            notes.append(f"base: {self.base}")
        return [*notes, *([f"signed by: {self.signed_by}"] if self.signed_by else [])]


def push(
    source: str | Path | Bundle | TaskFile,
    *,
    target: str,
    with_base: bool = False,
    base: Model | None = None,
    weights: str | Path | None = None,
    trust: bool = False,
    license: str | None = None,
    base_model: str | None = None,
    datasets: Sequence[str] = (),
    public: bool = False,
    plain_http: bool = False,
    progress: Tell = None,
) -> Pushed:
    """Put a bundle or a task file on a hub or into a registry; what lies there already is not sent again.

    Args:
        source: A bundle, as a folder or packed, or a task file; or what `export`, `adapt` and `prune` gave.
        target: ``hf://ORG/NAME[@BRANCH]`` or ``oci://HOST/NAME[:TAG]``.
        with_base: Of a task file: the tensors of its base beside it; all tasks on a base share that file.
        base: Of a task file: its base, if it is not where it was.
        weights: Of a task file: the weights of its base.
        trust: The base that a task file names may be run if it is code.
        license: Of a task file: the licence of its base's weights; a bundle says it.
        base_model: On the hub: the base, ``ORG/NAME`` there, for the card.
        datasets: On the hub: what it was trained on, likewise.
        public: On the hub: a repository that is made for it is shown to everybody.
        plain_http: Speak HTTP without TLS to the registry; with this machine itself that is done anyway.
        progress: See `edgespa.api.verbs`.

    Raises:
        ConfigError: The target cannot be one, or something does not go with it.
        BundleError: The bundle is damaged.
        TaskFileError: The task file is damaged, or its base is another.
        RegistryError: The hub or the registry cannot be reached, or refuses.
        MissingExtraError: The registry's client is not installed.
    """
    from edgespa.exporting.card_head import require_names
    from edgespa.registry.references import HubReference, parse_reference

    path, reference = path_of(source), parse_reference(target)
    is_task = path.suffix == _TASK_FILE
    on_hub = isinstance(reference, HubReference)
    if not is_task and (with_base or base is not None or weights is not None or license is not None):
        raise ConfigError(
            f"{path} is a bundle: with_base, base, weights and license are of task files",
            "leave them out; a bundle says its licence since its export (--license)",
        )
    if not with_base and (base is not None or weights is not None):
        raise ConfigError("base and weights say where a base is that is pushed too", "add with_base, or leave them out")
    names = several(datasets)
    if not on_hub and (base_model is not None or names or public):
        raise ConfigError("base_model, datasets and public are of hf://", "leave them out")
    if on_hub and plain_http:
        raise ConfigError("plain_http is of oci://", "leave it out; HF_ENDPOINT says where the hub is")
    require_names(base_model, names)
    _require_client(on_hub=on_hub)
    checked(path)
    from edgespa.api.registering import Told, push_bundle, push_task

    own = source.given if isinstance(source, TaskFile) else None
    words = Told(license, base_model, tuple(names), public=public, plain_http=plain_http)
    with told("push", progress) as report:
        if not is_task:
            return push_bundle(path, reference, words, report)
        return push_task(
            path, reference, words, report, with_base=with_base, base=(base_of(base, own), text_of(weights), trust)
        )


def pull(
    source: str,
    *,
    output: str | Path,
    with_base: bool = False,
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
    plain_http: bool = False,
    overwrite: bool = False,
    progress: Tell = None,
) -> Pulled:
    """Fetch a bundle or a task file from a hub or a registry; nothing of it is run.

    Sizes and digests are those of the bundle's manifest, and its signature is checked before any other file is fetched.

    Args:
        source: ``hf://ORG/NAME[@REVISION]``, ``oci://HOST/NAME[:TAG]`` or ``oci://HOST/NAME@sha256:DIGEST``.
        output: The folder of the bundle; or the one that a task file is put into, beside others.
        with_base: Of a task file: fetch the tensors of its base too, if they do not lie in that folder.
        signers: Who may have signed it; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        plain_http: Speak HTTP without TLS to the registry; with this machine itself that is done anyway.
        overwrite: Replace a bundle, or a task file of that name.
        progress: See `edgespa.api.verbs`.

    Raises:
        ConfigError: The source cannot be one.
        BundleError: Its manifest is not as edgespa writes it.
        TaskFileError: The task file is damaged.
        SignatureError: It is not signed by one of the signers.
        RegistryError: It cannot be reached, is not there, or a file is not what its manifest says.
        OutputExistsError: The output is there already.
    """
    from edgespa.registry.references import HubReference, parse_reference
    from edgespa.system.files import expanded, require_folder_possible

    require_signers(signers, identity, revoked)
    reference, folder = parse_reference(source), expanded(output)
    if isinstance(reference, HubReference) and plain_http:
        raise ConfigError("plain_http is of oci://", "leave it out; HF_ENDPOINT says where the hub is")
    require_folder_possible(folder)
    _require_client(on_hub=isinstance(reference, HubReference))
    checked()
    from edgespa.api.registering import fetch
    from edgespa.bundle import Approval

    approval = Approval(Path(source), file_of(signers), identity, file_of(revoked))
    with told("asking", progress) as report:
        return fetch(
            reference,
            folder,
            approval,
            report,
            with_base=with_base,
            plain_http=plain_http,
            overwrite=overwrite,
        )


def _require_client(*, on_hub: bool) -> None:
    """Say that the client library is not there, before anything is read."""
    if on_hub:
        from edgespa.registry.hub_transport import hub_api

        hub_api()
    else:
        from edgespa.registry.transport import require_oras

        require_oras()
