"""Sphinx settings. Needs no network."""

import re
from importlib.metadata import version as installed
from pathlib import Path

project = "asyncsandbox"
author = copyright = "asyncsandbox contributors"
version = release = installed("asyncsandbox")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "asyncsandbox"

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

nitpick_ignore_regex = [
    ("py:.*", r"(?!asyncsandbox\.(?!_)).*"),  # only our own public names must resolve
    ("py:class", r".*\.[A-Z]"),  # and no type variables
]


def setup(app):
    """Let a section of the index stay empty until its first page is written; Sphinx would warn."""
    app.connect("source-read", _drop_empty_sections)


def _drop_empty_sections(app, page, source):
    def kept(pattern):
        return pattern[0] if any(Path(app.srcdir).glob(f"{pattern[1]}/*.md")) else ""

    if page == "index":
        source[0] = re.sub(r"^(\S+)/\*\n", kept, source[0], flags=re.MULTILINE)
