"""What models get wrong on test data: by class, what is taken for what, and which samples."""

from __future__ import annotations

from collections.abc import Sequence

from edgespa.findings.evaluation import OVERLAP, SURE, Details, Subject, Wrong
from edgespa.reports.page.charts import colour, figure, said, short
from edgespa.reports.page.found import Found
from edgespa.reports.page.parts import Cell, Chart, Piece, Section, Table, cell, number_cell

MOST_IN_MATRIX = 60
MOST_BARS = 60
MOST_MATRICES = 4
MOST_CONFUSIONS = 50
_ONE_EACH = ("images", "pixels", "objects")
"""What has one class, which is taken for one other; of labels several may be."""


def answers(found: Found) -> Section:
    """Of each evaluation."""
    pieces: list[Piece] = []
    for each in found.evaluations:
        details = each.details
        pieces.append(_measures(each.name, details))
        matrices = [subject for subject in details.subjects if subject.classes and details.counted in _ONE_EACH]
        for subject in matrices[:MOST_MATRICES]:
            if len(details.class_names) <= MOST_IN_MATRIX:
                pieces.append(_matrix(details, subject))
        if any(subject.classes for subject in details.subjects) and details.columns:
            pieces.append(_by_class(details))
            pieces.append(_class_table(details))
        pieces += [_confusions(details, subject) for subject in details.subjects if subject.confusions]
        pieces += [_wrong(details, subject) for subject in details.subjects if subject.wrong]
    intro = "Measured by evaluate: by class, what is taken for what, and the samples that are wrong."
    return Section("answers", "Right and wrong answers", pieces, intro if pieces else "")


def _measures(name: str, details: Details) -> Table:
    rows = [
        [
            Cell(subject.name),
            cell(subject.runtime),
            *(
                Cell(each.figure(subject.values.get(each.name)), subject.values.get(each.name, ""))
                for each in details.measures
            ),
            cell(subject.wrong_count),
        ]
        for subject in details.subjects
    ]
    titles = [each.title for each in details.measures]
    out = f", {details.left_out} files left out" if details.left_out else ""
    caption = f"{name}: {details.model} on {details.data}, {details.count:,} samples{out}"
    return Table(("file", "runtime", *titles, "wrong"), rows, caption, (*titles, "wrong"))


def matrix_of(details: Details, subject: Subject) -> list[list[int]]:
    """How often each class (row) is taken for each (column).

    Of objects there is a row more, boxes where no object is, and a column more, objects that are not found.
    """
    count = len(details.class_names)
    objects = details.counted == "objects"
    matrix = [[0] * (count + objects) for _ in range(count + objects)]
    for each in subject.confusions:
        matrix[each.right][each.said] += each.count
    for one in subject.classes:
        taken = sum(matrix[one.index])
        matrix[one.index][one.index] = max(0, one.count - taken) if one.both is None else one.both
        if objects:
            matrix[one.index][count] = max(0, one.count - sum(matrix[one.index]))
    for one in subject.classes if objects else ():
        matrix[count][one.index] = max(0, one.said - sum(row[one.index] for row in matrix))
    return matrix


def _matrix(details: Details, subject: Subject) -> Chart:
    import plotly.graph_objects as go

    names = [f"{i} {short(name, 18)}" if name != str(i) else name for i, name in enumerate(details.class_names)]
    matrix = matrix_of(details, subject)
    said_names, right_names = [*names], [*names]
    if details.counted == "objects":
        said_names.append("(not found)")
        right_names.append("(nothing there)")
    shares = [[value / (sum(row) or 1) for value in row] for row in matrix]
    size = range(len(matrix))
    hover = [[_taken(details, matrix, i, j) for j in size] for i in size]
    few = len(names) <= 20
    texts = [[str(value or "") for value in row] for row in matrix]
    if details.counted == "pixels":  # of millions, shares are what can be read
        texts = [[f"{share:.1%}" if share else "" for share in row] for row in shares]
    traces = [
        go.Heatmap(
            z=shares,
            x=said_names,
            y=right_names,
            zmin=0,
            zmax=1,
            colorscale=[[0, "rgba(0,114,178,0.03)"], [0.02, "rgba(0,114,178,0.2)"], [1, "rgba(0,114,178,0.75)"]],
            text=texts if few else None,
            texttemplate="%{text}" if few else None,
            hovertext=hover,
            hoverinfo="text",
            showscale=False,
            xgap=1,
            ygap=1,
        )
    ]
    layout = {
        "xaxis": {"title": "said", "type": "category", "showgrid": False},
        "yaxis": {"title": "right", "type": "category", "showgrid": False, "autorange": "reversed"},
    }
    height = min(900, 200 + 26 * len(names))
    left = f" ({subject.confusions_left_out:,} pairs left out)" if subject.confusions_left_out else ""
    caption = f"{subject.name}: what is taken for what{left}"
    if details.counted == "objects":
        caption += f"; boxes with a score of {SURE:g} that overlap an object by {OVERLAP:g}"
    return Chart(figure(traces, **layout), caption, height)


def _taken(details: Details, matrix: list[list[int]], right: int, as_: int) -> str:
    names = details.class_names
    if right == as_ == len(names):
        return ""
    if right == len(names):
        what = f"{names[as_]} where nothing is"
    elif as_ == len(names):
        what = f"{names[right]}, not found"
    else:
        what = f"{names[right]}, right" if right == as_ else f"{names[right]} taken for {names[as_]}"
    return said(what, f"{matrix[right][as_]:,} of {sum(matrix[right]):,}")


def _by_class(details: Details) -> Chart:
    """The first figure of each class, the worst classes first, by the worst file."""
    import plotly.graph_objects as go

    column = details.columns[0]
    values = {each.name: {one.index: one.figures.get(column.name) for one in each.classes} for each in details.subjects}
    least: dict[int, float] = {}
    for own in values.values():
        for index, value in own.items():
            if value is not None:
                least[index] = min(value, least.get(index, value))
    worst = sorted(least, key=lambda index: (least[index], index))
    shown = worst[:MOST_BARS]
    names = [short(f"{details.class_names[index]}", 26) for index in shown]
    traces = [
        go.Bar(
            x=names,
            y=[each.get(index) for index in shown],
            name=short(name, 40),
            marker={"color": colour(number)},
            hovertemplate="%{x}: %{y:.3g}<extra></extra>",
        )
        for number, (name, each) in enumerate(values.items())
    ]
    axis = {"title": column.title, **({"tickformat": ".0%"} if column.percent else {})}
    more = f", the worst {MOST_BARS} of {len(worst)}" if len(worst) > MOST_BARS else ""
    return Chart(
        figure(traces, xaxis={"type": "category"}, yaxis=axis, barmode="group"),
        f"{column.title} by class{more}",
        380,
        wide=True,
    )


def _class_table(details: Details) -> Table:
    rows = []
    for subject in details.subjects:
        for each in subject.classes:
            figures = [(column, each.figures.get(column.name)) for column in details.columns]
            told = [Cell(column.figure(value), "" if value is None else value) for column, value in figures]
            rows.append(
                [Cell(subject.name), Cell(details.class_name(each.index)), cell(each.count), cell(each.said), *told]
            )
    titles = [each.title for each in details.columns]
    counts = (f"{details.counted} that are", f"{details.counted} said")
    return Table(("file", "class", *counts, *titles), rows, "By class", (*counts, *titles))


def _confusions(details: Details, subject: Subject) -> Table:
    rows = [
        [Cell(details.class_name(each.right)), Cell(details.class_name(each.said)), cell(each.count)]
        for each in subject.confusions[:MOST_CONFUSIONS]
    ]
    return Table(("right", "said", "times"), rows, f"{subject.name}: the most frequent confusions", ("times",))


def _wrong(details: Details, subject: Subject) -> Table:
    kinds: Sequence[tuple[str, str]] = (
        ("right", "right"),
        ("said", "said"),
        ("confidence", "confidence"),
        ("confidence_right", "of what is right"),
        ("value", details.by_sample.title if details.by_sample is not None else "value"),
        ("missed", "missed"),
        ("false", "false"),
    )
    shown = [(key, title) for key, title in kinds if any(getattr(each, key) is not None for each in subject.wrong)]
    rows = [[Cell(each.file), *(_told(details, each, key) for key, _ in shown)] for each in subject.wrong]
    whole = f" of {subject.wrong_count:,}" if subject.wrong_count is not None else ""
    right = tuple(title for key, title in shown if key not in ("right", "said"))
    caption = f"{subject.name}: {len(subject.wrong):,}{whole} wrong or worst samples"
    return Table(("sample", *(title for _, title in shown)), rows, caption, right)


def _told(details: Details, each: Wrong, key: str) -> Cell:
    value = getattr(each, key)
    if key in ("right", "said"):
        return Cell(details.class_name(value))
    if key in ("confidence", "confidence_right"):
        return number_cell(value, ".1%")
    return cell(value)
