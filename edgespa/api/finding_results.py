"""What the public calls that find something out give; see `edgespa.api.results`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.results import Result
from edgespa.api.tables import Table
from edgespa.findings.stored import without_place

if TYPE_CHECKING:
    from edgespa.findings.dataset import DataSet, Health
    from edgespa.findings.evaluation import Column, Details, OfClass, Subject

_CLASSES, _CONFUSIONS, _WRONG, _BAD, _ALIKE = 40, 10, 10, 10, 10


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """What a model does on test data, by class and by sample.

    Attributes:
        details: All of it.
        saved: The file that it was written to; None where it was not.
    """

    details: Details
    saved: Path | None = None

    @classmethod
    def read(cls, path: str | Path) -> Evaluation:
        """From a file that `evaluate` wrote.

        Raises:
            ConfigError: It holds something else.
        """
        from edgespa.findings.evaluation import Details

        return cls(Details.read(Path(path)), Path(path))

    def to_dict(self) -> dict[str, Any]:
        """As `edgespa evaluate --json`, and as the file has it."""
        return self.details.model_dump(mode="json")

    def _title(self) -> str:
        found = self.details
        left = f", {found.left_out:,} left out" if found.left_out else ""
        return f"{found.model} on {found.count:,} samples of {found.data}{left}"

    def _tables(self) -> Sequence[Table]:
        first, *others = self.details.subjects
        by_class = self._side_by_side() if others else self._by_class(first)
        tables = (self._whole(), by_class, self._taken(first), self._wrong(first))
        return [each for each in tables if each is not None]

    def _side_by_side(self) -> Table | None:
        """One figure of each class, of all files."""
        found = self.details
        first = found.subjects[0]
        if not first.classes:
            return None
        column, chosen, shown = self._shown(first)
        rows = tuple(
            (
                found.class_name(each.index),
                each.count,
                *(column.figure(own.classes[each.index].figures.get(column.name)) for own in found.subjects),
            )
            for each in chosen
        )
        columns = ("class", found.counted, *(each.name for each in found.subjects))
        return Table(columns, rows, f"{shown}: {column.title}", right=columns[1:])

    def _shown(self, subject: Subject) -> tuple[Column, Sequence[OfClass], str]:
        """The figure that decides about classes, and those that are shown: of many the worst."""
        found = self.details
        by_recall = found.counted in ("images", "labels")
        column = next((each for each in found.columns if by_recall and each.name == "recall"), found.columns[0])
        if len(subject.classes) <= _CLASSES:
            return column, subject.classes, "by class"
        there = [each for each in subject.classes if each.figures.get(column.name) is not None]
        worst = sorted(there, key=lambda each: each.figures[column.name] or 0.0)[:_CLASSES]
        return column, worst, f"by class, the {len(worst)} worst of {len(subject.classes):,}"

    def _whole(self) -> Table:
        found = self.details
        titles = [each.title for each in found.measures]
        wrong = any(each.wrong_count is not None for each in found.subjects)
        rows = tuple(
            (
                each.name,
                *(column.figure(each.values.get(column.name)) for column in found.measures),
                *([each.wrong_count] if wrong else []),
                each.runtime,
            )
            for each in found.subjects
        )
        columns = ("file", *titles, *(["wrong"] if wrong else []), "runtime")
        return Table(columns, rows, right=columns[1:-1])

    def _of(self, subject: Subject, what: str) -> str:
        return f"{subject.name}: {what}" if len(self.details.subjects) > 1 else what

    def _by_class(self, subject: Subject) -> Table | None:
        found = self.details
        if not subject.classes:
            return None
        _, chosen, shown = self._shown(subject)
        rows = tuple(
            (
                found.class_name(each.index),
                each.count,
                each.said,
                *(column.figure(each.figures.get(column.name)) for column in found.columns),
            )
            for each in chosen
        )
        columns = ("class", found.counted, "said", *(each.title for each in found.columns))
        return Table(columns, rows, shown, right=columns[1:])

    def _taken(self, subject: Subject) -> Table | None:
        found = self.details
        if not subject.confusions:
            return None
        rows = tuple(
            (
                found.class_name(each.right),
                found.class_name(each.said),
                each.count,
                f"{each.count / max(1, subject.classes[each.right].count):.1%}",
            )
            for each in subject.confusions[:_CONFUSIONS]
        )
        total = len(subject.confusions) + subject.confusions_left_out
        title = "taken for another" + (f": the {len(rows)} most frequent of {total:,}" if total > len(rows) else "")
        return Table(
            ("is", "taken for", found.counted, "of the class"), rows, self._of(subject, title), ("of the class",)
        )

    def _wrong(self, subject: Subject) -> Table | None:
        found = self.details
        chosen = subject.wrong[:_WRONG]
        if not chosen:
            return None
        total = f" of {subject.wrong_count:,}" if subject.wrong_count is not None else ""
        if chosen[0].right is not None:
            rows: tuple[tuple[object, ...], ...] = tuple(
                (
                    each.file,
                    found.class_name(each.right),
                    found.class_name(each.said),
                    None if each.confidence is None else f"{each.confidence:.1%}",
                )
                for each in chosen
            )
            title = f"wrong, the surest {len(rows)}{total}"
            return Table(("file", "is", "said", "sure"), rows, self._of(subject, title), ("sure",))
        if chosen[0].missed is not None:
            rows = tuple((each.file, each.missed, each.false) for each in chosen)
            return Table(
                ("file", "not found", "not there"), rows, self._of(subject, f"most wrong, {len(rows)}{total} images")
            )
        column = found.by_sample
        rows = tuple((each.file, column.figure(each.value) if column else each.value) for each in chosen)
        name = column.title if column else "value"
        return Table(("file", name), rows, self._of(subject, f"the worst {len(rows)}{total}"), (name,))

    def _notes(self) -> Sequence[str]:
        others = self.details.subjects[1:]
        more = [f"of {', '.join(each.name for each in others)} likewise: in the JSON"] if others else []
        return more if self.saved is None else [*more, f"all of it: {self.saved}"]


@dataclasses.dataclass(frozen=True, repr=False)
class DataCheck(Result):
    """The health of data.

    Attributes:
        health: All that was found out.
        saved: The file that it was written to; None where it was not.
    """

    health: Health
    saved: Path | None = None

    @classmethod
    def read(cls, path: str | Path) -> DataCheck:
        """From a file that `check_data` wrote.

        Raises:
            ConfigError: It holds something else.
        """
        from edgespa.findings.dataset import Health

        return cls(Health.read(Path(path)), Path(path))

    @property
    def ok(self) -> bool:
        """Whether every file can be used."""
        return all(each.count == each.usable for each in self.health.sets)

    def to_dict(self) -> dict[str, Any]:
        """As `edgespa data --json`, and as the file has it."""
        return self.health.model_dump(mode="json")

    def _title(self) -> str:
        return ", ".join(f"{each.name}: {each.count:,} {_kind(each)}" for each in self.health.sets)

    def _tables(self) -> Sequence[Table]:
        sets = self.health.sets
        several = len(sets) > 1
        tables = []
        for each in sets:
            name = f"{each.name}: " if several else ""
            tables.append(Table(("", "least", "median", "most"), tuple(_sizes(each)), f"{name}sizes"))
            if each.classes:
                tables.append(_by_class(each, name))
            if each.unusable:
                bad = tuple((own.file, without_place(own.file, own.why)) for own in each.unusable[:_BAD])
                count = each.count - each.usable
                tables.append(Table(("file", "why"), bad, f"{name}{_first(len(bad), count)}"))
        groups = self.health.alike[:_ALIKE]
        if groups:
            differ = any(each.classes for each in groups)
            rows = tuple(
                (
                    "exact" if each.exact else "nearly",
                    each.count,
                    ", ".join(each.files[:2]) + (", ..." if each.count > 2 else ""),
                    *([", ".join(each.classes) or None] if differ else []),
                )
                for each in groups
            )
            copies = self.health.exact_copies + self.health.near_copies
            columns = ("same", "images", "files", *(["different classes"] if differ else []))
            tables.append(Table(columns, rows, f"the same picture more than once: {copies:,} copies"))
        return [each for each in tables if each.rows]

    def _notes(self) -> Sequence[str]:
        notes = []
        for each in self.health.remarks:
            notes.append(f"{each.level.upper()}: {each.text}" + (f"\n  {each.hint}" if each.hint else ""))
        return [*notes, *([] if self.saved is None else [f"all of it: {self.saved}"])]


def _kind(each: DataSet) -> str:
    size = f", all {each.sizes[0].width} x {each.sizes[0].height}" if each.sizes_count == 1 else ""
    return f"samples, {each.kind or 'nothing is known of them'}{size}"


def _sizes(each: DataSet) -> Sequence[tuple[object, ...]]:
    rows = (("width", each.width), ("height", each.height), ("width / height", each.ratio))
    known = [(name, own.least, own.median, own.most) for name, own in rows if own is not None]
    return known if each.sizes_count > 1 else []


def _by_class(each: DataSet, name: str) -> Table:
    chosen, title = each.classes, f"{name}classes"
    if len(chosen) > _CLASSES:
        chosen = tuple(sorted(chosen, key=lambda own: own.images)[:_CLASSES])
        title = f"{name}classes: the {len(chosen)} rarest of {len(each.classes):,}"
    objects, pixels = (any(getattr(own, what) is not None for own in chosen) for what in ("objects", "pixels"))
    total = sum(own.pixels or 0 for own in each.classes)
    rows = tuple(
        (
            own.name,
            own.images,
            *([own.objects] if objects else []),
            *([f"{(own.pixels or 0) / max(1, total):.2%}"] if pixels else []),
        )
        for own in chosen
    )
    columns = ("class", "images", *(["objects"] if objects else []), *(["of the area"] if pixels else []))
    return Table(columns, rows, title, ("of the area",))


def _first(shown: int, count: int) -> str:
    return f"files that cannot be used, {shown} of {count:,}" if count > shown else "files that cannot be used"
