"""Figures say what they show: labels, marks where they belong, and colours that can be read."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch, Rectangle

from gsa import figures, results


@pytest.fixture
def axes() -> Iterator[Axes]:
    with plt.rc_context():
        figures.use_style()
        figure, axes = plt.subplots()
        yield axes
        figure.canvas.draw()
        plt.close(figure)


def contrast(first, second) -> float:
    """WCAG's ratio of the luminances of two colours."""

    def luminance(colour) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def labels(axes: Axes) -> tuple[str, str]:
    return axes.get_xlabel(), axes.get_ylabel()


def test_contrast_is_that_of_wcag():
    assert contrast("white", "black") == pytest.approx(21)
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("colour", figures.COLOURS.values(), ids=figures.COLOURS)
def test_colours_can_be_the_colour_of_a_text_and_lie_under_one(colour):
    assert contrast(colour, "white") >= 4.5
    assert contrast(figures.INK, figures.tint(colour)) >= 4.5


def test_what_is_seen_stands_out_from_what_is_not():
    assert contrast(figures.SEEN, figures.UNSEEN) >= 1.3
    assert contrast(figures.QUERY, figures.SEEN) >= 3


def test_the_style_fits_the_column_and_no_text_is_tiny(axes):
    assert axes.figure.get_figwidth() == 7.2
    sizes = ("font.size", "axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize")
    assert min(figures.RC[name] for name in sizes) >= 9
    assert plt.rcParams["savefig.bbox"] is None
    assert axes.figure.get_facecolor() == (1, 1, 1, 1)


def test_a_map_has_a_word_in_each_cell_and_lines_around_blocks(axes):
    colours = np.zeros((4, 6, 3))
    figures.draw_map(axes, colours, text=np.arange(24).reshape(4, 6), block=2)
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert len(places) == 24 and places["8"] == (2, 1)
    heavy = [line for line in axes.collections if to_rgb(line.get_color()[0]) == to_rgb(figures.INK)]
    assert [len(line.get_segments()) for line in heavy] == [3, 4]
    assert labels(axes) == ("column", "row")


def test_sight_tints_what_is_seen_frames_the_query_and_draws_every_hop(axes):
    sees = np.eye(5, dtype=bool)
    figures.draw_sight(axes, sees, (1, 2), path=[(0, 0), (1, 1), (1, 2)])
    picture = axes.images[0].get_array()
    assert (picture[sees] == to_rgb(figures.SEEN)).all() and (picture[~sees] == to_rgb(figures.UNSEEN)).all()
    assert len([patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]) == 2
    (frame,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert frame.get_xy() == (1.5, 0.5)


def test_weights_start_at_zero_and_have_a_labelled_bar(axes):
    figures.draw_weights(axes, np.full((3, 3), 0.25), (0, 0))
    assert axes.images[0].get_clim() == (0, 0.25)
    assert "weight" in [other.get_ylabel() for other in axes.figure.axes]
    assert labels(axes) == ("column", "row")


def test_attention_lies_over_a_pale_photograph_and_is_seen_through_where_there_is_none(axes):
    weights = np.zeros((2, 3, 2, 3))
    weights[0, 1, 1, 2], weights[1, 0, 0, 0] = 0.5, 0.3
    photograph = torch.arange(8 * 12 * 3, dtype=torch.uint8).view(8, 12, 3).permute(2, 0, 1)
    figures.draw_attention(axes, photograph, weights, (0, 1))
    below, above = axes.images
    assert below.get_extent() == above.get_extent() == [-0.5, 2.5, 1.5, -0.5]
    assert below.to_rgba(below.get_array())[..., :3].min() >= 0.49, "pale enough for a weight to be dark on it"
    opacity = above.to_rgba(above.get_array())
    assert opacity[0, 0, 3] == 0 and opacity[1, 2].tolist() == [*to_rgb(figures.KEY), 1]
    (frame,) = axes.patches
    assert frame.get_xy() == (0.5, -0.5)
    assert "weight" in [other.get_xlabel() for other in axes.figure.axes]


def test_without_a_query_attention_is_what_each_pixel_receives(axes):
    weights = np.random.default_rng(0).random((2, 3, 2, 3))
    figures.draw_attention(axes, torch.zeros(3, 2, 3, dtype=torch.uint8), weights)
    np.testing.assert_allclose(axes.images[1].get_array(), weights.mean((0, 1)))
    assert not axes.patches


def test_a_butterfly_joins_positions_that_differ_in_one_digit(axes):
    figures.draw_butterfly(axes, (3, 2), (4, 0, 1))
    *edges, path = [line.get_xydata().tolist() for line in axes.lines]
    assert len(edges) == 6 * 3 + 6 * 2
    assert [[0, 4], [1, 0]] in edges and [[0, 4], [1, 1]] not in edges and [[1, 4], [2, 5]] in edges
    assert path == [[0, 4], [1, 0], [2, 1]]
    assert [label.get_text() for label in axes.get_yticklabels()][4] == "4 = 20"


def test_costs_are_lines_with_dots_of_the_same_colour(axes):
    x = np.array([1.0, 10, 100])
    figures.draw_costs(axes, x, {"cheap": x, "dear": x**2}, {"cheap": x, "dear": 2 * x**2})
    cheap, cheap_dots, dear, dear_dots = axes.lines
    assert cheap.get_color() == cheap_dots.get_color() != dear.get_color() == dear_dots.get_color()
    assert (dear_dots.get_ydata() == 2 * x**2).all() and dear_dots.get_linestyle() == "None"
    assert cheap.get_linestyle() != dear.get_linestyle()
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_ylabel() == "cost (MMAC)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cheap", "dear"]


def test_images_stand_in_their_order_under_their_titles():
    images = torch.arange(4, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 2, 2)
    figure, grid = plt.subplots(2, 2)
    figures.draw_images(grid, images, ["a", "b", "c", "d"])
    assert [int(axes.images[0].get_array()[0, 0, 0]) for axes in grid.flat] == [0, 1, 2, 3]
    assert [axes.get_title() for axes in grid.flat] == ["a", "b", "c", "d"]
    plt.close(figure)


def test_growth_is_time_per_image_beside_a_power_through_the_last_point(axes):
    rows = [("gsa", 8, 2, 4.0), ("gsa", 4, 4, 2.0), ("conv", 4, 4, 1.0)]
    speed = pd.DataFrame(rows, columns=["layer", "size", "batch", "milliseconds"])
    figures.draw_growth(axes, speed, {"gsa": 1.5})
    measured, power = axes.lines
    assert measured.get_xdata().tolist() == power.get_xdata().tolist() == [16, 64]
    assert measured.get_ydata().tolist() == [0.5, 2.0] and power.get_ydata().tolist() == [0.25, 2.0]
    assert measured.get_color() == power.get_color() and power.get_linestyle() == ":"


def test_losses_are_means_of_the_steps_around_each_with_a_look_and_a_name(axes):
    steady = [float(step) for step in range(1, 41)]
    jumpy = [loss + (-1) ** step for step, loss in enumerate(steady)]
    figures.draw_losses(axes, {"none": steady, "gsa": jumpy, "short": [3.0, 1.0]})
    none, gsa, short = axes.lines
    assert none.get_xdata() == pytest.approx(np.arange(1.5, 40)) == none.get_ydata()
    assert gsa.get_ydata() == pytest.approx(none.get_ydata())
    assert short.get_xdata().tolist() == [1, 2] and short.get_ydata().tolist() == [3, 1]
    assert none.get_color() != gsa.get_color() and none.get_linestyle() != gsa.get_linestyle()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["none", "gsa", "short"]
    assert labels(axes) == ("step", "loss (nats)")


def a_table(**arms: tuple) -> pd.DataFrame:
    columns = ["seeds", "accuracy", "low", "high", "difference", "difference_low", "difference_high", "test"]
    columns += ["verdict", "seconds", "seconds_low", "seconds_high", "flops"]
    return pd.DataFrame(arms.values(), index=[*arms], columns=columns)


TABLE = a_table(
    none=(3, 0.9, 0.88, 0.92, np.nan, np.nan, np.nan, "", "control", 60, 50, 70, 4e15),
    gsa=(3, 0.92, 0.91, 0.93, 0.02, 0.01, 0.03, "Dunnett", "better", 90, 80, 100, 5e15),
    lone=(1, 0.91, 0.90, 0.92, 0.01, -0.01, 0.03, "", "one seed: no verdict", np.nan, np.nan, np.nan, 5e15),
)


def right_labels(axes) -> list[str]:
    (words,) = axes.child_axes
    return [label.get_text() for label in words.get_yticklabels()]


def test_a_forest_tells_what_was_judged_from_what_was_not(axes):
    figures.draw_forest(axes, TABLE, margin=0.005)
    zero, full, full_line, hollow, hollow_line = axes.lines
    assert zero.get_xdata() == [0, 0]
    assert full_line.get_xdata() == pytest.approx([1, 3]) and hollow_line.get_xdata() == pytest.approx([-1, 3])
    assert (full_line.get_linestyle(), hollow_line.get_linestyle()) == ("-", ":")
    assert full.get_markerfacecolor() == full.get_color() and hollow.get_markerfacecolor() == "white"
    assert (full.get_xdata(), hollow.get_xdata()) == (pytest.approx([2]), pytest.approx([1]))
    (band,) = axes.patches
    assert (band.get_x(), band.get_width()) == pytest.approx((-0.5, 1.0))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["gsa (3)", "lone (1)"]
    assert right_labels(axes) == ["better", "one seed: no verdict"]
    assert axes.get_xlabel() == "test accuracy − that of none (points)"
    low, high = axes.get_xlim()
    assert low < -1 and high > 3


def test_accuracy_stands_over_cost_with_the_control_across(axes):
    figures.draw_accuracy_cost(axes, TABLE, "seconds")
    up, across, control_dot, control, gsa_up, gsa_across, gsa_dot = axes.lines
    assert up.get_ydata() == pytest.approx([88, 92]) and across.get_xdata() == pytest.approx([50, 70])
    assert gsa_up.get_ydata() == pytest.approx([91, 93]) and gsa_across.get_xdata() == pytest.approx([80, 100])
    assert (control_dot.get_xdata(), gsa_dot.get_xdata()) == (pytest.approx([60]), pytest.approx([90]))
    assert control.get_ydata() == pytest.approx([90, 90])
    assert [text.get_text() for text in axes.texts] == ["none", "gsa"], "an arm without seconds is left out"
    assert labels(axes) == ("time of training (s)", "test accuracy (%)")


def test_work_has_no_interval_and_one_seed_a_hollow_dot(axes):
    figures.draw_accuracy_cost(axes, TABLE, "flops")
    assert len(axes.lines) == 2 * 3 + 1
    assert [text.get_text() for text in axes.texts] == ["none", "lone", "gsa"]
    lone_up, lone_dot = axes.lines[3:5]
    assert (lone_up.get_linestyle(), lone_dot.get_markerfacecolor()) == (":", "white")
    assert labels(axes) == ("work of training (PFLOP)", "test accuracy (%)")


def test_names_at_the_side_stand_apart_and_in_order(axes):
    same = a_table(**{f"arm{i}": (3, 0.9 + i * 1e-5, 0.9, 0.9, *TABLE.iloc[0][4:]) for i in range(6)})
    figures.draw_accuracy_cost(axes, same, "flops")
    heights = [text.get_position()[1] for text in axes.texts]
    low, high = axes.get_ylim()
    assert high - low >= 1, "accuracies that are close look close"
    assert np.diff(heights) == pytest.approx(0.1 * (high - low))
    assert np.mean(heights) == pytest.approx(90, abs=0.01)


def test_the_family_shows_whom_each_layer_sums_over():
    sums = {name: member.weights > 0 for name, member in figures.members().items()}
    assert {name: int(seen.sum()) for name, seen in sums.items()} == {
        "convolution": 9,
        "gates": 1,
        "sampling": 9,
        "self-attention": 64,
        "stand-alone": 25,
        "Twins": 16 + 3 * 4,
        "GSA": 16 + 3,
    }
    assert all(seen[figures.FRAMED] for seen in sums.values())


def test_a_pixel_of_a_photograph_sees_what_its_layer_lets_it_see():
    image = np.random.default_rng(0).uniform(size=(32, 32, 3))
    image[20, 27] = image[11, 12]
    weights = {name: seen for name, (_, seen) in zip(figures.members(), figures.family.seen(image, (11, 12)))}
    assert {name: int(weights[name].sum()) for name in ("convolution", "gates", "sampling")} == {
        "convolution": 9,
        "gates": 1,
        "sampling": 9,
    }
    assert weights["self-attention"][20, 27] == 1 and weights["stand-alone"][20, 27] == 0
    assert int((weights["GSA"] > 0).sum()) == 16 + 64 - 1
    twins, _ = figures.family.seen(image, (11, 12))[5]
    assert np.allclose(twins[16:24, 24:], image[16:24, 24:].mean((0, 1)))
    assert (twins[8:16, 8:16] == image[8:16, 8:16]).all()
    figure = figures.draw_eyes(torch.zeros(3, 32, 32, dtype=torch.uint8), (11, 12))
    assert len(figure.axes) == 1 + len(figures.members())
    plt.close(figure)


def test_a_number_a_diagonal_and_a_matrix_differ_in_what_they_mix_and_scale():
    number, diagonal, matrix = (figures.KINDS[kind] for kind in ("a number", "a diagonal", "a matrix"))
    assert (number == number[0, 0] * np.eye(4)).all()
    assert (diagonal == np.diag(np.diag(diagonal))).all() and len(set(np.diag(diagonal))) == 4
    assert (matrix > 0).all()


@pytest.mark.parametrize("name", figures.members())
def test_the_answers_of_a_layer_stand_within_its_figure(name):
    figure = figures.draw_answers(name)
    member = figures.members()[name]
    words = {text.get_text() for text in figure.texts}
    assert {member.who, member.source, member.where.replace("\n", " "), member.kind} <= words
    figure.canvas.draw()
    extents = [text.get_window_extent() for text in figure.texts]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in extents)
    assert not any(a.overlaps(b) for i, a in enumerate(extents) for b in extents[:i])
    plt.close(figure)


def test_the_family_is_drawn_in_legible_type_with_the_query_framed():
    figure = figures.draw_family()
    assert len(figure.axes) == 7
    for axes in figure.axes:
        (frame,) = (patch for patch in axes.patches if isinstance(patch, Rectangle))
        assert frame.get_xy() == (1.5, 4.5)
        assert min(axes.title.get_fontsize(), axes.xaxis.label.get_fontsize()) >= 9
    plt.close(figure)


def test_forests_that_share_an_axis_show_every_interval():
    wide = results.STUDIES["primary"].table(results.Ledger())
    _, (above, below) = plt.subplots(2, 1, sharex=True)
    figures.draw_forest(above, wide)
    figures.draw_forest(below, wide.assign(difference_low=-0.001, difference_high=0.001))
    left, right = below.get_xlim()
    assert left < min(100 * wide.difference_low.min(), -0.3)
    assert right > 100 * wide.difference_high.max()
