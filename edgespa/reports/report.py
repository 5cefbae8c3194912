"""The page over bundles, tasks, profiles, logs and recipes: which sections it has, in which order."""

from __future__ import annotations

from edgespa.reports.page.answers import answers
from edgespa.reports.page.data import health
from edgespa.reports.page.document import page
from edgespa.reports.page.found import Found, timings
from edgespa.reports.page.layers import kept_layers
from edgespa.reports.page.parts import Section
from edgespa.reports.page.proofs import parity
from edgespa.reports.page.provenance import examples, provenance
from edgespa.reports.page.quality import files, tiles, trade_offs
from edgespa.reports.page.searches import searches
from edgespa.reports.page.sweeps import sweeps
from edgespa.reports.page.times import latencies, operators
from edgespa.reports.page.training import curves, depth, reconstruction


def report_sections(found: Found) -> list[Section]:
    """All that there is to show, each thing in its section; those with nothing to show are left out."""
    timed = timings(found)
    sections = [
        sweeps(found),
        tiles(found, timed),
        searches(found),
        trade_offs(found, timed),
        files(found, timed),
        parity(found),
        examples(found),
        answers(found),
        kept_layers(found),
        latencies(timed),
        operators(timed),
        curves(found),
        reconstruction(found),
        depth(found),
        health(found),
        provenance(found),
    ]
    return [each for each in sections if each.pieces]


def report_page(found: Found, title: str, subtitle: str, sections: list[Section] | None = None) -> str:
    """The page, as HTML that needs nothing else.

    Args:
        found: What it is about.
        title: Its heading.
        subtitle: Under it.
        sections: Of `report_sections`, where they were made already.
    """
    return page(title, subtitle, report_sections(found) if sections is None else sections)
