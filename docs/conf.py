"""How Sphinx makes the site of what ``make_site.py`` has laid out for it: nothing is taken from any other host."""

from __future__ import annotations

import tomllib
from pathlib import Path

_PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]

project = _PROJECT["name"]
release = _PROJECT["version"]
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
nitpicky = True

# What the hosting page reads as Markdown is to be read the same here: GitHub's anchors, no syntax of MyST's own.
myst_heading_anchors = 6
myst_disable_syntax = ["myst_role", "myst_line_comment", "myst_block_break", "myst_target"]
highlight_language = "text"
smartquotes = False

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = [str(Path(__file__).resolve().parent / "theme")]
html_css_files = ["site.css"]
html_copy_source = False
html_use_index = False
html_show_sphinx = False
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
