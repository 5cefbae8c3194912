"""What the public calls give: values that do not change, and that show themselves as text, Markdown or HTML."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.tables import Table
from edgespa.system.plain import to_plain

if TYPE_CHECKING:
    from edgespa.bundle import Manifest, Quality
    from edgespa.device.measure.quality import DeviceQuality
    from edgespa.device.measure.results import Check
    from edgespa.device.measure.results import Profile as Measured
    from edgespa.errors import EdgespaError
    from edgespa.exporting.layer_errors import LayerError
    from edgespa.tasks.base import Base


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """What all results have in common."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, as JSON has them: what the command gives with ``--json``."""
        return {field.name: to_plain(getattr(self, field.name)) for field in dataclasses.fields(self) if field.repr}

    def to_markdown(self) -> str:
        """A heading, the tables, and what there is to say about them."""
        parts = [f"### {self._title()}", *(table.markdown() for table in self._tables())]
        return "\n\n".join([*parts, *self._notes()]) + "\n"

    def parts(self) -> tuple[str, Sequence[Table], Sequence[str]]:
        """What it says, for whoever lays it out: a heading, the tables, and what there is to say about them."""
        return self._title(), self._tables(), self._notes()

    def __repr__(self) -> str:
        return "\n".join([self._title(), *(table.text() for table in self._tables()), *self._notes()])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self._notes())
        return f"<p><b>{html.escape(self._title())}</b></p>{''.join(t.to_html() for t in self._tables())}{notes}"

    def _title(self) -> str:
        raise NotImplementedError

    def _tables(self) -> Sequence[Table]:
        return ()

    def _notes(self) -> Sequence[str]:
        return ()


@dataclasses.dataclass(frozen=True, repr=False)
class Inspection(Result):
    """What can be removed from a model, and what cannot and why.

    Attributes:
        model: How it was named.
        parameters: Of the model.
        macs: Multiply-accumulates of one sample.
        size_bytes: Of its tensors.
        channels: Output channels of weights, those that are outputs of the network aside.
        removable_channels: Those of them that can go.
        details: All of it, as `edgespa inspect --json` gives it: groups, slots, blocks, layers, what is fixed.
        base: The traced model.
    """

    model: str
    parameters: int
    macs: int
    size_bytes: int
    channels: int
    removable_channels: int
    details: Mapping[str, Any]
    base: Base = dataclasses.field(repr=False)

    @classmethod
    def of(cls, details: Mapping[str, Any], base: Base) -> Inspection:
        """From what `edgespa.tasks.inspection` says of a model.

        Args:
            details: The values.
            base: The model.
        """
        totals, prunable = details["totals"], details["prunable"]
        return cls(
            str(details["model"]),
            totals["parameters"],
            totals["macs"],
            totals["size_bytes"],
            prunable["all_channels"],
            prunable["channels"],
            details,
            base,
        )

    @property
    def groups(self) -> tuple[Mapping[str, Any], ...]:
        """The channel groups: ``name``, ``units``, ``parameters``, ``macs``, ``slots``."""
        return tuple(self.details["groups"])

    def to_svg(self) -> str:
        """A drawing of the channel groups over the module tree, as `edgespa inspect --svg` writes it."""
        from edgespa.reports.groups_svg import draw_groups

        return draw_groups(dict(self.details))

    def to_html(self) -> str:
        """A page of the module tree, foldable, with the drawing: as `edgespa inspect --html` writes it."""
        from edgespa.reports.inspection import inspection_page

        return inspection_page(self.details, self.to_svg())

    def to_dict(self) -> dict[str, Any]:
        """As `edgespa inspect --json`."""
        plain: dict[str, Any] = to_plain(self.details)
        return plain

    def _title(self) -> str:
        return f"{self.model}: {self.parameters:,} parameters, {self.macs / 1e6:,.1f}M MACs"

    def _tables(self) -> Sequence[Table]:
        rows = tuple(
            (each["name"], each["units"], len(each["slots"]), each["parameters"], f"{each['macs'] / 1e6:,.1f}M")
            for each in self.groups
        )
        return [Table(("group", "units", "slots", "parameters", "MACs"), rows, "channel groups", ("MACs",))]

    def _notes(self) -> Sequence[str]:
        share = self.removable_channels / self.channels if self.channels else 0.0
        return [f"can go: {self.removable_channels:,} of {self.channels:,} channels ({share:.1%})"]


@dataclasses.dataclass(frozen=True, repr=False)
class Bundle(Result):
    """A bundle: files that were proved to compute what the program computes.

    Attributes:
        path: Its folder, or the packed file.
        manifest: What is in it.
        signed_by: Who signed it, where that was asked and is so.
    """

    path: Path
    manifest: Manifest
    signed_by: str | None = None

    @property
    def left_out(self) -> tuple[Mapping[str, Any], ...]:
        """Files that were asked for and are not there: ``variant``, ``reason``, ``hint``."""
        found = self.manifest.provenance.get("left_out")
        return tuple(each for each in found if isinstance(each, dict)) if isinstance(found, list) else ()

    def to_dict(self) -> dict[str, Any]:
        """As `edgespa export --json`."""
        plain: dict[str, Any] = to_plain(self.manifest)
        return plain

    def _title(self) -> str:
        return f"{self.path}: {self.manifest.task}"

    def _tables(self) -> Sequence[Table]:
        variants = self.manifest.variants
        agreed = next((each.agreement for each in variants if each.agreement), None)
        title = [self.manifest.measure.title] if any(each.accuracy for each in variants) else []
        same = ["same signs" if agreed.what == "signs" else "same top"] if agreed else []
        rows = tuple(
            (
                each.name,
                each.size_bytes,
                *([each.accuracy.figure if each.accuracy else None] if title else []),
                None if each.parity.component_error is None else f"{each.parity.component_error:.1e}",
                None if each.parity.correlation is None else f"{each.parity.correlation:.5f}",
                *([None if each.agreement is None else f"{each.agreement.value:.1%}"] if same else []),
            )
            for each in variants
        )
        columns = ("variant", "bytes", *title, "error", "correlation", *same)
        return [Table(columns, rows, right=columns[1:])]

    def _notes(self) -> Sequence[str]:
        parity = self.manifest.variants[0].parity
        notes = [f"error, against its own spread, and correlation: of the worst component, on {parity.inputs}"]
        return [*notes, *(f"NOT WRITTEN: {each['variant']}: {each['reason']}" for each in self.left_out)]


@dataclasses.dataclass(frozen=True, repr=False)
class Verification(Result):
    """What was checked of a bundle.

    Attributes:
        bundle: Its folder, or the packed file.
        task: Of the manifest.
        files: How many are as the manifest says; all, or there is no result.
        size_bytes: Of them.
        signature: ``status`` (good, not checked, absent), ``identity``, ``key``.
        own_runner: Whether its ``run.py`` is that of this edgespa.
        run: Whether the files were run.
        variants: One check for each file and runtime.
        recorded: How well each file does by the objective's measure, by the name of its variant, as the manifest says;
            empty where nothing was measured when the bundle was made.
        layers: How far each layer of a smaller file is from the float32 file of its format, by the name of its variant;
            empty where that was not asked for.
        passed: All that ran are right, and some did; or nothing was to be run.
        there: How well each file answers a data set on a device; None where that was not asked.
    """

    bundle: str
    task: str
    files: int
    size_bytes: int
    signature: Mapping[str, str | None]
    own_runner: bool
    run: bool
    variants: tuple[Check, ...]
    recorded: Mapping[str, Quality]
    layers: Mapping[str, tuple[LayerError, ...]]
    passed: bool
    there: DeviceQuality | None = None

    def _title(self) -> str:
        return f"{self.bundle}: {self.files} files as in the manifest, {'passed' if self.passed else 'NOT PASSED'}"

    def _tables(self) -> Sequence[Table]:
        known = self.recorded
        title = tuple({each.of.title: None for each in known.values()})[:1]
        rows = tuple(
            (
                each.name,
                each.status,
                each.runtime,
                None if each.component_error is None else f"{each.component_error:.1e}",
                None if each.correlation is None else f"{each.correlation:.5f}",
                each.count,
                *([] if not title else [known[each.name].figure if each.name in known else None]),
            )
            for each in self.variants
        )
        columns = ("variant", "check", "runtime", "error", "correlation", "samples", *title)
        tables = [Table(columns, rows, right=columns[3:])] if rows else []
        return [*tables, *([] if self.there is None else [quality_table(self.there)])]

    def _notes(self) -> Sequence[str]:
        return [f"{each.name}: {'; '.join(each.failures)}" for each in self.variants if each.status != "passed"]


def quality_table(there: DeviceQuality) -> Table:
    """What each file measures on a device, and here.

    Args:
        there: What was measured.
    """
    rows: list[tuple[object, ...]] = []
    for each in there.rows:
        for place, runtime, values in (
            (there.device, each.runtime, each.values),
            ("here", each.runtime_here, each.here),
        ):
            figures = [column.figure((values or {}).get(column.name)) for column in there.measures]
            rows.append((each.variant if place != "here" else "", place, runtime, *figures))
    columns = ("variant", "on", "runtime", *(column.title for column in there.measures))
    title = f"{there.count:,} samples of {there.data}"
    return Table(columns, tuple(rows), title, right=columns[3:])


@dataclasses.dataclass(frozen=True, repr=False)
class Profile(Result):
    """What a bundle's files cost where they ran.

    Attributes:
        bundle: Its folder.
        measured: What was measured, in full.
        saved: Where it was written; None where it was not.
        unsaved: Why it could not be written. The measurements are kept: the same call saves them, and measures nothing.
    """

    bundle: Path
    measured: Measured
    saved: Path | None = None
    unsaved: EdgespaError | None = dataclasses.field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As `edgespa profile --json`."""
        plain: dict[str, Any] = to_plain(self.measured)
        return plain

    def _title(self) -> str:
        emulated = " (EMULATED)" if self.measured.emulated else ""
        return f"{self.measured.bundle} on {self.measured.device}{emulated}: ms of one inference, batch 1"

    def _tables(self) -> Sequence[Table]:
        rows = tuple(
            (each.bundle, each.variant, each.threads, each.p50_ms, each.p90_ms, each.peak_kib, each.clean)
            for each in self.measured.results
        )
        columns = ("bundle", "variant", "threads", "p50", "p90", "peak KiB", "clean")
        ratios = tuple((each.variant, each.threads, each.ratio, each.low, each.high) for each in self.measured.ratios)
        tables = [Table(columns, rows)]
        if ratios:
            title = f"p50 of {self.measured.bundle} / p50 of {self.measured.against}"
            tables.append(Table(("variant", "threads", "ratio", "lowest round", "highest round"), ratios, title))
        return tables

    def _notes(self) -> Sequence[str]:
        doubts = [f"{each.variant}: {what}" for each in self.measured.results for what in each.doubts]
        if self.unsaved is not None:
            doubts.append(f"NOT SAVED: {self.unsaved.message}")
        return [*doubts, *(f"not measured: {each.variant}: {each.reason}" for each in self.measured.skipped)]
