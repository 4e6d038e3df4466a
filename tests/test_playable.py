"""Figures to play with: after real events of pointer, finger and keys a page shows the numbers of the package."""

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from helpers import failed_rules, serve, watch
from scipy import optimize, stats
from torch import nn

from gsa import data, results
from gsa.layers import (
    MECHANISMS,
    GlobalSparseAttention,
    GlobalSubsampledAttention,
    LocallyGroupedAttention,
    SelfAttention,
    SpatialTransformer,
    attend,
    bilinear_sample,
    grid,
    record_weights,
    window,
)
from gsa.layers.matching import estimate_flow, positions
from gsa.playable import (
    BilinearRead,
    Flow,
    HopMap,
    HopWeights,
    Influence,
    MatrixBehind,
    NearAndFar,
    Occluder,
    PaintedGate,
    Playable,
    Profiles,
    RankOne,
    SamplingGrid,
    SeedLottery,
    Table,
    Views,
)
from gsa.playable.seed_lottery import LEFT, RIGHT
from gsa.probes import count_macs, influence, mixing
from gsa.training.weights import Trained

ROOT = Path(__file__).parents[1]
FILES = [*ROOT.glob("gsa/playable/*.[jc]s*"), ROOT / "book" / "_static" / "playable.js"]
LEANING = [[0.6, -0.35, 0.1], [0.35, 0.6, 0.0]]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PAGE = """<!doctype html>
<html lang="en" data-theme="light"><meta charset="utf-8"><title>Figures to play with</title>
<meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"><link rel="stylesheet" href="playable.css">
<style>body {{ background: white; }} [data-theme="dark"] body {{ background: #14181d; color: white; }}</style>
<main><h1>Figures to play with</h1>{}</main><script type="module" src="playable.js"></script></html>"""
LIVE = """const values = {}, listeners = [];
const model = {{
  get: name => values[name], save_changes() {{}}, on: (_, listener) => listeners.push(listener),
  set(name, value) {{ values[name] = value; listeners.forEach(listener => listener()); }},
}};
const {{ default: module }} = await import("data:text/javascript," + encodeURIComponent({}));
module.render({{ model, el: document.querySelector("main") }});
window.model = model;"""


def views(pixel: tuple[int, int] = (11, 11)) -> Views:
    return Views([data.photograph(name) for name in ("chelsea", "astronaut")], pixel)


def weights(**state) -> HopWeights:
    """What an untrained layer sees in noise, drawn large enough to matter."""
    torch.manual_seed(0)
    layer = GlobalSparseAttention(8, patch=4)
    with torch.no_grad(), record_weights() as recorded:
        layer(3 * torch.randn(1, 8, 16, 16))
    return HopWeights(*recorded, data.photograph("chelsea", 64).image, **state)


def table(**state) -> Table:
    """A table whose queries are not its keys, as it is after a reader has made this of its state."""
    torch.manual_seed(0)
    figure = Table(2 * torch.randn(256, 3), torch.randn(256, 3), data.photograph("coffee", 16).image)
    figure.state = figure.state | state
    return figure


def reading(place: tuple[float, float] = (0.5, 1.25)) -> BilinearRead:
    values = torch.tensor([[10, 20, 40, 30], [30, 0, 20, 50], [40, 10, 0, 20], [20, 30, 50, 10]])
    return BilinearRead(values.float(), place)


def near_and_far(window: int = 7, reduction: int | None = None, **options) -> NearAndFar:
    return NearAndFar(data.photograph("astronaut", 56).image, window, reduction, **options)


@cache
def influences() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """What three layers let pixels of a photograph hear that is black in one quarter, with weights moving and held."""
    torch.manual_seed(1)
    x, maps = 10 * nn.Conv2d(3, 8, 1, bias=False)(dark_photograph()[None] / 255), {}
    for name in ("conv", "se", "self"):
        layer = MECHANISMS[name](8, (8, 8))
        moving = torch.stack([influence(layer, x, *pixel) for pixel in np.ndindex(8, 8)])
        held = mixing(layer, x).square().sum((0, 2)).sqrt()
        maps[name] = moving.view(8, 8, 8, 8), held.view(8, 8, 8, 8)
    return maps


def dark_photograph() -> torch.Tensor:
    image = data.photograph("coffee", 8).image
    image[:, :4, :4] = 0
    return image


def influenced(**state) -> Influence:
    return Influence(influences(), dark_photograph(), **{"layer": "se", "pixel": (4, 5)} | state)


def behind(moved: int = 0, **options) -> MatrixBehind:
    """A convolution that treats no two directions alike."""
    kernel, generator = torch.tensor([[1, 2, -3], [4, 5, 6], [7, 8, 9]]), torch.Generator().manual_seed(0)
    figure = MatrixBehind(kernel, torch.randint(1, 10, (8, 8), generator=generator), **options)
    figure.state = figure.state | {"moved": moved}
    return figure


@cache
def classifier() -> nn.Module:
    """A small untrained network, sure enough to be swayed."""
    torch.manual_seed(3)
    conv, head = nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.Linear(8, 5)
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).requires_grad_(False)


def classify(images: torch.Tensor) -> torch.Tensor:
    return (12 * classifier()(images / 127.5 - 1)).softmax(1)


def shots() -> tuple[torch.Tensor, torch.Tensor]:
    return data.photograph("chelsea").image, data.photograph("coffee").image


def occluded(**state) -> Occluder:
    cat, coffee = shots()
    torch.manual_seed(0)
    cam, rollout = torch.randn(8, 8), torch.randn(16).softmax(0).view(4, 4)
    covers = {"black": 0 * cat, "coffee": coffee}
    return Occluder(classify, cat, covers, "abcde", "b", cam=cam, rollout=rollout, **{"cover": "black"} | state)


def sampling(**state) -> SamplingGrid:
    """A grid that leans, as it is after a reader has made this of its state."""
    figure = SamplingGrid(data.photograph("chelsea").image, torch.tensor(LEANING), pixel=(12, 10))
    figure.state = figure.state | state
    return figure


@cache
def layer_weights() -> dict[str, torch.Tensor]:
    """What full attention and both hops of GSA weigh, with one head, as matrices over all pixels."""
    torch.manual_seed(0)
    x, gsa = 2 * torch.randn(1, 8, 8, 8), GlobalSparseAttention(8, heads=1, patch=2)
    with torch.no_grad(), record_weights() as recorded:
        SelfAttention(8, heads=1)(x)
        gsa(x)
    full, across, within = recorded
    pixels, hops = torch.arange(64.0).view(1, 1, 8, 8), []
    for weights, partition in ((across, grid(2)), (within, window(2))):
        groups, matrix = partition.split(pixels)[..., 0].long(), torch.zeros(64, 64)
        for group, table in zip(groups, weights[:, 0], strict=True):
            matrix[group[:, None], group] = table
        hops.append(matrix)
    return {"full attention": full[0, 0], "GSA": hops[1] @ hops[0], "across": hops[0], "within": hops[1]}


def rank_one(wish: np.ndarray | str = "full attention", cell: tuple[int, int] = (1, 2)) -> RankOne:
    figure = RankOne({name: layer_weights()[name] for name in ("full attention", "GSA")}, patch=4, place=2, cell=cell)
    wished = figure.data["wishes"][wish] if isinstance(wish, str) else wish.tolist()
    figure.state = figure.state | {"wish": wished}
    return figure


@cache
def moved_pairs() -> dict[str, data.Moved]:
    """The cat of chapter 4, which has been shifted, and a texture."""
    torch.manual_seed(1)
    wide = data.photograph("chelsea", 40).image.float()
    crops = torch.stack([wide[:, 4:36, 4:36], wide[:, 2:34, 7:39]])
    first, second = (crops + 10 * torch.randn(crops.shape)).round().clamp(0, 255).byte().split(1)
    shift = torch.tensor([2.0, -3.0]).view(1, 2, 1, 1).expand(1, 2, 32, 32)
    return {"a cat": data.Moved(first, second, shift), "a texture": data.moved(12, seed=1)}


def flow(**state) -> Flow:
    """The figure after a reader has made this of its state: by default as chapter 4 has it."""
    figure = Flow(moved_pairs(), pixel=(16, 10))
    figure.state = figure.state | state
    return figure


@cache
def gated() -> tuple[Trained, list[data.Photograph], torch.Tensor]:
    """The recorded network of chapter 2, its photographs, and the last maps that it makes of them."""
    kept = results.Ledger().trained("resnet20-cpu", "none")
    photographs = [data.photograph(name) for name in ("astronaut", "coffee", "chelsea")]
    with torch.no_grad():
        maps = kept.model.body(kept.model.stem(kept.normalize(torch.stack([each.image for each in photographs]))))
    return kept, photographs, maps


def painted_gate(*strokes: tuple[Any, float], **state) -> PaintedGate:
    """The gate, open but for the bottom row, after strokes: (where, g)."""
    kept, photographs, maps = gated()
    figure = PaintedGate(maps, kept.model.head, kept.classes, photographs, "cat")
    if "word" in state:
        state["word"] = kept.classes.index(state["word"])
    gate = figure.gate().astype(float)
    for where, g in strokes:
        gate[where] = g
    figure.state = figure.state | {"gate": gate.flatten().tolist()} | state
    return figure


FIGURES = {
    "behind": behind,
    "flow": flow,
    "gate": painted_gate,
    "hops": HopMap,
    "influence": influenced,
    "lottery": SeedLottery,
    "near_and_far": near_and_far,
    "occluder": occluded,
    "profiles": Profiles,
    "rank_one": rank_one,
    "reading": reading,
    "sampling": sampling,
    "table": table,
    "views": views,
    "weights": weights,
}


def html(figure: Playable) -> str:
    bundle, _ = figure._repr_mimebundle_()
    return bundle["text/html"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page for each figure, as it stands on the site, where the theme leaves it alone."""
    folder = tmp_path_factory.mktemp("page")
    for file in FILES:
        shutil.copy(file, folder)
    for name, figure in FIGURES.items():
        (folder / f"{name}.html").write_text(PAGE.format(html(figure())))
    with serve(folder) as address:
        yield address


@pytest.fixture
def page(request, browser, address: str):
    """The page of the hop map, or of the figure that a test names, in a fresh tab: on a desk, or as the test has it."""
    options = {"viewport": DESK} | getattr(request, "param", {})
    name = request.node.callspec.params.get("name", "hops") if hasattr(request.node, "callspec") else "hops"
    with browser.new_context(**options) as context:
        page = context.new_page()
        troubles = watch(page, address)
        page.goto(f"{address}/{name}.html")
        if options.get("java_script_enabled", True):
            page.locator(".words").wait_for()
        yield page
        assert troubles == []


def centre(map, side: int, row: int, column: int) -> tuple[float, float]:
    """Where a pixel of a map is on the screen."""
    box = map.bounding_box()
    return box["x"] + (column + 0.5) * box["width"] / side, box["y"] + (row + 0.5) * box["height"] / side


def drawn(page, part: str, side: int) -> np.ndarray:
    """The pixels that a part of the map covers."""
    found = np.zeros((side, side), bool)
    for column, row in re.findall(r"M(\d+) (\d+)h1", page.locator(f"svg path.{part}").get_attribute("d")):
        found[int(row), int(column)] = True
    return found


def assert_views(page, figure: Views) -> None:
    """The page says what the package finds, and fades each layer's copy of the photograph as the package does."""
    page.locator(".words").get_by_text(figure.words(), exact=True).wait_for(timeout=10_000)
    opacities = page.locator("canvas").evaluate_all(
        "all => all.map(canvas => [...canvas.getContext('2d').getImageData(0, 0, 32, 32).data]"
        ".filter((_, place) => place % 4 == 3))"
    )
    for opacity, strength in zip(opacities, [np.ones((32, 32)), *figure.strengths()], strict=True):
        np.testing.assert_allclose(np.reshape(opacity, (32, 32)), 255 * (0.08 + 0.92 * strength), atol=1)


def points(page, part: str) -> np.ndarray:
    """The points (x, y) at which the parts of a path begin, in points of accuracy."""
    places = re.findall(r"M(\S+) ([^\sHhVv]+)", page.locator(f".dots path.{part}").get_attribute("d"))
    return np.array(places, float).reshape(-1, 2) * (0.01, -0.01)


def assert_lottery(page, figure: SeedLottery) -> None:
    """The page says what the package finds, with a dot for each study, and the runs and interval of the marked one."""
    page.locator(".words").get_by_text(figure.words(), exact=True).wait_for(timeout=10_000)
    found, truth, study = figure.studies(), figure.state["difference"], figure.state["study"]
    x, y, _ = found.stacks()
    right = found.star & (found.difference * truth > 0)
    for part, studies in {"star": right, "false": found.star & ~right, "none": ~found.star}.items():
        expected = sorted(np.c_[x, y][studies].tolist())
        np.testing.assert_allclose(sorted(points(page, part).tolist()), expected, atol=1e-9)
    np.testing.assert_allclose(points(page, "marked"), [[x[study], y[study]]])
    runs = figure.runs()[study, [0, found.candidate[study]], : found.seeds[study]]
    np.testing.assert_allclose(points(page, "runs")[:, 0], runs.ravel(), atol=1e-9)
    assert points(page, "interval")[0, 0] == pytest.approx(found.difference[study] - found.reach[study])
    if truth:
        assert points(page, "mean")[0, 0] == pytest.approx(abs(found.difference[found.star]).mean())


def assert_shows(page, figure: HopMap) -> None:
    """The page says and draws what the package finds."""
    page.locator(".words").get_by_text(figure.words(), exact=True).wait_for(timeout=10_000)
    side, (one, two) = figure.state["side"], figure.groups()
    assert (drawn(page, "one", side) == one).all()
    assert (drawn(page, "two", side) == two).all()
    assert np.argwhere(drawn(page, "relay", side)).tolist() == [list(figure.relay())]
    costs = figure.costs()
    assert page.locator(".bar b").all_inner_texts() == list(costs)
    bars = page.locator(".bar .stack").evaluate_all(
        "stacks => stacks.map(stack => [...stack.children].map(part => parseFloat(part.style.height)).reverse())"
    )
    largest = max(map(sum, costs.values()))
    for bar, parts in zip(bars, costs.values(), strict=True):
        np.testing.assert_allclose(bar, 100 * np.array(parts) / largest, atol=0.01)


@pytest.mark.parametrize("first", ["across", "within"])
def test_the_groups_are_those_that_derivatives_find(first: str) -> None:
    figure = HopMap(8, 2, receiver=(5, 2), sender=(0, 7), first=first)
    gsa, x = GlobalSparseAttention(4, patch=2), torch.randn(1, 4, 8, 8)
    hops = [gsa.across, gsa.within] if first == "across" else [gsa.within, gsa.across]
    one, two = figure.groups()
    assert torch.equal(influence(hops[0], x, *figure.relay()) > 0, torch.from_numpy(one))
    assert torch.equal(influence(hops[1], x, 5, 2) > 0, torch.from_numpy(two))
    assert (influence(nn.Sequential(*hops), x, 5, 2) > 0).all()


@pytest.mark.parametrize("side, patch", [(8, 4), (16, 1), (64, 8)])
def test_the_costs_are_those_of_the_layers(side: int, patch: int) -> None:
    costs, pixels = HopMap(side, patch).costs(), side**2
    assert sum(costs[str(patch)]) == count_macs(GlobalSparseAttention(64, patch=patch), (1, 64, side, side))
    assert sum(costs["full"]) == count_macs(SelfAttention(64), (1, 64, side, side))
    assert costs[str(patch)][1:] == [2 * 64 * pixels * pixels // patch**2, 2 * 64 * pixels * patch**2]


@pytest.mark.parametrize("arguments", [(10, 2), (16, 3)])
def test_a_map_that_has_no_costs_is_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"got {arguments[0]} and {arguments[1]}"):
        HopMap(*arguments)


def test_a_pointer_moves_the_receiver_and_a_click_picks_the_sender(page) -> None:
    assert_shows(page, HopMap())
    page.mouse.move(*centre(page.locator(".map"), 16, 12, 3))
    assert_shows(page, HopMap(receiver=(12, 3)))
    page.mouse.click(*centre(page.locator(".map"), 16, 2, 9))
    page.mouse.move(*centre(page.locator(".map"), 16, 15, 15))
    assert_shows(page, HopMap(receiver=(15, 15), sender=(2, 9)))
    page.get_by_text("within a patch").click()
    page.locator(".bar", has_text="8").click()
    assert_shows(page, HopMap(16, 8, receiver=(15, 15), sender=(2, 9), first="within"))


def test_keys_do_the_same(page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for key in ["ArrowUp", "ArrowUp", "ArrowRight", "Enter", *["ArrowDown"] * 12, "ArrowLeft"]:
        page.keyboard.press(key)
    assert_shows(page, HopMap(receiver=(15, 5), sender=(4, 6)))
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    assert_shows(page, HopMap(8, 4, receiver=(7, 2), sender=(2, 3)))
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert_shows(page, HopMap(8, 8, receiver=(7, 2), sender=(2, 3), first="within"))


@pytest.mark.parametrize("page", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}], indirect=True)
def test_a_finger_does_the_same_on_a_phone(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.touchscreen.tap(*centre(page.locator(".map"), 16, 3, 12))
    assert_shows(page, HopMap(receiver=(3, 12)))
    page.touchscreen.tap(*centre(page.locator(".map"), 16, 3, 12))
    page.touchscreen.tap(*centre(page.locator(".map"), 16, 9, 1))
    assert_shows(page, HopMap(receiver=(9, 1), sender=(3, 12)))
    page.locator(".bar", has_text="8").tap()
    assert_shows(page, HopMap(16, 8, receiver=(9, 1), sender=(3, 12)))


@pytest.mark.parametrize("name", ["views"])
def test_a_pixel_of_a_photograph_is_seen_as_the_package_sees_it(page, name: str) -> None:
    assert_views(page, views())
    page.mouse.move(*centre(page.locator(".view").nth(4), 32, 0, 31))
    assert_views(page, views((0, 31)))
    page.locator(".panels").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.get_by_label("Eileen Collins").check()
    figure = views((2, 31))
    figure.state = figure.state | {"photograph": 1}
    assert_views(page, figure)


@pytest.mark.parametrize("name", ["views"])
@pytest.mark.parametrize("page", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}], indirect=True)
def test_a_finger_chooses_a_pixel_of_the_photograph(page, name: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.touchscreen.tap(*centre(page.locator(".view").first, 32, 20, 16))
    assert_views(page, views((20, 16)))


def assert_weighs(page, figure: HopWeights, shown: str = "both") -> None:
    """The page says what the package finds, and colours the photograph by the same weights."""
    page.locator(".words").get_by_text(figure.words(), exact=True).wait_for(timeout=10_000)
    opacity = page.locator("canvas").evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(0, 0, 16, 16).data].filter((_, place) => place % 4 == 3)"
    )
    expected = figure.maps()[shown]
    np.testing.assert_allclose(np.reshape(opacity, (16, 16)), 255 * expected / expected.max(), atol=1)


@pytest.mark.parametrize("name", ["weights"])
def test_the_weights_of_both_hops_are_those_of_the_layer(page, name: str) -> None:
    assert_weighs(page, weights())
    page.mouse.move(*centre(page.locator(".view"), 16, 3, 12))
    assert_weighs(page, weights(receiver=(3, 12)))
    page.mouse.click(*centre(page.locator(".view"), 16, 14, 1))
    page.locator(".map").focus()
    page.keyboard.press("ArrowUp")
    page.get_by_text("hop 1, of the relay").click()
    assert_weighs(page, weights(receiver=(13, 1), sender=(14, 1)), "one")
    page.get_by_text("hop 2, of the receiver").click()
    assert_weighs(page, weights(receiver=(13, 1), sender=(14, 1)), "two")


def test_the_product_of_the_hops_is_that_of_their_matrices() -> None:
    torch.manual_seed(0)
    layer, x = GlobalSparseAttention(4, heads=1, patch=4), torch.randn(1, 4, 16, 16)
    with torch.no_grad(), record_weights() as recorded:
        layer(x)
    figure = HopWeights(*recorded, data.photograph("chelsea", 16).image, receiver=(6, 5))
    both = figure.maps()["both"]
    assert both.sum() == pytest.approx(1, abs=0.001)
    mixed = mixing(layer, x)[:, 6 * 16 + 5].norm(dim=(0, 1)).view(16, 16).numpy()
    np.testing.assert_allclose(both, mixed / mixed.sum(), rtol=0.01)


def test_a_study_peeks_as_scipy_does() -> None:
    figure = SeedLottery(0.1, seeds=20, peek=True)
    runs, found = figure.runs(), figure.studies()
    first = np.full(1000, 20)
    for n in range(20, 1, -1):
        _, p = stats.ttest_ind(runs[:, 1, :n], runs[:, 0, :n], axis=1)
        first[np.asarray(p) < 0.05] = n
    assert (found.seeds == first).all()


@pytest.mark.parametrize("study", [0, 7])
def test_a_study_of_several_candidates_has_the_interval_of_compare(study: int) -> None:
    figure = SeedLottery(0.2, seeds=4, candidates=5, reach="d")
    found = figure.studies()
    arms = {str(arm): dict(enumerate(runs)) for arm, runs in enumerate(figure.runs()[study].tolist())}
    compared = results.compare(arms, "0")
    farthest = max(compared, key=lambda arm: abs(compared[arm].difference))
    assert str(found.candidate[study]) == farthest
    low, high = found.difference[study] - found.reach[study], found.difference[study] + found.reach[study]
    assert (low, high) == pytest.approx((compared[farthest].low, compared[farthest].high))


@pytest.mark.parametrize(
    "figure, share",
    [
        (SeedLottery(), 0.05),
        (SeedLottery(candidates=20, reach="d"), 0.05),
        (SeedLottery(0.2, seeds=2), results.power(0.2, 0.2, 2)),
        (SeedLottery(0.3, sigma=0.15, seeds=3), results.power(0.3, 0.15, 3)),
    ],
)
def test_studies_find_as_often_as_the_tests_promise(figure: SeedLottery, share: float) -> None:
    stars = []
    for draw in range(8):
        figure.state = figure.state | {"draw": draw}
        stars.append(figure.studies().star)
    assert np.mean(stars) == pytest.approx(share, abs=4 * (share * (1 - share) / 8000) ** 0.5)


@pytest.mark.parametrize("arguments", [{"seeds": 21}, {"candidates": 3}])
def test_a_study_without_a_slider_is_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=str(*arguments.values())):
        SeedLottery(**arguments)


def assert_profiles(page, figure: Profiles) -> None:
    """The page says what the package finds, and shades the weights as strong as the layer makes them."""
    page.locator(".words").get_by_text(figure.words(), exact=True).wait_for(timeout=10_000)
    shades = page.locator(".profiles .cell").evaluate_all("cells => cells.map(cell => Number(cell.style.fillOpacity))")
    weights = figure.weights()
    np.testing.assert_allclose(np.reshape(shades, (7, 7)), weights / weights.max(), atol=1e-4)


def test_the_weights_of_a_head_are_one_profile_times_the_other() -> None:
    figure = Profiles(alpha=2.0)
    logits = (torch.tensor(figure.state[name]).double() for name in ("rows", "columns"))
    rows, columns = ((2 * each).softmax(0) for each in logits)
    expected = rows[:, None] * columns
    np.testing.assert_allclose(figure.weights(), expected, atol=1e-9)


def test_no_two_profiles_have_more_of_a_diagonal_than_is_said() -> None:
    torch.manual_seed(0)
    free = (3 * torch.randn(512, 2, 7)).requires_grad_()
    optimizer = torch.optim.Adam([free], 0.1)
    for _ in range(300):
        rows, columns = free.softmax(2).unbind(1)
        common = (rows * columns).clamp(max=1 / 7).sum(1)
        optimizer.zero_grad()
        (-common.sum()).backward()
        optimizer.step()
    best = Profiles().data["best"]["diagonal"]
    assert best - 0.01 < common.max() < best + 1e-6


@pytest.mark.parametrize("arguments", [{"rows": [1.0, 2.0]}, {"columns": [7.0] * 7}, {"alpha": 3.0}])
def test_profiles_that_cannot_be_drawn_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"got {next(iter(arguments.values()))}")):
        Profiles(**arguments)


@pytest.mark.parametrize("name", ["profiles"])
def test_bars_follow_a_pointer_and_keys(page, name: str) -> None:
    assert_profiles(page, Profiles())
    box = page.locator(".profiles svg").bounding_box()
    scale = box["width"] / 107
    page.mouse.move(box["x"] + 35 * scale, box["y"] + 28 * scale)
    page.mouse.down()
    for column in range(7):
        page.mouse.move(box["x"] + (35 + 10 * column) * scale, box["y"] + (28 - 26 * column / 6) * scale)
    page.mouse.up()
    page.mouse.move(box["x"] + 50 * scale, box["y"] + 2 * scale)
    columns = [float(column) for column in range(7)]
    assert_profiles(page, Profiles(columns=columns, bar=6))
    page.locator(".profiles").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert_profiles(page, Profiles((1.5, 3.0, 4.0, 3.0, 1.0, 0.0, 0.0), columns, 4.0, wish="spot", bar=7))


@pytest.mark.parametrize("name", ["profiles"])
@pytest.mark.parametrize("page", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}], indirect=True)
def test_a_finger_raises_a_bar(page, name: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    box = page.locator(".profiles svg").bounding_box()
    scale = box["width"] / 107
    page.touchscreen.tap(box["x"] + 2 * scale, box["y"] + 95 * scale)
    assert_profiles(page, Profiles((1.0, 3.0, 4.0, 3.0, 1.0, 0.0, 6.0), bar=13))


def assert_near_and_far(page, figure: NearAndFar) -> None:
    """The page says what the package finds, shows both pictures, and draws the counted costs."""
    page.locator(".words").get_by_text(figure.words(), exact=True).wait_for(timeout=10_000)
    pictures = page.locator("canvas").evaluate_all(
        "all => all.map(canvas => [...canvas.getContext('2d').getImageData(0, 0, 56, 56).data])"
    )
    for picture, expected in zip(pictures, (figure.seen(), figure.told[figure.state["reduction"]]), strict=True):
        assert (np.reshape(picture, (56, 56, 4))[..., :3] == expected).all()
    costs = {name: np.array(values) for name, values in figure.costs().items()}
    costs["both"] = costs["window"] + costs["summaries"]
    for name, values in costs.items():
        heights = re.findall(r"[ML]\S+ ([\d.-]+)", page.locator(f".costs path.{name}").get_attribute("d"))
        np.testing.assert_allclose(10 ** ((70 - np.array(heights, float)) * 4 / 67) * 3e5, values, rtol=1e-6)
    assert bool(page.locator(".costs path.bound").get_attribute("d")) == figure.state["locked"]


@pytest.mark.parametrize("window, reduction", [(7, 7), (8, 1), (2, 28), (56, 56)])
def test_near_and_far_cost_what_the_layers_do(window: int, reduction: int) -> None:
    figure, n = near_and_far(window, reduction), 56**2
    place = [1, 2, 4, 7, 8, 14, 28, 56].index(reduction)
    costs = {name: values[place] for name, values in figure.costs().items()}
    lsa = LocallyGroupedAttention(64, window=window)
    gsa = GlobalSubsampledAttention(64, reduction=reduction)
    assert sum(costs.values()) == count_macs(nn.Sequential(lsa, gsa), (1, 64, 56, 56))
    assert (costs["window"], costs["summaries"]) == (128 * n * window**2, 128 * n * n // reduction**2)


def test_the_lock_makes_a_valley_and_without_it_there_is_none() -> None:
    locked, free = near_and_far().costs(), near_and_far(7, 7).costs()
    keys = (np.add(locked["window"], locked["summaries"]) // (128 * 56**2)).tolist()
    assert keys == [3137, 788, 212, 113, 113, 212, 788, 3137]
    assert (np.diff(np.add(free["window"], free["summaries"])) < 0).all()


def test_one_summary_leaves_a_flat_picture() -> None:
    figure = near_and_far()
    assert [len(np.unique(figure.told[k].reshape(-1, 3), axis=0)) == 1 for k in (28, 56)] == [False, True]
    spreads = list(figure.data["spreads"].values())
    assert spreads[0] == 1
    assert spreads[-1] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("k", [1, 7])
def test_what_pixels_read_is_attention_among_colours(k: int) -> None:
    figure, image = near_and_far(), data.photograph("astronaut", 56).image.double().numpy()
    colours = (image - image.mean((1, 2), keepdims=True)) / (image - image.mean((1, 2), keepdims=True)).std()
    means = colours.reshape(3, 56 // k, k, 56 // k, k).mean((2, 4)).reshape(3, -1)
    weights = np.exp(colours.reshape(3, -1).T @ means)
    told = (
        weights / weights.sum(1, keepdims=True) @ image.reshape(3, 56 // k, k, 56 // k, k).mean((2, 4)).reshape(3, -1).T
    )
    np.testing.assert_allclose(figure.told[k].reshape(-1, 3), told, atol=0.6)
    whole = figure.told[1].std((0, 1))
    assert figure.data["spreads"][str(k)] == pytest.approx(
        np.linalg.norm(told.std(0)) / np.linalg.norm(whole), abs=0.005
    )


def test_what_a_pixel_attends_to_is_what_derivatives_find() -> None:
    figure, x = near_and_far(4, 7, pixel=(9, 30)), torch.randn(1, 4, 56, 56)
    own = influence(LocallyGroupedAttention(4, window=4), x, 9, 30).numpy() > 0
    picture = figure.seen()
    photograph = data.photograph("astronaut", 56).image.movedim(0, -1).numpy()
    assert (picture[own] == photograph[own]).all()
    means = photograph.reshape(8, 7, 8, 7, 3).mean((1, 3)).repeat(7, 0).repeat(7, 1)
    np.testing.assert_allclose(picture[~own], means[~own], atol=0.51)


@pytest.mark.parametrize("size, window, reduction", [(56, 3, 7), (56, 7, 5), (32, 4, 4)])
def test_sides_that_do_not_tile_the_map_are_refused(size: int, window: int, reduction: int) -> None:
    chosen = {"window": window, "reduction": reduction}
    with pytest.raises(ValueError, match=re.escape(f"got {size}×{size} and {chosen}")):
        NearAndFar(data.photograph("astronaut", size).image, **chosen)


@pytest.mark.parametrize("name", ["near_and_far"])
def test_sliders_and_a_lock_follow_keys_and_a_pointer(page, name: str) -> None:
    assert_near_and_far(page, near_and_far())
    page.keyboard.press("Tab")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Tab", "ArrowRight"):
        page.keyboard.press(key)
    assert_near_and_far(page, near_and_far(8, pixel=(19, 26)))
    for key in ("Tab", "ArrowLeft", "ArrowLeft", "Tab", "Space"):
        page.keyboard.press(key)
    assert_near_and_far(page, near_and_far(4, 4, pixel=(19, 26)))
    page.get_by_label("Reduction").focus()
    page.keyboard.press("End")
    assert_near_and_far(page, near_and_far(4, 56, pixel=(19, 26)))
    page.mouse.move(*centre(page.locator(".view").first, 56, 50, 3))
    page.get_by_label("Window").focus()
    page.keyboard.press("Home")
    assert_near_and_far(page, near_and_far(1, 56, pixel=(50, 3)))
    page.get_by_label("one side").check()
    assert_near_and_far(page, near_and_far(1, pixel=(50, 3)))


@pytest.mark.parametrize("name", ["near_and_far"])
@pytest.mark.parametrize("page", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}], indirect=True)
def test_a_finger_chooses_who_sees_and_opens_the_lock(page, name: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.touchscreen.tap(*centre(page.locator(".view").nth(1), 56, 40, 12))
    assert_near_and_far(page, near_and_far(pixel=(40, 12)))
    page.get_by_label("one side").tap()
    box = page.get_by_label("Reduction").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    assert_near_and_far(page, near_and_far(7, 56, pixel=(40, 12)))


def shares(page) -> list[float]:
    """The numbers that the page says first: how many studies find the difference, in shares, and so on."""
    told = page.locator(".words").inner_text().split("1,000 studies")[1]
    return [float(number) for number in re.findall(r"\d+\.\d+|\d+", told)]


@pytest.mark.parametrize("name", ["lottery"])
def test_keys_move_the_sliders_and_luck_is_as_large_as_luck_says(page, name: str) -> None:
    assert_lottery(page, SeedLottery())
    stars, *_ = shares(page)
    assert stars / 1000 == pytest.approx(0.05, abs=0.03)
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert_lottery(page, SeedLottery(0.1, seeds=20))
    expected = results.luck(0.1, 0.2 * (2 / 20) ** 0.5, results.dunnett_reach((20,), 20, 38))
    found, wrong, missed, exaggeration, *_ = shares(page)
    assert found + wrong + missed == 1000
    assert (found + wrong) / 1000 == pytest.approx(expected.power, abs=0.06)
    assert exaggeration == pytest.approx(expected.exaggeration, abs=0.1)
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert_lottery(page, SeedLottery(0.1, seeds=2, candidates=20, reach="d", peek=True, draw=1))


@pytest.mark.parametrize("name", ["lottery"])
def test_where_studies_differ_most_all_dots_lie_in_the_picture(page, name: str) -> None:
    for slider, end in {"Spread": "End", "Seeds": "Home", "Candidates": "End", "Truth": "End"}.items():
        page.get_by_role("slider", name=slider).focus()
        page.keyboard.press(end)
    figure = SeedLottery(0.3, 0.2, 2, 20)
    assert_lottery(page, figure)
    page.keyboard.press("Home")
    even = SeedLottery(0.0, 0.2, 2, 20)
    assert_lottery(page, even)
    found = np.concatenate([figure.studies().difference, even.studies().difference])
    assert found.min() > LEFT and found.max() < RIGHT


@pytest.mark.parametrize("name", ["lottery"])
def test_a_pointer_changes_the_rules_and_finds_false_stars(page, name: str) -> None:
    page.get_by_label("after each seed").check()
    page.get_by_label("1.96").check()
    box = page.get_by_label("Seeds n").bounding_box()
    page.mouse.click(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    assert_lottery(page, SeedLottery(seeds=20, reach="z", peek=True))
    assert shares(page)[0] > 300
    page.get_by_text("another thousand").click()
    figure = SeedLottery(seeds=20, reach="z", peek=True, draw=1)
    x, y, _ = figure.studies().stacks()
    study = int(x.argmax())
    box = page.locator(".dots svg").bounding_box()
    scale = box["width"] / (RIGHT - LEFT)
    page.mouse.move(box["x"] + (x[study] - LEFT) * scale, box["y"] + (0.92 - y[study]) * scale)
    figure.state = figure.state | {"study": study}
    assert_lottery(page, figure)


@pytest.mark.parametrize("name", ["lottery"])
@pytest.mark.parametrize("page", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}], indirect=True)
def test_a_finger_asks_a_study_for_its_runs(page, name: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    figure = SeedLottery()
    x, y, _ = figure.studies().stacks()
    study = int(x.argmin())
    box = page.locator(".dots svg").bounding_box()
    scale = box["width"] / (RIGHT - LEFT)
    page.touchscreen.tap(box["x"] + (x[study] - LEFT) * scale, box["y"] + (0.92 - y[study]) * scale)
    assert_lottery(page, SeedLottery(study=study))
    page.get_by_text("Dunnett's d, for").tap()
    assert_lottery(page, SeedLottery(study=study, reach="d"))


def assert_reads(page, figure: Table) -> None:
    """The page says what the package finds, and shows as much of each pixel as it is heard."""
    page.locator(".words").get_by_text(figure.words(), exact=True).wait_for(timeout=10_000)
    heard = page.locator("canvas").nth(2)
    colours = heard.evaluate("canvas => [...canvas.getContext('2d').getImageData(0, 0, 16, 16).data]")
    opacity, expected = np.reshape(colours, (16, 16, 4))[..., 3], figure.read()
    np.testing.assert_allclose(opacity, 255 * expected / expected.max(), atol=1)
    clear = opacity > 250
    np.testing.assert_allclose(np.reshape(colours, (16, 16, 4))[clear, :3], figure.image()[clear], atol=1)


@pytest.mark.parametrize("name", ["table"])
def test_rows_and_columns_are_those_of_the_table(page, name: str) -> None:
    assert_reads(page, table())
    page.mouse.move(*centre(page.locator(".view").first, 16, 9, 2))
    assert_reads(page, table(pixel=(9, 2)))
    page.mouse.move(*centre(page.locator(".view").nth(1), 256, 35, 200))
    assert_reads(page, table(pixel=(2, 3)))
    page.locator(".panels").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    assert_reads(page, table(pixel=(2, 2), reads="column"))
    page.get_by_label("add a bias").check()
    assert_reads(page, table(pixel=(2, 2), reads="column", near=True))
    page.get_by_label("shuffle").check()
    moved = np.unravel_index(table().order.tolist().index(34), (16, 16))
    assert_reads(page, table(pixel=moved, reads="column", near=True, shuffled=True))


def test_the_table_is_that_of_attention() -> None:
    figure, places = table(), positions(16, 16)
    q, k = (torch.from_numpy(tokens)[None, None] for tokens in (figure.q, figure.k))
    near = -(places[:, None] - places).square().sum(-1) / 8
    with record_weights() as recorded:
        attend(q, k, k, scale=1.0)
        attend(q, k, k, scale=1.0, bias=near)
    np.testing.assert_allclose(figure.weights(), recorded[0][0, 0], atol=1e-6)
    np.testing.assert_allclose(table(near=True).weights(), recorded[1][0, 0], atol=1e-6)
    shuffled = table(shuffled=True).weights()
    np.testing.assert_allclose(shuffled, figure.weights()[np.ix_(figure.order, figure.order)], atol=1e-12)


def assert_behind(page, figure: MatrixBehind) -> None:
    """The page says what the package finds, and shows its matrix, its image, its sums and what has moved along."""
    page.locator(".words").get_by_text(figure.words(), exact=True).wait_for(timeout=10_000)
    colours = page.locator("canvas").evaluate("canvas => [...canvas.getContext('2d').getImageData(0, 0, 64, 64).data]")
    (red, _, blue, opacity), matrix = np.reshape(colours, (-1, 4)).T.reshape(4, 64, 64), figure.matrix()
    np.testing.assert_allclose(opacity, 255 * abs(matrix) / abs(matrix).max(), atol=1)
    assert (np.sign(matrix) == np.sign(blue - red)).all()
    boards = {name: page.locator(f"[style*='grid-area: {name}']") for name in ("image", "result", "products", "sums")}
    numbers = {
        name: [word.replace("−", "-") for word in board.locator("text").all_text_contents()]
        for name, board in boards.items()
    }
    assert np.array_equal(np.reshape(numbers["image"], (8, 8)).astype(int), figure.seen())
    assert np.array_equal(np.array(numbers["sums"], int), matrix.sum(1))
    if figure.state["weights"] != "free":
        assert [word.replace("-", "−") for word in numbers["products"] if word != "0"] == figure.products()
    faint = boards["image"].locator("rect").evaluate_all("cells => cells.map(cell => cell.getAttribute('opacity') < 1)")
    assert np.array_equal(faint, figure.row() == 0)
    greys = boards["result"].locator("rect").evaluate_all("cells => cells.map(cell => cell.getAttribute('fill'))")
    result = figure.result().flatten()
    levels = [int(re.findall(r"\d+", grey)[0]) for grey in greys]
    np.testing.assert_allclose(levels, 255 * (result - result.min()) / np.ptp(result), atol=1)
    dots = re.findall(r"M(\S+) (\S+)h0", boards["result"].locator(".astray").get_attribute("d"))
    assert [[float(y) - 0.5, float(x) - 0.5] for x, y in dots] == np.argwhere(~figure.along()).tolist()
    top = page.locator(".behind .pixel").evaluate("row => parseFloat(row.style.top)")
    assert np.array_equal(matrix[round(top * 64 / 100)], figure.row())


@pytest.mark.parametrize("name", ["behind"])
def test_the_matrix_behind_follows_a_pointer_and_keys(page, name: str) -> None:
    assert_behind(page, behind())
    page.mouse.move(*centre(page.locator(".view").nth(1), 8, 0, 5))
    assert_behind(page, behind(pixel=(0, 5)))
    page.mouse.move(*centre(page.locator(".view:has(canvas)"), 64, 50, 3))
    assert_behind(page, behind(pixel=(6, 2)))
    page.get_by_label("circular").check()
    page.locator(".panels").focus()
    for key in ["ArrowDown", "ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowLeft"]:
        page.keyboard.press(key)
    page.get_by_label("Image moved").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert_behind(page, behind(3, pixel=(7, 0), border="circular"))
    page.get_by_label("near").check()
    assert_behind(page, behind(3, pixel=(7, 0), border="circular", weights="near"))
    page.get_by_label("zeros").check()
    assert_behind(page, behind(3, pixel=(7, 0), weights="near"))
    page.get_by_label("shared").check()
    assert_behind(page, behind(3, pixel=(7, 0)))
    page.get_by_label("free").check()
    assert_behind(page, behind(3, pixel=(7, 0), weights="free"))
    assert page.get_by_label("circular").is_disabled()


@pytest.mark.parametrize("name", ["behind"])
@pytest.mark.parametrize("page", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}], indirect=True)
def test_a_finger_reads_a_row_of_the_matrix(page, name: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.touchscreen.tap(*centre(page.locator(".view").nth(1), 8, 7, 7))
    page.get_by_label("near").tap()
    assert_behind(page, behind(pixel=(7, 7), weights="near"))


@pytest.mark.parametrize("border", ["zeros", "circular"])
def test_the_matrix_of_a_convolution_does_what_it_does(border: str) -> None:
    figure = behind(border=border)
    image = torch.from_numpy(figure.image)[None, None].float()
    around = nn.functional.pad(image, (1, 1, 1, 1), mode={"zeros": "constant"}.get(border, border))
    expected = nn.functional.conv2d(around, figure.kernel[None, None].float())
    assert np.array_equal(figure.result(), expected[0, 0])


def test_nearness_leaves_484_of_4096_numbers_and_rows_lose_entries_at_the_border() -> None:
    free, near, shared = (behind(weights=kind).matrix() for kind in ("free", "near", "shared"))
    assert [np.count_nonzero(matrix) for matrix in (free, near, shared)] == [4096, 484, 484]
    assert ((near == free) | (near == 0)).all()
    entries = np.count_nonzero(near, axis=1).reshape(8, 8)
    assert ((entries == 4).sum(), (entries == 6).sum(), (entries[1:-1, 1:-1] == 9).all()) == (4, 24, True)
    around = behind(weights="near", border="circular").matrix()
    assert (np.count_nonzero(around, axis=1) == 9).all()


def test_in_a_circle_the_matrix_is_block_circulant_and_results_move_with_the_image() -> None:
    matrix = behind(border="circular").matrix().reshape(8, 8, 8, 8)
    assert np.array_equal(np.roll(matrix, (1, 1), (0, 2)), matrix)
    assert np.array_equal(np.roll(matrix, (1, 1), (1, 3)), matrix)
    assert all(behind(moved, border="circular").along().all() for moved in range(8))
    along = behind(3).along()
    assert not along[:, [0, 2, 3, 7]].any()
    assert along[1:-1, [1, 4, 5, 6]].all()


def assert_bilinear(page, figure: BilinearRead) -> None:
    """The page says what the package reads, and shades each pixel by its weight."""
    page.locator(".words").get_by_text(figure.words(), exact=True).wait_for(timeout=10_000)
    shares = page.locator(".share").evaluate_all("cells => cells.map(cell => cell.getAttribute('opacity') / 0.65)")
    np.testing.assert_allclose(np.reshape(shares, (4, 4)), figure.weights(), atol=1e-9)


@pytest.mark.parametrize("name", ["reading"])
def test_a_place_is_read_as_the_package_reads_it(page, name: str) -> None:
    assert_bilinear(page, reading())
    box = page.locator(".map").bounding_box()
    unit = box["width"] / 8
    page.mouse.move(box["x"] + 6.055 * unit, box["y"] + 5.705 * unit)
    assert_bilinear(page, reading((2.3, 2.65)))
    page.locator(".map").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert_bilinear(page, reading((2.0, 2.5)))
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    assert_bilinear(page, reading((2.0, -1.5)))


@pytest.mark.parametrize("place", [(0.5, 1.25), (1.75, 2.4), (-0.5, 3.5), (4.5, 0.0)])
def test_the_slopes_are_the_derivatives_between_pixels(place: tuple[float, float]) -> None:
    figure, at = reading(place), torch.tensor(place, dtype=torch.double).view(1, 1, 1, 2).requires_grad_()
    bilinear_sample(figure.values[None, None], at).sum().backward()
    slopes = figure.slopes()
    assert at.grad is not None
    if place[1] % 1:
        assert slopes["right"] == slopes["left"]
        np.testing.assert_allclose(at.grad.flatten(), (slopes["down"], slopes["right"]), atol=1e-9)
    assert ("nothing to learn" in figure.words()) == (place == (4.5, 0.0))


def test_the_still_picture_has_the_arrow() -> None:
    *_, arrow = reading().draw().axes[1].texts
    plt.close()
    np.testing.assert_allclose([arrow.xyann, arrow.xy], [(1.25, 0.5), (1.75, 0.0)])


UNITS = {"top left": (-1, -1), "top right": (1, -1), "bottom left": (-1, 1), "bottom right": (1, 1), "middle": (0, 0)}


def assert_samples(page, figure: SamplingGrid) -> None:
    """The page says what the package finds, shows what PyTorch reads, θ, and the handles where θ sends them."""
    page.locator(".words").get_by_text(figure.words(), exact=True).wait_for(timeout=10_000)
    theta, picture = figure.state["theta"], figure.read()
    height = len(picture)
    colours = page.locator("canvas.read").evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(0, 0, 32, 32).data]"
    )
    colours, rows = np.reshape(colours, (32, 32, 4)), slice((32 - height) // 2, (32 + height) // 2)
    np.testing.assert_allclose(colours[rows, :, :3], picture, atol=1)
    assert (np.delete(colours, np.r_[rows], 0)[..., 3] == 0).all()
    shown = [float(number.replace("−", "-")) for number in page.locator(".matrix span").all_inner_texts()]
    assert shown == [number for row in theta for number in row]
    for name, unit in UNITS.items():
        expected = figure.places(
            torch.tensor(theta, dtype=torch.double) @ torch.tensor([*unit, 1.0], dtype=torch.double)
        )
        x, y = middle(page, name)
        box = page.locator(".view").first.bounding_box()
        found = np.array([y - box["y"], x - box["x"]]) / box["width"] * 48 - 8.5 - [(32 - height) / 2, 0]
        np.testing.assert_allclose(found, expected, atol=0.1)


def middle(page, name: str) -> tuple[float, float]:
    """Where a handle of the grid is on the screen."""
    box = page.get_by_role("button", name=name).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def through(top_left: tuple, top_right: tuple, bottom_left: tuple) -> list[list[float]]:
    """The θ that sends three corners of the grid to these places, in its own units."""
    corners = np.array([[-1, -1, 1], [1, -1, 1], [-1, 1, 1]])
    return np.linalg.solve(corners, [top_left, top_right, bottom_left]).T.round(3).tolist()


def on_screen(page, x: float, y: float, *, height: int = 32, aligned: int = 0) -> tuple[float, float]:
    """Where a point of the map, in θ's units, is on the screen."""
    box = page.locator(".view").first.bounding_box()
    column, row = (((unit + 1) * (n - aligned) + aligned - 1) / 2 for unit, n in ((x, 32), (y, height)))
    return tuple(
        box[a] + (place + 8.5) / 48 * box["width"] for a, place in (("x", column), ("y", row + 16 - height / 2))
    )


def drag(page, name: str, *to: float, **how: int) -> None:
    page.locator(".view").first.scroll_into_view_if_needed()
    page.mouse.move(*middle(page, name))
    page.mouse.down()
    page.mouse.move(*on_screen(page, *to, **how), steps=3)
    page.mouse.up()


@pytest.mark.parametrize("name", ["sampling"])
def test_a_pointer_moves_the_grid_and_the_picture_is_what_pytorch_reads(page, name: str) -> None:
    assert_samples(page, sampling())
    page.get_by_role("button", name="identity").click()
    assert_samples(page, sampling(theta=through((-1, -1), (1, -1), (-1, 1))))
    drag(page, "top left", -0.5, -0.4)
    assert_samples(page, sampling(theta=through((-0.5, -0.4), (1, -1), (-1, 1))))
    drag(page, "bottom left", -0.6, 0.7)
    assert_samples(page, sampling(theta=through((-0.5, -0.4), (0.6, -0.7), (-0.6, 0.7))))
    drag(page, "middle", 0.2, -0.1)
    moved = through((-0.3, -0.5), (0.8, -0.8), (-0.4, 0.6))
    assert_samples(page, sampling(theta=moved))
    page.get_by_label("twice as wide").check()
    assert_samples(page, sampling(theta=moved, wide=True, pixel=(4, 10)))
    drag(page, "bottom right", 0.5, 1.1, height=16)
    moved = through((-0.1, -1.3), (0.8, -0.8), (-0.4, 0.6))
    assert_samples(page, sampling(theta=moved, wide=True, pixel=(4, 10)))
    page.mouse.move(*centre(page.locator(".picture"), 32, 30, 21))
    assert_samples(page, sampling(theta=moved, wide=True, pixel=(15, 21)))
    page.get_by_label("grid_sample").check()
    drag(page, "top right", 0.7, -0.5, height=16, aligned=1)
    moved = through((-0.1, -1.3), (0.7, -0.5), (-0.3, 0.3))
    assert_samples(page, sampling(theta=moved, wide=True, grid_sample=True, pixel=(15, 21)))
    page.get_by_label("affine_grid").check()
    assert_samples(page, sampling(theta=moved, wide=True, affine_grid=True, grid_sample=True, pixel=(15, 21)))
    page.get_by_label("twice as wide").uncheck()
    page.get_by_label("grid_sample").uncheck()
    assert_samples(page, sampling(theta=moved, affine_grid=True, pixel=(23, 21)))


@pytest.mark.parametrize("name", ["sampling"])
def test_keys_move_the_grid(page, name: str) -> None:
    page.get_by_role("button", name="zoom in").click()
    page.get_by_role("button", name="top left").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "Tab", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert_samples(page, sampling(theta=through((-0.4, -0.3), (0.4, -0.5), (-0.4, 0.5))))
    for key in ("Tab", "Tab", "Tab", "ArrowDown", "ArrowLeft", "Tab", "ArrowUp", "ArrowRight"):
        page.keyboard.press(key)
    assert_samples(page, sampling(theta=through((-0.5, -0.2), (0.3, -0.4), (-0.5, 0.6)), pixel=(11, 11)))
    for key in ("Tab", "Tab", "Enter", "Tab", "Tab", "Tab", "Space", "Tab", "Space", "Tab", "Space"):
        page.keyboard.press(key)
    turned = [[0.866, -0.5, 0.0], [0.5, 0.866, 0.0]]
    switches = {"wide": True, "affine_grid": True, "grid_sample": True}
    assert_samples(page, sampling(theta=turned, pixel=(3, 11), **switches))


@pytest.mark.parametrize("name", ["sampling"])
@pytest.mark.parametrize("page", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}], indirect=True)
def test_a_finger_drags_a_corner_as_far_as_it_goes(page, name: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.get_by_role("button", name="mirror").tap()
    touch = page.context.new_cdp_session(page)
    for start, end, corners in (
        ("top left", (0.6, -0.6), ((0.6, -0.6), (-1, -1), (1, 1))),
        ("bottom right", (-1.9, 0.8), ((1.5, -0.8), (-1, -1), (1, 1))),
    ):
        page.locator(".view").first.scroll_into_view_if_needed()
        places = [middle(page, start), on_screen(page, 0, 0), on_screen(page, *end)]
        for kind, (x, y) in zip(("touchStart", "touchMove", "touchMove"), places, strict=True):
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert_samples(page, sampling(theta=through(*corners)))


@pytest.mark.parametrize("wide", [False, True])
def test_what_is_read_is_what_the_layers_read(wide: bool) -> None:
    figure = sampling(wide=wide, pixel=(3, 3))
    x = figure.map()[None].double()
    stn = SpatialTransformer(3).double()
    stn.fc.bias.data = torch.tensor(LEANING).double().flatten() - torch.eye(2, 3).double().flatten()
    np.testing.assert_allclose(figure.read(), stn(x)[0].detach().movedim(0, -1), atol=0.51)
    for switches in ({"affine_grid": True}, {"grid_sample": True}, {"affine_grid": True, "grid_sample": True}):
        figure.state = sampling(wide=wide, **switches).state
        read = bilinear_sample(x, torch.from_numpy(figure.places(figure.grid())))
        np.testing.assert_allclose(figure.read(), read[0].movedim(0, -1), atol=0.51)


def test_a_turn_keeps_shapes_on_a_wide_map_if_it_is_corrected() -> None:
    turn, corrected = [[[0.866, sine, 0.0], [cosine, 0.866, 0.0]] for sine, cosine in ((-0.5, 0.5), (-0.25, 1.0))]
    wide: dict[str, Any] = {"wide": True, "pixel": (4, 10)}
    assert "1.00 along a column, which meet at 90°: shapes are kept." in sampling(theta=turn).words()
    assert "meet at 123°: shapes are not kept." in sampling(theta=turn, **wide).words()
    assert "1.00 along a column, which meet at 90°: shapes are kept." in sampling(theta=corrected, **wide).words()


@pytest.mark.parametrize(
    "switches, first, area",
    [
        ((), "(0.00, 0.00)", "1.00"),
        (("affine_grid", "grid_sample"), "(0.00, 0.00)", "1.00"),
        (("affine_grid",), "(−0.50, −0.50)", "0.94"),
        (("grid_sample",), "(0.48, 0.48)", "1.07"),
    ],
)
def test_corners_are_half_a_pixel_apart_and_mixed_the_identity_zooms(
    switches: tuple[str, ...], first: str, area: str
) -> None:
    figure = sampling(theta=[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], pixel=(0, 0), **dict.fromkeys(switches, True))
    inside = 0 if "grid_sample" in switches else -0.5
    assert figure.places(torch.tensor([-1.0, -1.0])).tolist() == [inside, inside]
    assert f"is read at {first}." in figure.words()
    assert figure.words().endswith(f"{area} times their area.")


def test_a_grid_may_mirror_and_may_have_no_area() -> None:
    assert sampling(theta=[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).words().endswith("and are mirrored.")
    assert "no area" in sampling(theta=[[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]).words()


@pytest.mark.parametrize("shape", [(3, 30, 30), (3, 32, 16)])
def test_a_photograph_that_has_no_middle_rows_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"got {shape[1]}×{shape[2]}"):
        SamplingGrid(torch.zeros(shape, dtype=torch.uint8), torch.eye(2, 3), pixel=(0, 0))


def assert_influence(page, figure: Influence) -> None:
    """The page says what the package finds, and both maps are as blue as the package has them."""
    page.locator(".words").get_by_text(figure.words(), exact=True).wait_for(timeout=10_000)
    for name, blueness in zip(("moving", "held"), figure.maps(), strict=True):
        opacity = page.locator(f"canvas.{name}").evaluate(
            "canvas => [...canvas.getContext('2d').getImageData(0, 0, 8, 8).data].filter((_, place) => place % 4 == 3)"
        )
        np.testing.assert_allclose(np.reshape(opacity, (8, 8)), 255 * blueness, atol=1)


@pytest.mark.parametrize("name", ["influence"])
def test_the_influence_on_a_pixel_is_that_of_the_package(page, name: str) -> None:
    assert_influence(page, influenced())
    page.mouse.move(*centre(page.locator(".view").nth(2), 8, 6, 1))
    assert_influence(page, influenced(pixel=(6, 1)))
    page.mouse.move(*centre(page.locator(".view").first, 8, 3, 2))
    assert_influence(page, influenced(pixel=(3, 2)))
    page.get_by_label("self").check()
    assert_influence(page, influenced(layer="self", pixel=(3, 2)))
    page.locator(".panels").focus()
    for key in ["ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowLeft"]:
        page.keyboard.press(key)
    assert_influence(page, influenced(layer="self", pixel=(4, 0)))
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert_influence(page, influenced(layer="conv", pixel=(4, 0)))


@pytest.mark.parametrize("name", ["influence"])
@pytest.mark.parametrize("page", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}], indirect=True)
def test_a_finger_asks_whom_a_pixel_hears(page, name: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.touchscreen.tap(*centre(page.locator(".view").nth(1), 8, 7, 7))
    page.get_by_label("conv").tap()
    assert_influence(page, influenced(layer="conv", pixel=(7, 7)))


@pytest.mark.parametrize("layer, pixel", [("conv", (0, 0)), ("se", (6, 6)), ("self", (5, 2))])
def test_the_tones_are_those_of_the_derivatives(layer: str, pixel: tuple[int, int]) -> None:
    figure = influenced(layer=layer, pixel=pixel)
    for held, blueness in enumerate(figure.maps()):
        found = influences()[layer][held][pixel].numpy()
        relative = found / found.max()
        assert ((blueness > 0) == (found > 0)).all()
        seen = relative > 2e-3
        np.testing.assert_allclose(10 ** (4 * blueness[seen] - 4), relative[seen], rtol=0.08)
        shares = re.findall(r"\d\.\d\d", figure.words())
        assert float(shares[held]) == pytest.approx(1 - found[pixel] / found.sum(), abs=0.0051)


def test_a_gate_is_moved_from_afar_receives_nothing_and_is_deaf_in_the_dark() -> None:
    assert "not black. Input pixels that move its output: 64 of 64; with the weights held, 1." in influenced().words()
    dark = influenced(pixel=(2, 2)).words()
    assert "is black. Input pixels that move its output: 1 of 64; with the weights held, 1." in dark
    dark = influenced(layer="self", pixel=(2, 2)).words()
    assert "is black. Input pixels that move its output: 64 of 64; with the weights held, 64." in dark


def assert_occluded(page, figure: Occluder) -> None:
    """The page says what the package finds, and shows photograph, answer and maps as the package has them."""
    page.locator(".words").get_by_text(figure.words(), exact=True).wait_for(timeout=10_000)
    canvases = page.locator("canvas").evaluate_all(
        "all => all.map(canvas => [...canvas.getContext('2d').getImageData(0, 0, 32, 32).data])"
    )
    photo, *maps = np.reshape(canvases, (4, 32, 32, 4))
    seen, cover = shots()[0].clone(), {"black": 0 * shots()[0], "coffee": shots()[1]}[figure.state["cover"]]
    row, column = figure.square()
    seen[:, row, column] = cover[:, row, column]
    assert (photo[..., :3] == seen.movedim(0, -1).numpy()).all()
    for shown, values, scale in zip(maps, figure.maps().values(), figure.scales().values(), strict=True):
        known = ~np.isnan(values)
        assert ((shown[..., 3] == 255) == known).all()
        hues = np.where(values[..., None] > 0, (0, 114, 178) if shown is maps[-1] else (148, 69, 154), (200, 78, 0))
        expected = 255 + np.minimum(1, abs(values[..., None]) / scale) * (hues - 255)
        np.testing.assert_allclose(shown[known, :3], expected[known], atol=1)
    bars = page.locator(".track i").evaluate_all("bars => bars.map(bar => parseFloat(bar.style.width))")
    np.testing.assert_allclose(bars, 100 * figure.answers(), atol=0.01)
    lines = page.locator(".track s").evaluate_all("lines => lines.map(line => parseFloat(line.style.left))")
    np.testing.assert_allclose(lines, 100 * classify(shots()[0][None])[0].numpy(), atol=0.01)
    frames = page.locator(".pixel").evaluate_all(
        "marks => marks.map(({ style }) => [style.top, style.left, style.width].map(parseFloat))"
    )
    size, (row, column) = figure.state["size"], figure.state["corner"]
    square, middle = (row, column, size), (row + size / 2 - 1, column + size / 2 - 1, 2)
    np.testing.assert_allclose(frames, 100 / 32 * np.array([square, middle, square, square]), atol=0.01)


@pytest.mark.parametrize("name", ["occluder"])
def test_a_cover_is_dragged_over_a_photograph_and_over_its_maps(page, name: str) -> None:
    assert_occluded(page, occluded())
    page.mouse.move(*centre(page.locator(".view").first, 32, 20, 4))
    page.mouse.down()
    page.mouse.move(*centre(page.locator(".view").first, 32, 25, 9))
    page.mouse.up()
    page.mouse.move(*centre(page.locator(".view").first, 32, 3, 3))
    assert_occluded(page, occluded(corner=(22, 6)))
    page.get_by_label("coffee").check()
    assert_occluded(page, occluded(corner=(22, 6), cover="coffee"))
    page.get_by_label("12×12").check()
    assert_occluded(page, occluded(corner=(20, 4), cover="coffee", size=12))
    page.mouse.click(*centre(page.locator(".view").nth(2), 32, 2, 30))
    assert_occluded(page, occluded(corner=(0, 20), cover="coffee", size=12))


@pytest.mark.parametrize("name", ["occluder"])
def test_keys_move_the_cover_by_its_steps(page, name: str) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for key in ["ArrowUp", "ArrowUp", *["ArrowRight"] * 9]:
        page.keyboard.press(key)
    assert_occluded(page, occluded(corner=(8, 24)))
    for key in ["Tab", "ArrowDown", "Tab", "ArrowUp"]:
        page.keyboard.press(key)
    assert_occluded(page, occluded(corner=(10, 26), cover="coffee", size=4))


@pytest.mark.parametrize("name", ["occluder"])
@pytest.mark.parametrize("page", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}], indirect=True)
def test_a_finger_lays_the_cover(page, name: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.touchscreen.tap(*centre(page.locator(".view").first, 32, 12, 8))
    assert_occluded(page, occluded(corner=(8, 4)))
    page.get_by_label("4×4").tap()
    assert_occluded(page, occluded(corner=(10, 6), size=4))


@pytest.mark.parametrize("cover, size, corner", [("coffee", 4, (0, 28)), ("black", 8, (2, 14)), ("coffee", 12, (8, 4))])
def test_the_answers_are_those_to_the_covered_photograph(cover: str, size: int, corner: tuple[int, int]) -> None:
    figure, (cat, coffee), (row, column) = occluded(cover=cover, size=size, corner=corner), shots(), corner
    under = slice(row, row + size), slice(column, column + size)
    seen = cat.clone()
    seen[:, *under] = coffee[:, *under] if cover == "coffee" else 0
    (whole, shares), b = classify(torch.stack([cat, seen])), 1
    np.testing.assert_allclose(figure.answers(), shares, atol=1e-5)
    fall = whole[b].logit() - shares[b].logit()
    middle = row + size // 2, column + size // 2
    assert figure.maps()["occlusion"][middle] == pytest.approx(fall.item(), abs=0.01)
    words, others = figure.words(), shares.clone().index_fill(0, torch.tensor(b), 0)
    before, after = f"{whole[b]:.2f}", f"{shares[b]:.2f}"
    moved = "stays at" if before == after else f"{'falls' if fall > 0 else 'rises'} from {before} to"
    assert f"b {moved} {after}; " in words
    assert f"is {'abcde'[others.argmax()]} with {others.max():.2f}." in words
    assert ("ahead" in words) == (others.max() > shares[b]).item()
    assert float(re.findall(r"(?:gain|lose) (\d+\.\d\d)", words)[0]) == pytest.approx(abs(fall.item()), abs=0.006)
    for name, side in (("CAM", 8), ("rollout", 4)):
        coarse = torch.from_numpy({"CAM": figure.cam, "rollout": figure.rollout}[name])
        fine = nn.functional.interpolate(coarse[None, None], (32, 32))[0, 0] * (side / 32) ** 2
        part, even = (f"{value:.2f}".replace("-", "−") for value in (fine[under].sum(), fine.mean() * size**2))
        assert re.search(f"{name} has {part} of .{{3,10}}, an even share is {even}", words)


def test_the_cat_of_the_last_chapter_has_what_is_to_be_found() -> None:
    cells = {cell.id: cell.source for cell in nbformat.read(ROOT / "book" / "10_outlook.ipynb", as_version=4).cells}
    names: dict[str, Any] = {}
    with plt.rc_context():
        for cell in ("imports", "maps", "odds-of-cat", "photograph"):
            exec(cells[cell].replace("playable.Occluder(", "figure = playable.Occluder("), names)
    figure = names["figure"]
    falls = {name: figure.falls(name, 8) for name in ("black", "grey", "coffee")}
    between, left_eye, cam, rollout = (
        [fall[row // 2, column // 2] for fall in falls.values()]
        for row, column in ((6, 14), (10, 6), (12, 12), (24, 4))
    )
    assert min(between) > 2
    assert max(left_eye) < -0.4
    assert np.abs(rollout).max() < 0.1
    assert abs(cam[0]) < 0.1
    assert min(cam[1:]) > 1
    for name, darkest in (("CAM", (12, 12)), ("rollout", (24, 4))):
        under = np.lib.stride_tricks.sliding_window_view(figure.maps()[name], (8, 8))[::2, ::2].sum((2, 3))
        assert np.argwhere(under == under.max()).tolist() == [[place // 2 for place in darkest]]
    assert figure.maps()["CAM"][12:20, 6:14].sum() > 0.4
    assert figure.answers()[3] == pytest.approx(0.5, abs=0.005)
    hops = HopWeights(*(weights.detach() for weights in names["recorded"][-2:]), data.photograph("chelsea", 8).image)
    both = []
    for receiver in np.ndindex(8, 8):
        hops.state = hops.state | {"receiver": receiver}
        both.append(hops.maps()["both"])
    np.testing.assert_allclose(figure.rollout, (np.mean(both, 0) + 1 / 64) / 2, atol=1e-5)


def unfold(cells: Any) -> np.ndarray:
    """Receivers × senders, of cells as they are shown: a square a receiver, in it a cell a sender."""
    return np.reshape(cells, (2, 4, 2, 4)).swapaxes(1, 2).reshape(4, 16)


def assert_rank_one(page, figure: RankOne) -> None:
    """The page says what the package finds, and shows the wish, the nearest product and what is left over."""
    page.locator(".words").get_by_text(figure.words(), exact=True).wait_for(timeout=10_000)
    wish, nearest = figure.wish().numpy(), figure.nearest().numpy()
    read = "all => all.map(cell => cell.style.fillOpacity * (cell.classList.contains('surplus') ? -1 : 1))"
    for part, expected in {"wish": wish, "nearest": nearest, "left": wish - nearest}.items():
        shown = page.locator(f".{part} .cell").evaluate_all(read)
        np.testing.assert_allclose(unfold(shown), expected.clip(-1, 1), atol=1e-5)
    column, row = (factor / max(factor.max(), 1e-9) for factor in map(torch.Tensor.numpy, figure.factors()))
    np.testing.assert_allclose(page.locator(".beta .cell").evaluate_all(read), column, atol=1e-5)
    np.testing.assert_allclose(page.locator(".alpha .cell").evaluate_all(read), row, atol=1e-5)
    numbers = page.locator(".factors-panel text").all_text_contents()[:4]
    np.testing.assert_allclose(np.array(numbers, float), column, atol=0.0051)
    heights = page.locator("rect.met").evaluate_all("all => all.map(bar => (bar.getAttribute('height') - 0.04) / 2.6)")
    np.testing.assert_allclose(heights, figure.met(), atol=1e-6)
    row, column = (int(page.locator(".wish-panel .chosen").get_attribute(axis) or -1) for axis in "yx")
    assert (row, column) == tuple(figure.state["cell"])
    receiver, sender = figure.path()
    for part, pixel in {"receiver": receiver, "sender": sender}.items():
        assert np.argwhere(drawn(page, part, 8)).tolist() == [list(pixel)]


def painted(values: dict[tuple[int, int], float], wish: str = "nothing") -> np.ndarray:
    """The named wish with some of its cells painted, as receivers × senders."""
    cells = np.array(rank_one(wish).state["wish"]).reshape(2, 2, 4, 4).swapaxes(1, 2).reshape(8, 8)
    for cell, value in values.items():
        cells[cell] = value
    return unfold(cells)


@pytest.mark.parametrize("name", ["rank_one"])
def test_a_pointer_paints_a_wish(page, name: str) -> None:
    assert_rank_one(page, rank_one())
    wish = page.locator(".wish")
    page.mouse.move(*centre(wish, 8, 6, 1))
    assert_rank_one(page, rank_one(cell=(6, 1)))
    page.get_by_role("button", name="GSA").click()
    assert_rank_one(page, rank_one("GSA", cell=(6, 1)))
    page.get_by_role("button", name="nothing").click()
    assert_rank_one(page, rank_one("nothing", cell=(6, 1)))
    page.mouse.move(*centre(wish, 8, 0, 0))
    page.mouse.down()
    page.mouse.move(*centre(wish, 8, 3, 3))
    page.mouse.move(*centre(wish, 8, 3, 6))
    page.mouse.up()
    full = dict.fromkeys([(0, 0), (1, 1), (2, 2), (3, 3), (3, 4), (3, 5), (3, 6)], 1.0)
    assert_rank_one(page, rank_one(painted(full), cell=(3, 6)))
    page.mouse.click(*centre(wish, 8, 3, 5))
    page.mouse.click(*centre(wish, 8, 7, 0))
    page.mouse.click(*centre(wish, 8, 7, 0))
    page.mouse.click(*centre(wish, 8, 7, 0))
    page.mouse.click(*centre(wish, 8, 6, 7))
    assert_rank_one(page, rank_one(painted(full | {(3, 5): 0.5, (6, 7): 1.0}), cell=(6, 7)))


@pytest.mark.parametrize("name", ["rank_one"])
def test_keys_paint_a_wish(page, name: str) -> None:
    page.get_by_role("button", name="two pairs").focus()
    page.keyboard.press("Enter")
    assert_rank_one(page, rank_one("two pairs"))
    for key in ("Tab", "Tab", "ArrowLeft", "Enter", *["ArrowRight"] * 9, "Enter", "ArrowDown", "Space", "Space"):
        page.keyboard.press(key)
    assert_rank_one(page, rank_one(painted({(1, 1): 0.5, (1, 7): 1.0, (2, 7): 0.5}, "two pairs"), cell=(2, 7)))


@pytest.mark.parametrize("name", ["rank_one"])
@pytest.mark.parametrize("page", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}], indirect=True)
def test_a_finger_paints_a_wish(page, name: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.get_by_role("button", name="nothing").tap()
    for cell in ((0, 0), (0, 0), (5, 2), (7, 7)):
        page.touchscreen.tap(*centre(page.locator(".wish"), 8, *cell))
    assert_rank_one(page, rank_one(painted({(0, 0): 0.5, (5, 2): 1.0, (7, 7): 1.0}), cell=(7, 7)))


@pytest.mark.parametrize("wish", ["full attention", "GSA", "two pairs", "painted"])
def test_the_product_is_the_nearest_and_heads_meet_what_singular_values_say(wish: str) -> None:
    levels = np.random.default_rng(0).integers(0, 3, (4, 16)) / 2
    figure = rank_one(levels if wish == "painted" else wish)
    wished, (column, row) = figure.wish().numpy(), figure.factors()
    left, strengths, right = np.linalg.svd(wished)
    nearest = strengths[0] * np.outer(left[:, 0], right[0])
    assert np.linalg.norm(wished - figure.nearest().numpy()) == pytest.approx(np.linalg.norm(wished - nearest))
    if strengths[1] < 0.99 * strengths[0]:
        np.testing.assert_allclose(figure.nearest(), nearest, atol=1e-9)
    assert min(column.min(), row.min()) > -1e-12
    np.testing.assert_allclose(figure.met(), np.cumsum(strengths**2) / (strengths**2).sum())


def test_equal_pairs_are_mixed_and_of_unequal_ones_the_weaker_gets_nothing() -> None:
    figure = rank_one("two pairs")
    np.testing.assert_allclose(figure.nearest()[[0, 0, 3, 3], [5, 10, 5, 10]], 0.5)
    assert figure.met() == pytest.approx([0.5, 1, 1, 1])
    weaker = rank_one(painted({(1, 1): 0.5}, "two pairs")).nearest()
    np.testing.assert_allclose(weaker[[0, 0, 3, 3], [5, 10, 5, 10]], [0, 0, 0, 1], atol=1e-12)


def test_of_gsa_itself_one_head_meets_everything_and_the_factors_are_its_hops() -> None:
    figure, weights = rank_one("GSA"), layer_weights()
    receivers, senders = ([8 * row + column for row, column in figure.data[name]] for name in ("receivers", "senders"))
    assert receivers == [16, 17, 24, 25]
    assert senders[:5] == [8, 10, 12, 14, 24]
    (relay,) = {*receivers} & {*senders}
    column, row = figure.factors()
    assert figure.met()[0] == pytest.approx(1, abs=1e-6)
    alpha, beta = weights["across"][relay, senders], weights["within"][receivers, relay]
    np.testing.assert_allclose(row / row.sum(), alpha, atol=1e-3)
    np.testing.assert_allclose(column / column.max(), beta / beta.max(), atol=1e-3)


@pytest.mark.parametrize("heads", [2, 3])
def test_as_many_heads_with_linear_maps_between_them_reach_what_is_said(heads: int) -> None:
    figure = rank_one()
    left, _, right = torch.linalg.svd(figure.wish(), full_matrices=False)
    near = 0.01 * torch.eye(heads).double()
    near[:, 0] = 1
    betas, alphas = (near * vectors[0].sum().sign() @ vectors for vectors in (left.T[:heads], right[:heads]))
    assert min(betas.min(), alphas.min()) > 0
    between = torch.linalg.pinv(betas.T) @ figure.wish() @ torch.linalg.pinv(alphas)
    missed = (figure.wish() - betas.T @ between @ alphas).square().sum() / figure.wish().square().sum()
    assert 1 - missed.item() == pytest.approx(figure.met()[heads - 1])


def test_a_wish_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("got (16, 16)")):
        RankOne({"small": torch.ones(16, 16)})


def assert_flow(page, figure: Flow) -> None:
    """The page says what the package finds, colours the second image by the weights, and marks both places."""
    page.locator(".words").get_by_text(figure.words(), exact=True).wait_for(timeout=10_000)
    pictures = page.locator("canvas").evaluate_all(
        "all => all.map(canvas => [...canvas.getContext('2d').getImageData(0, 0, 32, 32).data])"
    )
    for picture, expected in zip(pictures, (figure.pair().first[0].movedim(0, -1), figure.seen()), strict=True):
        np.testing.assert_allclose(np.reshape(picture, (32, 32, 4))[..., :3], expected, atol=1)
    (row, column), (end_row, end_column) = figure.places()
    patch = figure.state["patch"]
    marks = page.locator(".match").nth(1)
    shown = [float(marks.locator("circle").get_attribute(name)) - 0.5 for name in ("cy", "cx")]
    np.testing.assert_allclose(shown, (row, column), atol=1e-6)
    shown = [float(marks.locator(".edge").get_attribute(name)) + patch / 2 - 0.5 for name in ("y", "x")]
    np.testing.assert_allclose(shown, (end_row, end_column), atol=1e-6)
    heights = re.findall(r"[ML]\S+ ([\d.-]+)", page.locator(".costs path.current").get_attribute("d"))
    errors = 0.08 * 10 ** ((70 - np.array(heights, float)) * 2.3 / 67)
    np.testing.assert_allclose(errors, figure.errors()[patch], rtol=1e-6)


@pytest.mark.parametrize("name", ["flow"])
def test_a_pixel_finds_in_the_second_image_what_the_package_finds(page, name: str) -> None:
    assert_flow(page, flow())
    page.mouse.move(*centre(page.locator(".view").first, 32, 18, 27))
    page.mouse.move(*centre(page.locator(".view").nth(1), 32, 3, 3))
    assert_flow(page, flow(pixel=(18, 27)))
    page.get_by_label("Sharpness").focus()
    page.keyboard.press("End")
    assert_flow(page, flow(pixel=(18, 27), scale=640))
    page.get_by_label("Patch").focus()
    page.keyboard.press("ArrowRight")
    page.locator(".panels").focus()
    for key in ["ArrowDown"] * 20 + ["ArrowRight"] * 3:
        page.keyboard.press(key)
    assert_flow(page, flow(pixel=(31, 30), scale=640, patch=5))
    page.get_by_label("a texture").check()
    assert_flow(page, flow(pair="a texture", pixel=(31, 30), scale=640, patch=5))
    page.get_by_label("Patch").focus()
    page.keyboard.press("Home")
    assert_flow(page, flow(pair="a texture", pixel=(31, 30), scale=640, patch=1))


@pytest.mark.parametrize("name", ["flow"])
@pytest.mark.parametrize("page", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}], indirect=True)
def test_a_finger_lets_a_pixel_look_for_itself(page, name: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.touchscreen.tap(*centre(page.locator(".view").first, 32, 0, 5))
    page.get_by_label("a texture").tap()
    box = page.get_by_label("Patch").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    assert_flow(page, flow(pair="a texture", pixel=(0, 5), patch=7))


@pytest.mark.parametrize("pair", ["a cat", "a texture"])
@pytest.mark.parametrize("patch, scale, pixel", [(1, 10, (0, 0)), (3, 40, (16, 10)), (7, 160, (31, 4))])
def test_the_mean_is_where_the_flow_ends(pair: str, patch: int, scale: int, pixel: tuple[int, int]) -> None:
    figure = flow(pair=pair, patch=patch, scale=scale, pixel=pixel)
    first, second, flow_of_pair = (part[:1].double() for part in moved_pairs()[pair])
    found = estimate_flow(first, second, patch=patch, scale=float(scale))
    mean, end = figure.places()
    np.testing.assert_allclose(mean, pixel + found[0, :, *pixel].numpy(), atol=1e-9)
    np.testing.assert_allclose(end, pixel + flow_of_pair[0, :, *pixel].numpy(), atol=1e-9)
    ends = np.moveaxis(np.indices((32, 32)) + flow_of_pair[0].numpy(), 0, -1)
    missed = (found - flow_of_pair)[0].norm(dim=0).numpy()[((ends >= 2) & (ends <= 29)).all(-1)]
    assert figure.errors()[patch][figure.data["scales"].index(scale)] == pytest.approx(missed.mean(), rel=1e-4)


def test_the_eye_of_a_cat_finds_both_until_its_patch_is_larger() -> None:
    for pixel, own, other in [((16, 10), (18, 7), (20, 24)), ((18, 27), (20, 24), (18, 7))]:
        both = dict(flow(pixel=pixel).modes())
        assert set(both) == {own, other}
        assert min(both.values()) > 0.3
        mean, _ = flow(pixel=pixel).places()
        assert min(np.hypot(*(mean - place)) for place in (own, other)) > 5
        found, share = flow(pixel=pixel, patch=7).modes()[0]
        assert found == own
        assert share > 0.95
        assert flow(pixel=pixel, scale=640).modes()[0][0] == (18, 7), "whichever eye asks, by chance"


def test_the_error_falls_with_s_and_rises_again() -> None:
    errors = flow(pair="a texture").errors()[7]
    assert min(errors) < 0.7 * errors[-1] < errors[0]
    assert (np.diff(errors)[errors.index(min(errors)) :] > 0).all()


@pytest.mark.parametrize("arguments", [{"patch": 2}, {"scale": 50}])
def test_a_patch_or_a_scale_without_a_place_on_the_slider_is_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=str(*arguments.values())):
        Flow(moved_pairs(), pixel=(0, 0), **arguments)


def assert_gated(page, figure: PaintedGate) -> None:
    """The page says what the network answers behind the gate, and shows the gate and whom each pixel speaks for."""
    page.locator(".words").get_by_text(figure.words(), exact=True).wait_for(timeout=10_000)
    shares = page.locator(".answers label").evaluate_all("all => all.map(row => row.style.getPropertyValue('--share'))")
    np.testing.assert_allclose(np.array(shares, float), figure.probabilities(), atol=1e-6)
    assert page.locator(".answers b").all_inner_texts() == [f"{share:.2f}" for share in figure.probabilities()]
    numbers = [("" if g == 1 else f"{g:g}").replace("0.5", "½") for g in figure.gate().flatten()]
    assert page.locator(".desk text").all_text_contents() == numbers
    gated, said = (
        page.locator(f"canvas.{name}").evaluate(
            "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
        )
        for name in ("gated", "said")
    )
    image = figure.photographs[figure.state["photograph"]].image.movedim(0, -1).numpy()
    light = np.kron(figure.gate() ** 0.5, np.ones((4, 4)))[..., None]
    np.testing.assert_allclose(np.reshape(gated, (32, 32, 4))[..., :3], (image * light).clip(0, 255), atol=1)
    leads, said = figure.leads(), np.reshape(said, (8, 8, 4))
    np.testing.assert_allclose(said[..., 3], 255 * abs(leads), atol=1)
    assert ((said[..., 2] > said[..., 0]) == (leads > 0))[said[..., 3] > 50].all()


@pytest.mark.parametrize("name", ["gate"])
def test_strokes_buttons_and_words_turn_the_answer(page, name: str) -> None:
    assert_gated(page, painted_gate())
    photo, said = (page.locator(".view").nth(index) for index in (0, 1))
    page.mouse.move(*centre(photo, 8, 1, 2))
    assert_gated(page, painted_gate(pixel=(1, 2)))
    page.mouse.move(*centre(photo, 8, 6, 7))
    page.mouse.down()
    page.mouse.move(*centre(photo, 8, 6, 0))
    page.mouse.up()
    assert_gated(page, painted_gate((6, 0), pixel=(6, 0)))
    assert "says cat" in page.locator(".words").inner_text()
    page.get_by_label("Paint with").focus()
    page.keyboard.press("End")
    page.mouse.click(*centre(said, 8, 1, 3))
    louder = ((6, 0), ((1, 3), 4))
    assert_gated(page, painted_gate(*louder, pixel=(1, 3), brush=4))
    page.get_by_label("dog").check()
    page.get_by_text("close what does not say dog").click()
    dogs = painted_gate().said[0].argmax(-1) == 5
    assert_gated(page, painted_gate(*louder, (~dogs, 0), pixel=(1, 3), brush=4, word="dog"))
    page.get_by_text("all sliders to 4").click()
    assert_gated(page, painted_gate((..., 4), pixel=(1, 3), brush=4, word="dog"))
    page.get_by_label("A cup of coffee").check()
    assert_gated(page, painted_gate((..., 1), pixel=(1, 3), brush=4, word="dog", photograph=1))


@pytest.mark.parametrize("name", ["gate"])
def test_keys_move_the_brush_and_paint(page, name: str) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for key in ("ArrowUp", "Enter", "ArrowLeft", "ArrowLeft", "Space", *["ArrowDown"] * 5):
        page.keyboard.press(key)
    strokes = (((4, 5), 0), ((4, 3), 0))
    assert_gated(page, painted_gate(*strokes, pixel=(7, 3)))
    for key in ("Tab", "ArrowDown", "Tab", "ArrowRight", "Tab", "Enter"):
        page.keyboard.press(key)
    assert_gated(page, painted_gate((..., 0.5), pixel=(7, 3), brush=0.5, word="deer"))


@pytest.mark.parametrize("name", ["gate"])
@pytest.mark.parametrize("page", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}], indirect=True)
def test_a_finger_closes_a_pixel(page, name: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.touchscreen.tap(*centre(page.locator(".view").first, 8, 5, 4))
    page.get_by_label("truck").tap()
    assert_gated(page, painted_gate(((5, 4), 0), pixel=(5, 4), word="truck"))


@pytest.mark.parametrize("photograph", range(3))
def test_the_answer_is_that_of_the_network_with_a_gate_in_it(photograph: int) -> None:
    kept, photographs, _ = gated()
    gate = torch.rand(8, 8) * 2
    figure = painted_gate((..., gate.numpy()), photograph=photograph)
    hook = kept.model.body.register_forward_hook(lambda body, inputs, last: gate * last)
    with torch.no_grad():
        logits = kept.model(kept.normalize(photographs[photograph].image[None]))
    hook.remove()
    np.testing.assert_allclose(figure.probabilities(), logits.softmax(1)[0], atol=1e-5)


def reach(photograph: int, word: str, most: float) -> float:
    """By how much the logit of a word can exceed all others, with sliders up to ``most``: a linear program."""
    figure, number = painted_gate(photograph=photograph), gated()[0].classes.index(word)
    said, bias = figure.said[photograph].reshape(64, 10).astype(float), np.array(figure.data["bias"])
    others = np.delete(np.arange(10), number)
    gains = np.c_[(said[:, others] - said[:, [number]]).T, np.ones(9)]
    bounds = [(0, most)] * 64 + [(None, None)]
    return -optimize.linprog([0] * 64 + [-1], gains, bias[number] - bias[others], bounds=bounds).fun


def test_what_is_to_be_tried_can_be_done_or_not_as_is_said() -> None:
    kept, *_ = gated()
    words = dict(enumerate(kept.classes))
    assert words[painted_gate((..., 1)).probabilities().argmax()] == "truck"
    assert reach(0, "cat", 1) > 1
    ship = painted_gate(photograph=1).said[1].argmax(-1) == 8
    alone, louder = (painted_gate((..., g * ship), photograph=1).probabilities() for g in (1, 4))
    assert words[alone.argmax()] == words[louder.argmax()] == "ship"
    assert louder.max() > 2 * alone.max()
    assert reach(2, "automobile", 1e4) < 0
    for photograph in range(3):
        assert words[painted_gate((..., 0), photograph=photograph).probabilities().argmax()] == "bird"


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", [{}, {"viewport": PHONE}], indirect=True, ids=["desk", "phone"])
def test_axe_finds_nothing(page, name: str, scheme: str) -> None:
    page.locator("html").evaluate("(html, scheme) => html.dataset.theme = scheme", scheme)
    page.keyboard.press("Tab")
    assert failed_rules(page, {}) == []


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True)
def test_without_scripts_there_is_the_picture_and_what_it_shows_in_words(page, name: str) -> None:
    assert page.locator("img").is_visible()
    assert page.locator("img").get_attribute("alt") == FIGURES[name]().words()


def test_paper_gets_the_picture(page) -> None:
    assert [page.locator(part).is_visible() for part in ("img", ".play")] == [False, True]
    page.emulate_media(media="print")
    assert [page.locator(part).is_visible() for part in ("img", ".play")] == [True, False]


def test_the_module_that_anywidget_gets_follows_python(browser) -> None:
    figure = HopMap()
    values = json.dumps({"data": figure.data, "state": figure.state})
    with browser.new_page() as page:
        page.set_content("<main></main>")
        page.add_script_tag(type="module", content=LIVE.format(values, json.dumps(figure._esm)))
        assert_shows(page, figure)
        figure.state = figure.state | {"receiver": (0, 0), "first": "within"}
        page.evaluate("state => model.set('state', state)", figure.state)
        assert_shows(page, figure)


def test_two_figures_of_a_notebook_keep_their_choices_apart(browser) -> None:
    with browser.new_page() as page:
        page.set_content("<main></main>")
        for figure in (table(), weights()):
            values = json.dumps({"data": figure.data, "state": figure.state})
            page.add_script_tag(type="module", content=LIVE.format(values, json.dumps(figure._esm)))
        page.locator(".play").nth(1).wait_for()
        names = page.locator("input[type=radio]").evaluate_all("all => all.map(radio => radio.name)")
        assert page.locator("input[type=radio]:checked").count() == len(set(names)) == 2
        ids = page.locator("[id]").evaluate_all("all => all.map(element => element.id)")
        assert len(ids) == len(set(ids))


def test_each_module_stands_in_one_piece(browser) -> None:
    with browser.new_page() as page:
        for figure in FIGURES.values():
            page.evaluate("async source => { await import(`data:text/javascript,${source}`); }", quote(figure()._esm))


@pytest.mark.parametrize("name", FIGURES)
def test_every_reader_gets_a_form_that_it_knows_and_a_page_is_the_same_in_each_build(name: str) -> None:
    figure = FIGURES[name]()
    bundle, _ = figure._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == figure.model_id
    assert bundle["text/plain"] == figure.words()
    assert html(figure) == html(FIGURES[name]())
    values = json.loads(BeautifulSoup(html(figure), "html.parser").select("script")[0].text)
    assert values == json.loads(json.dumps({"data": figure.data, "state": figure.state}))


@pytest.mark.parametrize("names", [*zip(FIGURES), ("hops", "rank_one", "weights")])
def test_a_page_with_its_figures_is_light(names: tuple[str, ...]) -> None:
    parts = [*(html(FIGURES[name]()).encode() for name in names), *(file.read_bytes() for file in FILES)]
    assert sum(len(gzip.compress(part)) for part in parts) < 250_000
