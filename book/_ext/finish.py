"""What the theme leaves to us: executed notebooks, the typeface, roles and ids, papers and signatures in docstrings."""

import re
from pathlib import Path

import font_source_serif_pro
from sphinx.application import Sphinx
from sphinx.util import inspect

FONTS = Path(font_source_serif_pro.font_directory)
ROOT = Path(__file__).parents[2]
EXECUTED = ROOT / "_build" / "executed"
CUTS = ("Regular", "It", "Semibold", "SemiboldIt")


def read_executed(app: Sphinx, page: str, source: list[str]) -> None:
    """Puts a notebook's executed copy in its place."""
    if app.env.doc2path(page).endswith(".ipynb"):
        source[0] = (EXECUTED / f"{Path(page).name}.ipynb").read_text()


def serve_fonts(app: Sphinx, config) -> None:
    """Adds the four cuts of Source Serif that book.css asks for to the static files."""
    config.html_static_path += [str(FONTS / f"SourceSerifPro-{cut}.otf") for cut in CUTS]


def serve_playables(app: Sphinx, config) -> None:
    """Adds the modules of gsa.playable and their style to the static files, for playable.js to start."""
    config.html_static_path += [str(file) for file in sorted((ROOT / "gsa" / "playable").glob("*.[jc]s*"))]


def drop_widgets(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Leaves out the widget manager, which comes from another host: playable.js starts the figures."""
    scripts = app.env.nb_metadata.get(page, {}).get("js_files", {})
    for name in [name for name in scripts if name.startswith("ipywidgets")]:
        del scripts[name]


def mend_body(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Makes each reference an item of the list around it: docutils gives it a role that ARIA 1.2 has withdrawn.

    Takes the ids from the tables that pandas has styled: they are drawn anew in each build.
    """
    body = context.get("body", "").replace('role="doc-biblioentry"', 'role="listitem"')
    context["body"] = re.sub(r' id="T_[0-9a-f]{5}\w*"', "", body)


def link_papers(app: Sphinx, what: str, name: str, documented: object, options: object, lines: list[str]) -> None:
    """Links every arXiv number."""
    lines[:] = [re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"`arXiv:\1 <https://arxiv.org/abs/\1>`__", line) for line in lines]


def sign(
    app: Sphinx, what: str, name: str, documented: type, options: object, signature: str, returned: str
) -> tuple[str, str] | None:
    """Gives a playable figure its own signature in the place of that of its widget."""
    if what == "class" and signature == "(*args, **kwargs)":
        own = inspect.signature(documented.__init__, bound_method=True)
        return inspect.stringify_signature(own, show_annotation=False, show_return_annotation=False), returned
    return None


def forget_builder(app: Sphinx, error: Exception | None) -> None:
    """Removes Sphinx's note of its settings, some of which are paths of this machine."""
    (Path(app.outdir) / ".buildinfo").unlink(missing_ok=True)


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("source-read", read_executed)
    app.connect("config-inited", serve_fonts)
    app.connect("config-inited", serve_playables)
    app.connect("html-page-context", drop_widgets, priority=400)  # before myst-nb adds them
    app.connect("html-page-context", mend_body)
    app.connect("autodoc-process-docstring", link_papers)
    app.connect("autodoc-process-signature", sign)
    app.connect("build-finished", forget_builder)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
