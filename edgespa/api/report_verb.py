"""The public call that makes a page; see `edgespa.api.verbs`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgespa.api.arguments import data_if_any, file_of, path_of, told
from edgespa.api.early import require_signers
from edgespa.api.results import Bundle, Result
from edgespa.api.shell import checked
from edgespa.api.task_results import TaskFile
from edgespa.errors import ConfigError

if TYPE_CHECKING:
    from edgespa.api.arguments import Data, Tell


@dataclasses.dataclass(frozen=True, repr=False)
class Report(Result):
    """A page that was written.

    Attributes:
        path: The file.
        size_bytes: Of it.
        sections: Titles of what is in it.
        counts: How many things of each kind it shows, by the keys of `WORDS`.
        notes: What was there and is not shown, and why.
    """

    path: Path
    size_bytes: int
    sections: tuple[str, ...]
    counts: dict[str, int]
    notes: tuple[str, ...]

    @property
    def shows(self) -> str:
        """What is in it, counted in words."""
        return _counted(self.counts)

    def _title(self) -> str:
        return f"{self.path}: {self.shows}; {self.size_bytes / 1e6:.1f} MB"

    def _notes(self) -> Sequence[str]:
        return [f"sections: {', '.join(self.sections)}", *(f"not shown: {each}" for each in self.notes)]


def report(
    paths: str | Path | Bundle | TaskFile | Sequence[str | Path | Bundle | TaskFile],
    *,
    output: str | Path,
    title: str | None = None,
    examples: int = 8,
    images: Data | None = None,
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
    trust: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    progress: Tell = None,
) -> Report:
    """Make one page of bundles, tasks, profiles, recipes and training logs: an HTML file that needs nothing else.

    Args:
        paths: Any mix of bundles (folders or packed), task files, profiles (JSON), recipes (TOML), training logs
            (JSON lines) and embeddings of ``prune --method sls --plot FILE.json``; a folder that is no bundle stands
            for what lies in it.
        output: The page.
        title: Its heading; default: what it is about.
        examples: Inputs of each bundle to show with what its files say of them, at most 24; 0 runs nothing.
        images: A data set to show them on; None for the inputs that bundles recorded.
        signers: Who may have signed the bundles; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        trust: Bases that task files name may be run if they are code, to tell what their layers cost.
        seed: Of the choice among ``images``.
        overwrite: Replace a page that is there.
        progress: See `edgespa.api.verbs`.

    Raises:
        MissingExtraError: plotly is not installed.
        EdgespaError: Something that was named cannot be read, is damaged, or is not signed as asked.
    """
    from edgespa.reports.examples import MOST
    from edgespa.reports.page.charts import require_plotly
    from edgespa.system.files import expanded, refuse_existing, require_writable, write_whole

    require_signers(signers, identity, revoked)
    if not 0 <= examples <= MOST:
        raise ConfigError(f"{examples} examples: there may be 0 to {MOST}", "give a number in between")
    target = expanded(output)
    refuse_existing(target, overwrite)
    require_writable(target)
    require_plotly()
    checked()
    from edgespa.api.reporting import gather
    from edgespa.reports.report import report_page, report_sections

    given = [paths] if isinstance(paths, str | Path | Bundle | TaskFile) else list(paths)
    places = [each.path if isinstance(each, TaskFile) else path_of(each) for each in given]
    with told("report", progress) as tell:
        found = gather(
            [Path(each) for each in places],
            target,
            examples=examples,
            images=data_if_any(images),
            signers=file_of(signers),
            identity=identity,
            revoked=file_of(revoked),
            trust=trust,
            seed=seed,
            progress=tell,
        )
        sections = report_sections(found)
        counts = {kind: len(getattr(found, kind)) for kind in WORDS}
        names = [each.name for each in found.bundles or found.tasks] or [Path(places[0]).name]
        few = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        content = report_page(found, title or few, _subtitle(counts), sections).encode()
        write_whole(target, content)
    return Report(target, len(content), tuple(each.title for each in sections), counts, found.notes)


WORDS = {
    "bundles": "bundle", "tasks": "task", "profiles": "profile", "logs": "training log", "recipes": "recipe",
    "depths": "embedding", "evaluations": "evaluation", "healths": "data check", "searches": "search",
    "sweeps": "sweep",
}  # fmt: skip
"""What a page may be made of: the name of the list in `edgespa.reports.page.found.Found`, and one of it in words."""


def _plural(word: str, count: int) -> str:
    return "" if count == 1 else "es" if word.endswith("ch") else "s"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {WORDS[kind]}{_plural(WORDS[kind], count)}" for kind, count in counts.items() if count)


def _subtitle(counts: dict[str, int]) -> str:
    from datetime import UTC, datetime

    return f"edgespa report of {_counted(counts)}; {datetime.now(UTC).isoformat(sep=' ', timespec='minutes')[:16]} UTC"
