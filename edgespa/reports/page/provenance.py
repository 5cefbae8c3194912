"""Where everything comes from, in full; and examples of what files say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgespa.reports.page.found import Found
from edgespa.reports.page.parts import Cell, Folded, Gallery, Piece, Section, Table, Words


def examples(found: Found) -> Section:
    """Inputs with what the original and each file say of them, the worst disagreements first."""
    pieces: list[Piece] = []
    for bundle in found.bundles:
        if bundle.examples:
            pieces.append(Gallery(bundle.examples, f"{bundle.name}: {bundle.examples_of}"))
    return Section(
        "examples", "Examples", pieces, "Where files disagree most with the original comes first." if pieces else ""
    )


def provenance(found: Found) -> Section:
    """Bases, how tasks were made, machines that measured, recipes, what was not shown."""
    pieces: list[Piece] = []
    rows = []
    for bundle in found.bundles:
        manifest = bundle.manifest
        rows.append(
            [
                Cell(bundle.name, link=bundle.link),
                Cell(manifest.base.spec),
                Cell(manifest.base.license or "not recorded", mark="" if manifest.base.license else "doubt"),
                Cell(bundle.signed or "not signed"),
                Cell(manifest.created[:10]),
                Cell(manifest.edgespa_version),
            ]
        )
    if rows:
        pieces.append(Table(("bundle", "base", "licence", "signature", "made", "edgespa"), rows, "Bundles"))
    for bundle in found.bundles:
        manifest = bundle.manifest
        told = {
            "base": manifest.base.model_dump(mode="json"),
            "preprocessing": None if manifest.preprocessing is None else manifest.preprocessing.model_dump(mode="json"),
            "provenance": {key: value for key, value in manifest.provenance.items() if key != "modules"},
        }
        pieces.append(Folded(f"{bundle.name}: how it was made", _text(told)))
        digests = "\n".join(f"{each.sha256}  {each.path}  {each.size_bytes:,} bytes" for each in manifest.files)
        pieces.append(Folded(f"{bundle.name}: SHA-256 of its files", digests))
    for task in found.tasks:
        pieces.append(Folded(f"{task.name}: its header", _text(task.header)))
    profiles = [(bundle.name, each) for bundle in found.bundles for each in bundle.profiles]
    profiles += [(each.name, each.profile) for each in found.profiles]
    for name, profile in profiles:
        machine = {"host": profile.host.model_dump(mode="json"), "before": profile.before.model_dump(mode="json")}
        pieces.append(Folded(f"{name}: the machine “{profile.device}” on {profile.created[:16]}", _text(machine)))
    pieces += [Folded(f"{recipe.name}: recipe", recipe.text) for recipe in found.recipes]
    remarks = [*found.notes, *(f"{bundle.name}: {each}" for bundle in found.bundles for each in bundle.remarks)]
    if remarks:
        pieces.append(Words(["Not shown:", *remarks], "doubt"))
    return Section("provenance", "Where it comes from", pieces)


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, default=str)
