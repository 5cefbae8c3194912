"""The health of data: what is in a data set, what cannot be used, what is there twice, what may mislead."""

from __future__ import annotations

from collections.abc import Sequence

from edgespa.findings.dataset import DataSet, Health, Listed
from edgespa.reports.page.charts import colour, figure, said, short
from edgespa.reports.page.found import Found
from edgespa.reports.page.parts import Cell, Chart, Piece, Section, Table, Tiles, Words, cell

MOST_BARS = 80
_MARKS = {"error": "bad", "warning": "doubt", "note": ""}


def health(found: Found) -> Section:
    """Of each look at data."""
    pieces: list[Piece] = []
    for each in found.healths:
        told = each.health
        for data in told.sets:
            pieces.append(_tiles(each.name, data))
        for level, mark in _MARKS.items():
            lines = [
                f"{remark.text}{': ' + remark.hint if remark.hint else ''}"
                for remark in told.remarks
                if remark.level == level
            ]
            if lines:
                pieces.append(Words(lines, mark))
        for data in told.sets:
            pieces += _charts(data)
            if data.unusable:
                rows = [[Cell(one.file), Cell(one.why)] for one in data.unusable]
                pieces.append(Table(("file", "why"), rows, f"{data.name}: files that cannot be used"))
        if told.alike:
            pieces.append(_alike(told))
    return Section("data", "Data", pieces, "What a look at the data found." if pieces else "")


def _tiles(name: str, data: DataSet) -> Tiles:
    bad = data.count - data.usable
    tiles = [
        ("images", f"{data.count:,}", "", ""),
        ("cannot be used", f"{bad:,}", "", "bad" if bad else "good"),
        ("classes", f"{len(data.classes):,}", "", ""),
        *((words, f"{listed.count:,}", "", "doubt") for words, listed in _listed(data)),
    ]
    return Tiles(tiles, f"{name}: {data.name}")


def _listed(data: DataSet) -> Sequence[tuple[str, Listed]]:
    pairs = (
        ("stored turned", data.turned),
        ("without colours", data.grey),
        ("transparent", data.transparent),
        ("smaller than the input", data.smaller),
        ("no images", data.no_images),
        *((("without an object", data.boxes.empty), ("with tiny boxes", data.boxes.tiny)) if data.boxes else ()),
        *((("all ignored", data.masks.all_ignored),) if data.masks else ()),
    )
    return [(words, listed) for words, listed in pairs if listed.count]


def _charts(data: DataSet) -> list[Chart]:
    import plotly.graph_objects as go

    charts = []
    if data.classes:
        shown = data.classes[:MOST_BARS]
        bars = go.Bar(
            x=[short(each.name, 24) for each in shown],
            y=[each.images for each in shown],
            marker={"color": colour(0)},
            hovertext=[
                said(
                    each.name,
                    f"{each.images:,} images",
                    "" if each.objects is None else f"{each.objects:,} objects",
                    "" if each.pixels is None else f"{each.pixels:,} pixels",
                )
                for each in shown
            ],
            hoverinfo="text",
        )
        more = f" (the first {MOST_BARS} of {len(data.classes)})" if len(data.classes) > MOST_BARS else ""
        layout = {"xaxis": {"type": "category"}, "yaxis": {"title": "images", "rangemode": "tozero"}}
        charts.append(Chart(figure([bars], **layout), f"{data.name}: images of each class{more}", 320))
    if data.sizes:
        largest = max(each.images for each in data.sizes)
        points = go.Scatter(
            x=[each.width for each in data.sizes],
            y=[each.height for each in data.sizes],
            mode="markers",
            marker={
                "size": [7 + 25 * (each.images / largest) ** 0.5 for each in data.sizes],
                "color": colour(2),
                "opacity": 0.7,
            },
            hovertext=[said(f"{each.width} × {each.height}", f"{each.images:,} images") for each in data.sizes],
            hoverinfo="text",
        )
        layout = {
            "xaxis": {"title": "width", "rangemode": "tozero"},
            "yaxis": {"title": "height", "rangemode": "tozero"},
        }
        caption = f"{data.name}: sizes of images; {data.sizes_count:,} in all, the most frequent are shown"
        charts.append(Chart(figure([points], **layout), caption, 320))
    return charts


def _alike(told: Health) -> Table:
    rows = [
        [
            cell(each.count),
            Cell("equal" if each.exact else "nearly"),
            Cell("both sets", mark="bad") if len(each.sets) > 1 else Cell("one set"),
            Cell(", ".join(each.classes), mark="bad") if each.classes else cell(None),
            Cell(", ".join(each.files)),
        ]
        for each in told.alike
    ]
    counts = f"{told.exact_copies:,} equal copies, {told.near_copies:,} nearly, {told.shared:,} in both sets"
    return Table(
        ("copies", "how", "where", "classes that differ", "files"), rows, f"The same picture: {counts}", ("copies",)
    )
