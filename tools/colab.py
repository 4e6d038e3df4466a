"""Copies of the chapters for Colab: what only the builder of the book understands becomes plain Markdown.

    python -m tools.colab --out DIR

The parser is the book's own; mdformat writes what it has read back as Markdown, and a `Chapter` tells it how to write
what MyST adds. Like LaTeX we go through the book twice: first to learn what each label stands for, then to write.
"""

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import mdformat_tables
import nbformat
import yaml
from docutils.nodes import make_id
from docutils.parsers.rst.directives.misc import TestDirective as AnyDirective
from markdown_it import MarkdownIt
from mdformat.renderer import DEFAULT_RENDERERS, MDRenderer, RenderContext, RenderTreeNode
from myst_nb.core.read import read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.directives import parse_directive_text
from myst_parser.parsers.mdit import create_md_parser
from nbformat import NotebookNode

from tools.bibliography import Bibliography
from tools.repository import ROOT, Repository, chapters

NOTES = {name: name.capitalize() for name in ("attention", "caution", "hint", "important", "note", "tip", "warning")}
NOTES["seealso"] = "See also"
FOLDED = {"hide-cell", "hide-input", "remove-input"}
RUNTIME = {
    "accelerator": "GPU",
    "colab": {"gpuType": "T4"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
}


@dataclass(frozen=True)
class Label:
    """What a label stands for: the page it is on, what the text calls it, and its anchor on the published page."""

    page: str
    name: str
    anchor: str = ""


@dataclass(frozen=True)
class Book:
    """What all chapters share: where the site is, how the book writes Markdown, and what it cites."""

    root: Path

    @cached_property
    def site(self) -> str:
        return Repository.of(self.root).site

    @cached_property
    def syntax(self) -> MdParserConfig:
        configuration = yaml.safe_load((self.root / "_config.yml").read_text())
        return MdParserConfig(enable_extensions=set(configuration["parse"]["myst_enable_extensions"]))

    @cached_property
    def bibliography(self) -> Bibliography:
        return Bibliography(self.root / "book" / "references.bib")

    def copies(self) -> dict[str, NotebookNode]:
        """The copy of every notebook, by file name."""
        labels = defaultdict(lambda: Label("", ""))
        for path in [*(self.root / "book").glob("*.md"), *chapters(self.root)]:
            Chapter(self, path, labels).copy()
        known = {label: found for label, found in labels.items() if found.page}
        return {path.name: Chapter(self, path, known).copy() for path in chapters(self.root)}


@dataclass(frozen=True)
class Directive:
    """A fenced block that MyST gives a meaning: ```{name} argument, its options, its body."""

    name: str
    argument: str
    options: dict[str, str]
    body: str

    @classmethod
    def of(cls, node: RenderTreeNode) -> "Directive":
        name, _, argument = node.info.removeprefix("{").partition("}")
        parsed = parse_directive_text(AnyDirective, "", node.content)
        return cls(name, argument.strip(), parsed.options, "\n".join(parsed.body))


class Chapter:
    """One notebook on its way to Colab, and the extension that tells mdformat how to write what MyST adds."""

    def __init__(self, book: Book, path: Path, labels: dict[str, Label]) -> None:
        self.book, self.path, self.labels = book, path, labels
        self.page, self.number = path.stem, "".join(re.findall(r"^0*(\d+)_", path.stem))
        self.counts, self.footnotes, self.cited, self.listed = Counter[str](), list[str](), set[str](), False
        self.parser = create_md_parser(book.syntax, MDRenderer)
        self.parser.options.update({"mdformat": {}, "parser_extension": [mdformat_tables, self]})
        self.context: dict[str, Any] = {}

    def copy(self) -> NotebookNode:
        """The notebook as Colab is to show it; ValueError names the cell with something that has no form there."""
        cells = []
        for number, cell in enumerate(self.read().cells, 1):
            try:
                cells += self.code(cell) if cell.cell_type == "code" else self.text(cell.source)
            except KeyError as error:
                raise ValueError(f"{self.path}, cell {number}: no form for Colab: {error}") from error
        if self.cited and not self.listed:
            cells += self.text("## References\n\n```{bibliography}\n```")
        return nbformat.v4.new_notebook(cells=cells, metadata=RUNTIME)

    def read(self) -> NotebookNode:
        if self.path.suffix == ".md":
            return read_myst_markdown_notebook(self.path.read_text(), self.book.syntax)
        return nbformat.read(self.path, as_version=4)

    def text(self, source: str) -> list[NotebookNode]:
        markdown = self.markdown(source)
        return [nbformat.v4.new_markdown_cell(markdown)] if markdown else []

    def code(self, cell: NotebookNode) -> list[NotebookNode]:
        """A code cell, folded where the book folds it, and the caption that Colab would not show under its figure."""
        folded = FOLDED.intersection(cell.metadata.get("tags", ()))
        figure = cell.metadata.get("mystnb", {}).get("figure")
        cell.metadata = {"cellView": "form"} if folded else {}
        if figure is None:
            return [cell]
        return [cell, nbformat.v4.new_markdown_cell(self.caption(figure["caption"], figure.get("name")))]

    def markdown(self, source: str) -> str:
        return self.parser.render(source, self.context).strip()

    def define(self, label: str, name: str, prefix: str = "") -> str:
        self.labels[label] = Label(self.page, name, "#" + make_id(prefix + label))
        return f'<a name="{label}"></a>'

    def refer(self, label: str, text: str = "") -> str:
        there = self.labels[label]
        where = f"#{label}" if there.page == self.page else f"{self.book.site}/book/{there.page}.html{there.anchor}"
        return f"[{text or there.name}]({where})"

    def count(self, kind: str) -> str:
        self.counts[kind] += 1
        return f"{self.number}.{self.counts[kind]}".lstrip(".")

    def equation(self, content: str, label: str | None = None) -> str:
        r"""A displayed equation; lines that end in \\ are aligned, as on the published page."""
        content = " \\\\\n".join(part.strip() for part in content.split("\n\n") if part.strip())
        if r"\\" in content:
            content = f"\\begin{{aligned}}\n{content}\n\\end{{aligned}}"
        if label is None:
            return f"$$\n{content}\n$$"
        number = self.count("equation")
        return f"{self.define(label, f'({number})', 'equation-')}\n\n$$\n{content} \\tag{{{number}}}\n$$"

    def caption(self, content: str, label: str | None = None) -> str:
        name = f"Figure {self.count('figure')}"
        return (self.define(label, name) if label else "") + f"**{name}.** {self.markdown(content)}"

    def image(self, source: str, alt: str) -> str:
        return f"![{alt}]({source if urlparse(source).scheme else f'{self.book.site}/_images/{Path(source).name}'})"

    def link(self, node: RenderTreeNode, context: RenderContext) -> str:
        text, href = "".join(child.render(context) for child in node.children), str(node.attrs["href"])
        if urlparse(href).scheme:
            return f"[{text}]({href})"
        page, _, label = href.partition("#")
        return self.refer(label or Path(page).stem, text)

    def target(self, node: RenderTreeNode) -> str:
        heading = node.next_sibling
        return self.define(node.content, heading.children[0].content if heading and heading.type == "heading" else "")

    def heading(self, node: RenderTreeNode, context: RenderContext) -> str:
        if node.tag == "h1":
            self.labels[self.page] = Label(self.page, node.children[0].content)
        return DEFAULT_RENDERERS["heading"](node, context)

    def footnote_mark(self, label: str) -> str:
        if label not in self.footnotes:
            self.footnotes.append(label)
        return f"<sup>{self.footnotes.index(label) + 1}</sup>"

    def footnote(self, node: RenderTreeNode, context: RenderContext) -> str:
        return " ".join([self.footnote_mark(node.meta["label"]), *(child.render(context) for child in node.children)])

    def cite(self, keys: str, form: str) -> str:
        cited = [key.strip() for key in keys.split(",")]
        self.cited.update(cited)
        return "; ".join(self.book.bibliography.citation(key, form) for key in cited)

    def role(self, node: RenderTreeNode) -> str:
        text, _, label = node.content.rpartition("<")
        text, label = text.strip(), label.removesuffix(">")
        match node.meta["name"]:
            case "cite" | "cite:p":
                return f"({self.cite(label, '{}, {}')})"
            case "cite:t":
                return self.cite(label, "{} ({})")
            case "doc":
                return self.refer(Path(label).stem, text)
            case "eq" | "ref":
                return self.refer(label, text)
            case "numref":
                return self.refer(label, text.replace("%s", self.labels[label].name.removeprefix("Figure ")))
            case "term":
                return f"*{text or label}*"
            case "py:mod":
                return f"`{label}`"
            case unknown:
                raise KeyError(f"role {unknown}")

    def fence(self, node: RenderTreeNode, context: RenderContext) -> str:
        if node.type == "fence" and not node.info.startswith("{"):
            return DEFAULT_RENDERERS["fence"](node, context)
        it = Directive.of(node)
        match it.name:
            case "grid":
                return self.markdown(it.body)
            case "admonition" | "card" | "dropdown" | "grid-item-card":
                return self.admonition(it, it.argument, it.body)
            case name if name in NOTES:
                return self.admonition(it, NOTES[name], f"{it.argument}\n{it.body}")
            case "bibliography":
                return self.references()
            case "figure":
                caption = self.caption(it.body, it.options.get("name"))
                return f"{self.image(it.argument, it.options['alt'])}\n\n{caption}"
            case "glossary":
                return self.markdown(re.sub(r"^(\S.*)\n\s+", r"**\1:** ", it.body, flags=re.MULTILINE))
            case "image":
                return self.image(it.argument, it.options["alt"])
            case "math":
                return self.equation(f"{it.argument}\n{it.body}", it.options.get("label"))
            case unknown:
                raise KeyError(f"directive {unknown}")

    def references(self) -> str:
        self.listed = True
        return "\n".join(map(self.book.bibliography.reference, sorted(self.cited)))

    def admonition(self, it: Directive, title: str, body: str) -> str:
        title, body = self.markdown(title), self.markdown(body)
        if it.name == "dropdown" or "dropdown" in it.options.get("class", ""):
            return f"<details>\n<summary>{MarkdownIt().renderInline(title)}</summary>\n\n{body}\n\n</details>"
        return "\n".join(f"> {line}".rstrip() for line in f"**{title}**\n\n{body}".splitlines())

    @property
    def RENDERERS(self) -> Mapping[str, Callable[[RenderTreeNode, RenderContext], str]]:
        return {
            "colon_fence": self.fence,
            "fence": self.fence,
            "footnote_ref": lambda node, _: self.footnote_mark(node.meta["label"]),
            "footnote_reference": self.footnote,
            "heading": self.heading,
            "image": lambda node, _: self.image(str(node.attrs["src"]), node.content),
            "link": self.link,
            "math_block": lambda node, _: self.equation(node.content),
            "math_block_label": lambda node, _: self.equation(node.content, node.info),
            "math_inline": lambda node, _: f"${node.content}$",
            "myst_block_break": lambda node, _: "",
            "myst_line_comment": lambda node, _: "",
            "myst_role": lambda node, _: self.role(node),
            "myst_target": lambda node, _: self.target(node),
        }

    @property
    def POSTPROCESSORS(self) -> Mapping[str, Callable[[str, RenderTreeNode, RenderContext], str]]:
        return {"text": lambda text, _node, _: text.replace("$", r"\$")}


def main() -> None:
    """Write the copies, in the folder where the launch buttons of the book look for them."""
    parser = argparse.ArgumentParser(description="Write the copies of the chapters that open in Colab.")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    out = parser.parse_args().out / "book"
    out.mkdir(parents=True, exist_ok=True)
    for name, notebook in Book(ROOT).copies().items():
        nbformat.write(notebook, out / name)
        print(out / name)


if __name__ == "__main__":
    main()
