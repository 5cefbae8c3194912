"""What the user names for shipping, made ready: bundles as they are, task files as bundles without their base."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgespa.bundle import SIGNATURE, Signer, open_bundle
from edgespa.device.shipment.ship import Shipment
from edgespa.errors import ConfigError
from edgespa.system.guarded import private_folder

_TASK_FILE = ".spa"


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """How the bundle of a task file is made.

    Attributes:
        base: Its base, if it is not where it was.
        weights: The base's weight file.
        sign_key: An OpenSSH key to sign it with.
        onnx_runtime: The oldest ONNX Runtime that is to load it.
        trust: The base that it names may be run if it is code.
    """

    base: str | None = None
    weights: str | None = None
    sign_key: Path | None = None
    onnx_runtime: str | None = None
    trust: bool = False


@contextlib.contextmanager
def prepared(
    source: Path,
    *,
    task: str | None = None,
    signers: Path | None = None,
    identity: str | None = None,
    revoked: Path | None = None,
    options: TaskOptions | None = None,
) -> Iterator[Shipment]:
    """A shipment of a bundle (a folder or a packed file) or of a task file, as long as the block runs.

    Args:
        source: What the user named.
        task: The task's name on devices; by default what the bundle, or the name of the task file, says.
        signers: Who may have signed it.
        identity: Which of them.
        revoked: Keys that are not accepted any more.
        options: For task files.

    Raises:
        BundleError: The bundle is damaged, or there is none.
        SignatureError: It is not signed by one of the signers.
        TaskFileError: The task file is damaged, or was made on another base.
        ConfigError: Options do not go with what was named.
    """
    options = options or TaskOptions()
    if source.suffix != _TASK_FILE:
        if dataclasses.replace(options, onnx_runtime=None, trust=False) != TaskOptions():
            raise ConfigError(
                f"{source} is a bundle: --base, --weights and --sign are for task files",
                "leave them out; a bundle is signed by: edgespa sign",
            )
        with open_bundle(source, signers=signers, identity=identity, revoked=revoked) as opened:
            yield Shipment.of(opened, task=task, signers=signers)
        return
    with private_folder() as place:
        folder, base_file = _bundle_of(source, options, place)
        if signers is not None and not (folder / SIGNATURE).is_file():
            raise ConfigError(f"{source} is not signed", "sign what is shipped with --sign KEY")
        with open_bundle(folder, signers=signers, identity=identity, revoked=revoked) as opened:
            yield Shipment.of(opened, task=task, signers=signers, base=base_file)


def needed_bases(sources: Sequence[Path]) -> dict[str, str]:
    """Of the task files among what the user named: name of the task -> digest of the base that it needs on a device.

    Args:
        sources: What the user named.

    Raises:
        TaskFileError: A task file is damaged, or there is none.
    """
    files = [each for each in sources if each.suffix == _TASK_FILE]
    if not files:  # nothing else here needs torch, whose import takes seconds
        return {}
    from edgespa.tasks.task import Task

    return {each.stem: Task.load(each).header.digest for each in files}


def _bundle_of(source: Path, options: TaskOptions, place: Path) -> tuple[Path, Path]:
    """The bundle of a task file, and the file of its base."""
    from edgespa.api.bundles import origin_of_task
    from edgespa.exporting.converter import Form
    from edgespa.exporting.recipe import base_file
    from edgespa.exporting.task_bundle import write_task_bundle
    from edgespa.exporting.versions import DEFAULT, target_of
    from edgespa.tasks.task import Task

    signer = Signer.open(options.sign_key) if options.sign_key is not None else None
    target = target_of(options.onnx_runtime) if options.onnx_runtime is not None else DEFAULT
    task = Task.load(source)
    base = task.find_base(source.absolute().parent, options.base, options.weights, trust=options.trust)
    file = place / "base"
    file.write_bytes(base_file(base))
    fitted = task.fit(base)
    program, origin = origin_of_task(task, fitted, source)
    folder = place / "bundle"
    write_task_bundle(source, task, fitted, file, program, origin, folder, form=Form(target), sign=signer)
    return folder, file
