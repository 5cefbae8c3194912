"""The public call that makes many tasks over one base; see `edgespa.api.verbs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgespa.api.arguments import several, text_of, told
from edgespa.errors import ConfigError, OutputExistsError, UnfinishedError

if TYPE_CHECKING:
    from edgespa.api.arguments import Tell
    from edgespa.api.sweep_results import SweepResult


def sweep(
    file: str | Path,
    *,
    output: str | Path,
    jobs: int = 1,
    ray: str | None = None,
    again: str | Sequence[str] = (),
    dry_run: bool = False,
    trust: bool = False,
    progress: Tell = None,
) -> SweepResult:
    """Make many tasks over one base: a task file and a bundle for each, and what is missing or changed of them alone.

    The file has a table ``[base]``, one of ``[defaults]``, and ``[tasks.NAME]`` for each task: its data, and below it
    what `adapt` or `prune`, `export` and `profile` are told. The base is opened once in each process, exported once
    unpruned, and latency tables are made once. A task that fails stops no other. What was asked for is compared with
    what was done, by digests of data, settings and base: the same call again does what is left.

    Args:
        file: ``tasks.toml``; what it names begins at its folder.
        output: A folder: ``tasks/NAME.spa``, ``bundles/NAME``, ``base``, and ``sweep.json``, which says all of it.
        jobs: Processes at a time.
        ray: Use a Ray cluster in their place: ``auto``, ``local`` or ``HOST:PORT``. Its nodes see the same files.
        again: Names of tasks that are made anew, whatever was done.
        dry_run: Only look what there is to do, and why.
        trust: Code and devices that the file names were looked at, and may be used.
        progress: See `edgespa.api.verbs`.

    Returns:
        All tasks; what failed is in ``failed``.

    Raises:
        ConfigError: The file cannot be read, or says something that is not known or not allowed.
        DeviceError: There is no device of a name.
        ModelError: There is no such base.
        MissingExtraError: Ray is not installed.
        OutputExistsError: The folder is something else.
        UnfinishedError: A sweep is running there.
        UntrustedError: The file names code that was not used here before, or devices, and nobody has said ``trust``.
    """
    from edgespa.api.early import require_there
    from edgespa.api.held import held, is_running
    from edgespa.api.sweep_asked import require_harmless, require_settings
    from edgespa.api.sweep_file import read_sweep
    from edgespa.api.sweep_plan import base_of, measured_on, planned
    from edgespa.api.sweeping import Sweeping, save
    from edgespa.system.files import expanded, require_folder_possible, require_writable
    from edgespa.trials.contents import Contents
    from edgespa.trials.swept import RECORD
    from edgespa.workers import open_workers

    if jobs < 1:
        raise ConfigError(f"jobs must be at least 1, not {jobs}", "leave it out for 1")
    if ray is not None and jobs != 1:
        raise ConfigError("jobs and ray exclude each other: a cluster has its own cores", "leave one of them out")
    asked = read_sweep(expanded(file))
    anew = frozenset(several(again))
    if odd := sorted(anew - {each.name for each in asked.tasks}):
        raise ConfigError(f"{asked.path}: there is no task '{odd[0]}' to be made again", "name one of the file")
    folder = expanded(output).absolute()
    require_folder_possible(folder)
    _require_ours(folder)
    if folder.is_dir():
        require_writable(folder / RECORD)
    if is_running(folder):
        raise UnfinishedError(f"{folder}: a sweep is running there", "wait for it, or name another --output")
    contents = Contents(folder / "stages" / "contents.json")
    with told("sweep", progress) as report:
        plan = planned(asked, folder, contents, anew)
        running = Sweeping(asked, plan, base_of(asked, contents), folder, report)
        todo = [each.name for each in plan if each.why]
        if todo:
            names = [name for name in todo if name is not None]
            require_there(model=str(asked.base["model"]), weights=text_of(asked.base.get("weights")))
            require_settings(asked, names)
            if dry_run:
                return running.result(dry=True, now=plan)
            if not trust:
                require_harmless(asked, names)
        if dry_run:
            return running.result(dry=True, now=plan)
        (folder / "stages").mkdir(parents=True, exist_ok=True)
        with held(folder):
            contents.save()
            save(running.result(now=plan))
            try:
                if todo:
                    with open_workers(jobs=jobs, ray=ray, devices=tuple(measured_on(asked))) as workers:
                        running.run(workers)
            finally:
                found = running.result(now=planned(asked, folder, contents, frozenset()))
                save(found)
    return found


def _require_ours(folder: Path) -> None:
    """Refuse a folder that is something else.

    Raises:
        OutputExistsError: It is.
    """
    from edgespa.api.held import MARK
    from edgespa.trials.swept import RECORD

    if not folder.is_dir() or (folder / RECORD).is_file():
        return
    if any(each.name not in (MARK, "stages") for each in folder.iterdir()):
        raise OutputExistsError(folder, ", and is no sweep", "name another folder, or an empty one")
