"""The works that the book cites, as plain Markdown: a citation in the text and an item of the list of references."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pybtex.database import Person, parse_file
from pybtex.plugin import find_plugin
from pybtex.richtext import Text


class Bibliography:
    """The entries of a BibTeX file by their keys; KeyError for one that it does not have."""

    def __init__(self, path: Path) -> None:
        self.works = parse_file(path, "bibtex")
        self.style = find_plugin("pybtex.style.formatting", "unsrt")()
        self.backend = find_plugin("pybtex.backends", "markdown")()

    def citation(self, key: str, form: str) -> str:
        """Who and when, in a form such as "{}, {}", as a link to the work if its address is known."""
        entry = self.works.entries[key]
        text = form.format(authors(entry.persons["author"]), entry.fields["year"])
        return f"[{text}]({there})" if (there := address(entry.fields)) else text

    def reference(self, key: str) -> str:
        """One item of the list."""
        (item,) = self.style.format_bibliography(self.works, [key])
        return "- " + item.text.render(self.backend).replace("\n", " ")


def authors(people: Sequence[Person]) -> str:
    """The family names by which a text cites a work."""
    names = [" ".join(map(person.get_part_as_text, ("prelast", "last"))).strip() for person in people]
    return str(Text.from_latex(f"{names[0]} et al." if len(names) > 2 else " and ".join(names)))


def address(fields: Mapping[str, str]) -> str:
    """Where a reader finds a work; empty if that is not known."""
    roots = {"url": "", "doi": "https://doi.org/", "eprint": "https://arxiv.org/abs/"}
    return next((root + fields[field] for field, root in roots.items() if field in fields), "")
