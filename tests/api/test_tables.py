"""Tables as text, Markdown and HTML: by hand."""

from __future__ import annotations

import pytest

from edgespa.api.tables import Table

TABLE = Table(("name", "bytes", "ok"), (("a|b", 1200, True), ("<i>", None, False)), "two of them")


def test_text() -> None:
    assert TABLE.text() == "two of them\nname  bytes  ok\n----------------\na|b   1,200  yes\n<i>       -  no"


def test_markdown() -> None:
    assert TABLE.markdown().splitlines() == [
        "**two of them**",
        "",
        "| name | bytes | ok |",
        "| --- | ---: | --- |",
        "| a\\|b | 1,200 | yes |",
        "| <i> | - | no |",
    ]


def test_names_are_text_in_html() -> None:
    text = TABLE.to_html()
    assert "&lt;i&gt;" in text
    assert "<i>" not in text
    assert text.count("<tr>") == 3


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells"):
        Table(("a", "b"), ((1,),))
