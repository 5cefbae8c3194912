"""The page of one network: its module tree with what can go, what is fixed and why, groups, and the drawing of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgespa.reports.page.document import page
from edgespa.reports.page.layers import module_tree
from edgespa.reports.page.parts import Cell, Drawing, Section, Table, Tiles, bytes_cell, cell, count_cell


def inspection_page(details: Mapping[str, Any], drawing: str) -> str:
    """The page, as HTML that needs nothing else.

    Args:
        details: What `edgespa.tasks.inspection` says of a model or a task.
        drawing: SVG of its channel groups.
    """
    totals, prunable = details["totals"], details["prunable"]
    tiles = [
        ("parameters", count_cell(totals["parameters"]).text, "", ""),
        ("MACs of a sample", count_cell(totals["macs"]).text, "", ""),
        ("bytes", bytes_cell(totals["size_bytes"]).text, "", ""),
        (
            "channels that can go",
            f"{prunable['channel_share']:.1%}",
            f"{prunable['channels']:,} of {prunable['all_channels']:,}",
            "",
        ),
        ("parameters that can go", f"{prunable['parameter_share']:.1%}", "at most", ""),
        ("MACs that can go", f"{prunable['mac_share']:.1%}", "at most", ""),
    ]
    sections = [
        Section("overview", "Overview", [Tiles(tiles)]),
        Section(
            "modules",
            "Modules",
            [module_tree(details["modules"], "The bar is the share of all MACs.", units=True)],
            "What each module has, what of its channels can go, and why others cannot.",
        ),
        Section(
            "groups", "Channel groups", [_groups(details)], "Channels of a group go together, in all of its layers."
        ),
        Section("fixed", "What is fixed, and why", [_fixed(details)] if details["fixed"] else []),
        Section("drawing", "Drawing", [Drawing(drawing, "Which layers share a group")]),
    ]
    inputs = " and ".join(text.replace(",", " × ") for text in details["inputs"])
    return page(str(details["model"]), f"edgespa inspect; input {inputs}", sections)


def _groups(details: Mapping[str, Any]) -> Table:
    rows = []
    for group in details["groups"]:
        kept = group.get("kept")
        rows.append(
            [
                Cell(group["name"]),
                cell(group["units"]) if kept is None else Cell(f"{len(kept)} of {group['units']}", len(kept)),
                cell(group["channels_per_unit"]),
                count_cell(group["parameters"]),
                count_cell(group["macs"]),
                Cell(
                    f"{len(group['slots'])}",
                    len(group["slots"]),
                    title=", ".join(slot["tensor"] for slot in group["slots"][:12]),
                ),
            ]
        )
    columns = ("group", "units", "channels of a unit", "parameters", "MACs", "tensors")
    return Table(columns, rows, "Parameters and MACs: what goes with all of its units.", columns[1:])


def _fixed(details: Mapping[str, Any]) -> Table:
    rows = [
        [
            Cell(f"{each['tensor']}[{each['dim']}]"),
            cell(len(each["indices"])),
            Cell(each["cause"]),
            Cell(each["reason"]),
        ]
        for each in details["fixed"]
        if each["kind"] != "kernel"
    ]
    note = "Extents of kernels, which are always fixed, are left out."
    return Table(("tensor and dimension", "indices", "because of", "reason"), rows, right=("indices",), note=note)
