"""The public call that ships into a folder which devices pull from. See `edgespa.api.verbs`."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.arguments import base_of, file_of, path_of, several, text_of, told
from edgespa.api.early import require_signers
from edgespa.api.results import Bundle, Result
from edgespa.api.shell import checked
from edgespa.api.tables import Table
from edgespa.api.task_results import TaskFile
from edgespa.errors import ConfigError
from edgespa.system.plain import to_plain

if TYPE_CHECKING:
    from edgespa.api.arguments import Model, Tell
    from edgespa.device.shipment.depot import Published

_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclasses.dataclass(frozen=True, repr=False)
class Publication(Result):
    """What a folder that devices pull from holds now.

    Attributes:
        published: See `edgespa.device.shipment.depot.Published`.
    """

    published: Published

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        plain: dict[str, Any] = to_plain(self.published)
        return plain

    def _title(self) -> str:
        found = self.published
        whose = f"signed with {found.signed}" if found.signed else "NOT SIGNED"
        return f"{found.folder}: serial {found.serial}, {whose}"

    def _tables(self) -> Sequence[Table]:
        rows = tuple(
            (
                each.task,
                f"{each.number}{' (downgrade)' if each.downgrade else ''}",
                ", ".join(each.groups) or "all",
                ", ".join(each.kinds) or "all",
            )
            for each in self.published.releases
        )
        return [Table(("task", "release", "groups", "kinds"), rows)] if rows else []

    def _notes(self) -> Sequence[str]:
        found = self.published
        notes = [f"withdrawn: {each.task}, release {each.number}" for each in found.withdrawn]
        sizes = f"{found.bytes_written:,} bytes written, {found.bytes_there:,} were there"
        return [*notes, sizes + (f", {found.bytes_removed:,} removed" if found.bytes_removed else "")]


def publish(
    source: str | Path | Bundle | TaskFile | Sequence[str | Path | Bundle | TaskFile] = (),
    *,
    to: str | Path,
    sign_key: str | Path | None = None,
    unsigned: bool = False,
    task: str | None = None,
    groups: Sequence[str] = (),
    kinds: Sequence[str] = (),
    downgrade: bool = False,
    keep: int = 3,
    remove: str | None = None,
    with_base: bool = False,
    base: Model | None = None,
    weights: str | Path | None = None,
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
    trust: bool = False,
    progress: Tell = None,
) -> Publication:
    """Ship bundles or tasks into a folder that devices pull from; any web server or object store serves it.

    Args:
        source: A bundle, as a folder or packed, or a task file; or what `export`, `adapt` and `prune` gave. Or several.
        to: The folder; it is made where it is not there.
        sign_key: Signs the index, and what is made of a task file, with this OpenSSH key.
        unsigned: The index is not signed: only devices that were set up so take it.
        task: Its name on devices; default: the bundle's.
        groups: For devices in one of them; default: all.
        kinds: For devices of one of them, ``pi-5``, say; default: all.
        downgrade: It is an older version, and devices are to go back to it.
        keep: Versions of a task that stay in the folder.
        remove: Instead of ``source``: a task that no device gets from now on; those that have it keep it.
        with_base: Of a task file: write its base too, where the folder lacks it.
        base: Of a task file: its base, if it is not where it was.
        weights: Of a task file: the weights of its base.
        signers: Who may have signed the bundles, and the index that is there; None: the index by ``sign_key`` alone.
        identity: Which of them.
        revoked: Keys that count no more.
        trust: The base that a task file names may be run if it is code.
        progress: See `edgespa.api.verbs`.

    Raises:
        ConfigError: It is not said who signs, or the folder holds other things.
        BundleError: A bundle is damaged.
        SignatureError: Somebody else has signed the index that is there.
    """
    require_signers(signers, identity, revoked)
    target = _folder(to)
    if (sign_key is None) != unsigned:
        raise ConfigError(
            "it is not said whether the index is signed" if sign_key is None else "the index is signed, or it is not",
            "sign it with an OpenSSH key: --sign KEY; or, for devices that take whatever comes: --unsigned",
        )
    sources = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    if bool(sources) == (remove is not None):
        raise ConfigError("nothing is to be shipped", "name a bundle or a task file, or a task to withdraw")
    if task is not None and len(sources) > 1:
        raise ConfigError("task names one task, and several are shipped", "ship them one by one")
    for name in (*several(groups), *several(kinds)):
        if not _GROUP.fullmatch(name):
            raise ConfigError(f"'{name}' cannot be a group or a kind", "use letters, digits, dots, dashes, underscores")
    paths, key = [path_of(each) for each in sources], file_of(sign_key)

    from edgespa.api.devices import refuse_twice
    from edgespa.api.shipping import TaskOptions, prepared
    from edgespa.bundle import Signer
    from edgespa.device.shipment.depot import INDEX_NAMESPACE, For
    from edgespa.device.shipment.depot import publish as published

    signer = None if key is None else Signer.open(key, INDEX_NAMESPACE)
    checked(*paths)
    own = next((each.given for each in sources if isinstance(each, TaskFile)), None)
    given = {"signers": file_of(signers), "identity": identity, "revoked": file_of(revoked)}
    with told("ship", progress) as report, contextlib.ExitStack() as stack:
        ready = []
        for path in paths:
            report(0, None, f"make {path.name} ready")
            options = TaskOptions(base_of(base, own), text_of(weights), key, trust=trust)
            if path.suffix != ".spa":
                options = dataclasses.replace(options, sign_key=None)
            ready.append(stack.enter_context(prepared(path, task=task, options=options, **given)))  # type: ignore[arg-type]
        refuse_twice([each.task for each in ready])
        found = published(
            target,
            ready,
            signer,
            whom=For(several(groups), several(kinds), downgrade),
            keep=keep,
            send_base=with_base,
            signers=file_of(signers),
            withdraw=remove,
            progress=lambda done, total: report(done, total, f"write into {target}"),
        )
    return Publication(found)


def _folder(to: str | Path) -> Path:
    text = str(to)
    if _REMOTE.match(text):
        raise ConfigError(
            f"{text}: edgespa writes a folder, and lets your own tools upload it",
            "ship into a folder, then upload its files/ first and its index.json last; docs/how-to/pull.md has "
            "commands for web servers and object stores",
        )
    found = file_of(to)
    assert found is not None
    return found
