"""What the theme leaves to us: the book's typeface, served by the site itself, and a role for references."""

from pathlib import Path

import font_source_serif_pro
from sphinx.application import Sphinx

FONTS = Path(font_source_serif_pro.font_directory)
CUTS = ("Regular", "It", "Semibold", "SemiboldIt")


def serve_fonts(app: Sphinx, config) -> None:
    """Adds the four cuts of Source Serif that book.css asks for to the static files."""
    config.html_static_path += [str(FONTS / f"SourceSerifPro-{cut}.otf") for cut in CUTS]


def list_references(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Makes each reference an item of the list around it: docutils gives it a role that ARIA 1.2 has withdrawn."""
    context["body"] = context.get("body", "").replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", serve_fonts)
    app.connect("html-page-context", list_references)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
