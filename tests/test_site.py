"""The built site, as a reader's browser sees it: every page, light and dark, on a desk and on a phone."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from posixpath import join
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from helpers import failed_rules, serve, watch
from sphinx.util.inventory import InventoryFile

from gsa import layers
from tools.repository import Repository

ROOT = Path(__file__).parents[1]
SITE = ROOT / "_build" / "html"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(page["file"] for part in TOC["parts"] for page in part["chapters"])]
CHAPTERS = [page for page in PAGES if (ROOT / f"{page}.ipynb").exists()]
PATIENCE = 120_000  # milliseconds, for a machine that has other work
UNSET = ".math:not(:has(mjx-container)), mjx-merror, mjx-container [style*='color: red']"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
COLOUR_RULES = ["color-contrast", "link-in-text-block"]
DESK, PHONE = 1280, 390
REFERENCE = ["layers", "networks", "training", "probes", "playable"]  # without speed, which runs a cell
DRAWN_ANEW = re.compile(r"\bat 0x[0-9a-f]{6,}|\bT_[0-9a-f]{5}\b|ipykernel_\d+")

pytestmark = [
    pytest.mark.site,
    pytest.mark.xdist_group("site"),
    pytest.mark.skipif(not SITE.is_dir(), reason="the book is not built: run `make book` first"),
]


def test_the_reference_describes_every_public_layer():
    with (SITE / "objects.inv").open("rb") as inventory:
        described = {
            name.rpartition(".")[2] for kind in InventoryFile.load(inventory, "", join).values() for name in kind
        }
    assert sorted(set(layers.__all__) - described) == []


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The site, served on this machine."""
    with serve(SITE) as address:
        yield address


@pytest.fixture(scope="module", params=["light", "dark"])
def scheme(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=[DESK, PHONE])
def width(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def context(browser, scheme, width):
    """A reader with a colour scheme and a screen this wide."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


@pytest.fixture
def page(context, address):
    """A fresh tab that collects what goes wrong in `page.troubles`."""
    page = context.new_page()
    page.troubles = watch(page, address)
    yield page
    page.close()


def rules(scheme: str, width: int) -> dict:
    """What axe has to look at: colours in each scheme; everything else on each screen, once."""
    if scheme == "light":
        return {"runOnly": RULES, "rules": {rule: {"enabled": width == DESK} for rule in COLOUR_RULES}}
    return {"runOnly": {"type": "rule", "values": COLOUR_RULES}}


@pytest.mark.parametrize("name", [*PAGES, "search"])
def test_page(name, page, address, scheme, width):
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    assert page.locator("html").get_attribute("data-theme") == scheme
    assert page.troubles == []
    assert failed_rules(page, rules(scheme, width)) == []
    assert page.locator(UNSET).all_text_contents() == [], "MathJax does not understand an equation"
    alts = page.locator("article img").evaluate_all("images => images.map(image => image.alt)")
    assert [alt for alt in alts if not alt or alt.endswith((".png", ".svg"))] == [], (
        "alt text is missing or a file name"
    )
    assert page.locator(".cell_output img:not(figure:has(figcaption) img)").count() == 0, "a figure without a caption"
    assert page.locator(".playable:not(.live)").count() == 0, "a figure that does not start"
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, "the page moves sideways"


@pytest.mark.parametrize("name", CHAPTERS)
def test_search_finds_a_word_of_the_chapter(name, browser, address):
    word = max(re.findall(r"[a-z]+", soup(SITE / f"{name}.html").select_one("article section > p").text), key=len)
    with browser.new_page() as page:
        page.goto(f"{address}/search.html?q={word}", timeout=PATIENCE)
        page.locator(f"#search-results a[href*='{name}.html']").first.wait_for(timeout=PATIENCE)


@cache
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_bytes(), "html.parser")


def resolves(page: Path, link: str) -> bool:
    """Whether what a page links to is part of the site, down to the anchor."""
    parts = urlsplit(link)
    target = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
    if not target.is_file():
        return False
    return not parts.fragment or target.suffix != ".html" or bool(soup(target).find(id=unquote(parts.fragment)))


def test_links_inside_the_site_resolve():
    links = {
        (page, element.get("href") or element["src"])
        for page in SITE.rglob("*.html")
        if "_static" not in page.parts
        for element in soup(page).select("[href], [src]")
    }
    inside = [(page, link) for page, link in links if not urlsplit(link).scheme and link]
    assert len(inside) > len(PAGES)
    assert [f"{page.relative_to(SITE)} -> {link}" for page, link in inside if not resolves(page, link)] == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_launch_button_opens_the_clean_copy(name):
    address = f"{Repository.of(ROOT).colab}/blob/colab/{name}.ipynb"
    assert soup(SITE / f"{name}.html").find("a", href=address), f"no link to {address}"


def test_no_page_says_where_it_was_built():
    """Not the clone's path, nor the home folder, nor the host's name, unless that is a word of the book."""
    book = "".join(path.read_text() for path in [*ROOT.glob("book/**/*.[im]*"), *ROOT.glob("gsa/**/*.py")])
    files = {path.relative_to(SITE): path.read_bytes() for path in SITE.rglob("*") if path.is_file()}
    said = {path: soup(SITE / path).get_text().encode() for path in files if path.suffix == ".html"}
    for name, among in ((str(ROOT), files), (str(Path.home()), files), (platform.node(), said)):
        word = rf"(?<!\w){re.escape(name.rstrip('/'))}(?!\w)"
        if not re.search(word, book):
            assert [path for path, text in among.items() if re.search(word.encode(), text)] == [], name


@pytest.mark.parametrize("name", PAGES)
def test_page_has_nothing_that_each_build_draws_anew(name):
    assert DRAWN_ANEW.findall((SITE / f"{name}.html").read_text()) == []


def test_the_reference_is_the_same_wherever_it_is_built(tmp_path):
    """Pages of one package in two folders, neither of which stands in them."""
    builds = []
    for there in (tmp_path / "near", tmp_path / "a folder with spaces" / "and a long name" / "far"):
        for folder in ("gsa", "book/_ext", "book/_static", "book/api"):
            shutil.copytree(ROOT / folder, there / folder)
        shutil.copy(ROOT / "_config.yml", there)
        shutil.copy(ROOT / "book" / "references.bib", there / "book")
        root, *others = [f"book/api/{page}" for page in REFERENCE]
        toc = {"format": "jb-book", "root": root, "chapters": [{"file": page} for page in others]}
        (there / "_toc.yml").write_text(yaml.safe_dump(toc))
        command = [Path(sys.executable).with_name("jupyter-book"), "build", there]
        builds.append(subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(there)}, stdout=subprocess.DEVNULL))
    assert [build.wait() for build in builds] == [0, 0]
    near, far = (
        {file.relative_to(site): file.read_bytes() for file in site.rglob("*") if file.is_file()}
        for site in sorted(tmp_path.rglob("_build/html"))
    )
    assert set(near) >= {Path("book", "api", f"{page}.html") for page in REFERENCE}
    assert [file for file in near.keys() | far.keys() if near.get(file) != far.get(file)] == []
    assert [file for file in near if str(tmp_path).encode() in near[file]] == []
