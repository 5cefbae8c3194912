"""From sections to one HTML file that needs nothing else: styles, scripts, charts and pictures are in it.

Its content security policy names what may run by its digest, and lets nothing be fetched: a text that came out of a
stranger's file would not run even where it were not escaped.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from edgespa import __version__
from edgespa.errors import MissingExtraError
from edgespa.reports.page.parts import Chart, Piece, Section


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole file.

    Args:
        title: Of the page.
        subtitle: Under it.
        sections: In their order; those without pieces are left out.

    Raises:
        MissingExtraError: There are charts, and plotly is not installed.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    shown = [dataclasses.replace(each, pieces=_paired(each.pieces)) for each in sections if each.pieces]
    numbers = itertools.count()
    environment = Environment(
        loader=PackageLoader("edgespa.reports.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["chart_id"] = lambda: f"chart-{next(numbers)}"
    environment.filters["script_json"] = _script_json
    has_charts = any(isinstance(piece, Chart) for section in shown for piece in section.pieces)
    scripts = [*([_plotly()] if has_charts else []), _own("page.js")]
    content = environment.get_template("page.html").render(
        title=title,
        subtitle=subtitle,
        sections=shown,
        style=_own("page.css"),
        scripts=scripts,
        policy=_policy(scripts),
        version=__version__,
    )
    return content.lstrip()


def _paired(pieces: Sequence[Piece]) -> list[Piece]:
    """A narrow chart with none beside it gets the whole width."""
    found: list[Piece] = []
    alone = None
    for piece in pieces:
        narrow = isinstance(piece, Chart) and not piece.wide
        if not narrow and alone is not None:
            found[alone] = _widened(found[alone])
        found.append(piece)
        alone = None if not narrow or alone is not None else len(found) - 1
    if alone is not None:
        found[alone] = _widened(found[alone])
    return found


def _widened(piece: Piece) -> Piece:
    return dataclasses.replace(piece, wide=True) if isinstance(piece, Chart) else piece


def _visible(value: Any) -> Any:
    """What a text would hide, control characters and those that turn its direction, is shown as a box."""
    if type(value) is not str:
        return value
    return "".join(each if each.isprintable() or each in "\n\N{NO-BREAK SPACE}" else "\ufffd" for each in value)


def _script_json(value: Any) -> str:
    """JSON that ends no script element, whatever texts are in it."""
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    for character, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(character, code)
    return Markup(text)


def _policy(scripts: Sequence[str]) -> str:
    digests = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts
    )
    # Styles inline: charts set some on their elements. Pictures of charts are saved by way of blob:.
    return (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data: blob:; form-action 'none'"
    )


@cache
def _own(name: str) -> str:
    return files("edgespa.reports.page").joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingExtraError("plotly", "report") from None
    return str(get_plotlyjs()).replace("</script", "<\\/script")
