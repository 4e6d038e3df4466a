"""The exercises of the chapters: their checks, read from the pages, take right answers and refuse wrong ones."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import nbformat
import pytest
import torch

from gsa.layers import MECHANISMS

BOOK = Path(__file__).parents[1] / "book"
BLANK = re.compile(r"^your_\w+ = .+$", re.MULTILINE)
SOLUTION = re.compile(r":class: dropdown\n.*?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

NEEDS = {
    ("03_sampling", "check-weights"): ["turned", "vector", "matrix"],
    ("03_sampling", "check-offsets"): ["vector", "deform-vector"],
    ("03_sampling", "check-rigid"): ["grid"],
    ("06_twins", "ex1"): ["hand-code"],
    ("06_twins", "ex4-check-cell"): ["hops"],
    ("08_cifar10", "check-fourth"): ["hand-check"],
    ("09_properties", "ex2-check"): ["pixels-exponent"],
    ("10_outlook", "exercise-1"): ["sparsemax-loop"],
    ("10_outlook", "exercise-2"): ["sparsemax"],
    ("10_outlook", "exercise-3"): ["network", "test = 2 * torch.rand(50, 3, 32, 32) - 1", "model = network().eval()"],
}
"""The cells of a page, besides its imports, that a check builds on, and code in the place of slow ones."""


def attempt(chapter: str, exercise: str, answer: str, seed: int = 0) -> str:
    """What the check cell ``exercise`` prints to a reader who fills in ``answer``, code that sets its your_…"""
    cells = {cell.id: cell.source for cell in nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4).cells}
    filled, blanks = BLANK.subn(lambda _: answer, cells[exercise])
    assert blanks == 1, f"{exercise} has {blanks} places for an answer"
    names = {}
    for cell in ("imports", *NEEDS.get((chapter, exercise), ())):
        with redirect_stdout(StringIO()):
            exec(cells.get(cell, cell), names)
    torch.manual_seed(seed)
    with redirect_stdout(StringIO()) as printed:
        exec(filled, names)
    return printed.getvalue()


def passes(chapter: str, exercise: str, answer: str) -> None:
    for seed in range(3):
        assert attempt(chapter, exercise, answer, seed) == "Right.\n"


def fails(chapter: str, exercise: str, answer: str) -> None:
    for seed in range(3):
        with pytest.raises(AssertionError):
            attempt(chapter, exercise, answer, seed)


def folded_solutions() -> list:
    """Each answer that a page folds away as code in its text, with the check before it."""
    found = []
    for path in sorted(BOOK.glob("*.ipynb")):
        check = None
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                check = cell.id
            answers = [code for code in SOLUTION.findall(cell.source) if "your_" in code]
            found += [pytest.param(path.stem, check, answer, id=cell.id) for answer in answers]
    return found


@pytest.mark.parametrize(("chapter", "exercise", "solution"), folded_solutions())
def test_the_folded_solution_passes(chapter, exercise, solution):
    passes(chapter, exercise, solution)


# 1 Convolution

MOVE, FIELD, NEAREST = (("01_convolution", cell) for cell in ("ex1", "ex2-code", "ex3-code"))


@pytest.mark.parametrize("kernel", ["[[0, 0, 0], [1, 0, 0], [0, 0, 0]]", "[[0.0, 0, 0], [1, 0, 0], [0, 0, 0]]"])
def test_a_one_at_the_left_moves_to_the_right(kernel):
    passes(*MOVE, f"your_kernel = torch.tensor({kernel})")


@pytest.mark.parametrize(
    "row, column, value", [(1, 2, 1), (0, 1, 1), (2, 1, 1), (1, 1, 1), (1, 0, 2), (1, 0, -1), (0, 0, 1)]
)
def test_no_other_kernel_does(row, column, value):
    fails(*MOVE, f"your_kernel = torch.zeros(3, 3); your_kernel[{row}, {column}] = {value}")


FORWARD = """
def your_field(steps):
    side, apart = 1, 1
    for k, s in steps:
        side, apart = side + (k - 1) * apart, {apart}
    return side
"""
BACKWARD = """
def your_field(steps):
    side = 1
    for k, s in reversed(steps):
        side = {side}
    return side
"""


@pytest.mark.parametrize(
    "answer", [FORWARD.format(apart="apart * s"), BACKWARD.format(side="(side - 1) * s + k"), "your_field = measure"]
)
def test_the_field_from_either_end(answer):
    measured = """
def measure(steps):
    stack = nn.Sequential(*(nn.Conv2d(1, 1, k, s) for k, s in steps))
    return (probes.influence(stack, torch.zeros(1, 1, 64, 64), 1, 1).sum(0) > 0).sum().item()
"""
    passes(*FIELD, measured + answer)


@pytest.mark.parametrize(
    "answer",
    [
        FORWARD.format(apart="apart"),
        FORWARD.format(apart="s"),
        FORWARD.format(apart="apart + s"),
        BACKWARD.format(side="side * s + k"),
        "your_field = lambda steps: 1 + 2 * len(steps)",
    ],
)
def test_a_field_that_forgets_strides_is_refused(answer):
    fails(*FIELD, answer)


BY_SVD = """
def your_nearest(kernel):
    U, S, V = torch.linalg.svd(kernel.permute(1, 0, 2, 3).flatten(2), full_matrices=False)
    return {P}, {d}
"""
ALTERNATING = """
def your_nearest(kernel):
    M = kernel.permute(1, 0, 2, 3).flatten(2)
    d = torch.ones(6, 9)
    for _ in range(500):
        P = torch.einsum("cod,cd->co", M, d) / (d * d).sum(1, keepdim=True)
        d = torch.einsum("cod,co->cd", M, P) / (P * P).sum(1, keepdim=True)
    return P.T, d.view(6, 3, 3)
"""


@pytest.mark.parametrize(
    "answer",
    [
        BY_SVD.format(P="(U[:, :, 0] * S[:, :1]).T", d="V[:, 0].view(6, 3, 3)"),
        BY_SVD.format(P="-U[:, :, 0].T", d="-(V[:, 0] * S[:, :1]).view(6, 3, 3)"),
        ALTERNATING,
    ],
)
def test_the_nearest_kernel_may_be_scaled_and_found_in_any_way(answer):
    passes(*NEAREST, answer)


@pytest.mark.parametrize(
    "answer",
    [
        BY_SVD.format(P="U[:, :, 0].T", d="V[:, 0].view(6, 3, 3)"),
        BY_SVD.format(P="(U[:, :, 1] * S[:, 1:2]).T", d="V[:, 1].view(6, 3, 3)"),
        BY_SVD.format(P="U[:, :, 0] * S[:, :1]", d="V[:, 0].view(6, 3, 3)"),
        "your_nearest = lambda kernel: (kernel.mean((2, 3)), torch.ones(6, 3, 3))",
        "your_nearest = lambda kernel: (torch.ones(4, 6), kernel.mean(0))",
    ],
)
def test_a_kernel_that_is_not_the_nearest_is_refused(answer):
    fails(*NEAREST, answer)


# 2 Gates

SUPPORT, CONSTANT = (("02_gates", cell) for cell in ("check-support", "check-constant"))


def test_the_cheapest_support_without_gaps():
    passes(*SUPPORT, "your_sizes = 5, 5, 4")


@pytest.mark.parametrize(
    "sizes", ["(5, 7, 3)", "(3, 7, 3)", "(1, 5, 5)", "(3, 3, 9)", "(21, 1, 1)", "(7, 3, 7)", "(4, 4, 4)", "(5, 5, 3)"]
)
def test_another_width_a_gap_and_a_dearer_way_are_refused(sizes):
    fails(*SUPPORT, f"your_sizes = {sizes}")


@pytest.mark.parametrize("weights", ["1 / x", "-3 / x", "1 / x.abs()", "x.sum().round() / x", "x.round() / x + 9 / x"])
def test_weights_of_an_output_that_does_not_move(weights):
    passes(*CONSTANT, f"your_weights = lambda x: {weights}")


@pytest.mark.parametrize(
    "weights", ["0 * x", "torch.ones_like(x)", "x.sigmoid()", "x.mean() / x", "1 / x**2", "(1 / x).mean((2, 3), True)"]
)
def test_weights_of_one_that_moves_are_refused(weights):
    fails(*CONSTANT, f"your_weights = lambda x: {weights}")


# 3 Sampling

OVER, DILATED, RIGID = (("03_sampling", cell) for cell in ("check-weights", "check-offsets", "check-rigid"))
TURN = """
def turn(angle, height, width):
    cos, sin = torch.tensor(angle).cos(), torch.tensor(angle).sin()
    return {}


your_turn = turn
"""


@pytest.mark.parametrize("weights", ["{(0, 2): 0.3, (0, 3): 0.45}", "{(0, 3): 0.75 * 0.6, (0, 2): 0.75 * 0.4}"])
def test_the_weights_of_a_place_over_the_edge(weights):
    passes(*OVER, f"your_weights = {weights}")


@pytest.mark.parametrize(
    "weights",
    [
        "{(2, 0): 0.3, (3, 0): 0.45}",
        "{(0, 2): 0.4, (0, 3): 0.6}",
        "{(0, 2): 0.45, (0, 3): 0.3}",
        "{(0, 2): 0.3, (0, 3): 0.45, (1, 2): 0.1, (1, 3): 0.15}",
        "{(-1, 2): 0.1, (-1, 3): 0.15, (0, 2): 0.3, (0, 3): 0.45}",
        "{(0, 3): 0.45}",
        "{(4, 2): 0.3, (4, 3): 0.45}",
        "{}",
    ],
)
def test_swapped_axes_rows_outside_and_missing_pixels_are_refused(weights):
    fails(*OVER, f"your_weights = {weights}")


@pytest.mark.parametrize(
    "offsets",
    [
        "[-1, -1, -1, 0, -1, 1, 0, -1, 0, 0, 0, 1, 1, -1, 1, 0, 1, 1]",
        "torch.tensor([(i // 3 - 1.0, i % 3 - 1.0) for i in range(9)])",
    ],
)
def test_offsets_that_dilate(offsets):
    passes(*DILATED, f"your_offsets = {offsets}")


@pytest.mark.parametrize(
    "offsets",
    [
        "[-1, -1, 0, -1, 1, -1, -1, 0, 0, 0, 1, 0, -1, 1, 0, 1, 1, 1]",
        "2 * torch.cartesian_prod(*2 * [torch.arange(-1, 2)])",
        "[0] * 18",
        "[-1, 0, 1] * 3",
    ],
)
def test_offsets_in_another_order_or_too_far_are_refused(offsets):
    fails(*DILATED, f"your_offsets = {offsets}")


@pytest.mark.parametrize(
    "theta",
    [
        "[[cos, -sin * height / width, 0], [sin * width / height, cos, 0]]",
        "torch.tensor([[cos, -sin / width * height, 0.0], [sin / height * width, cos, 0.0]]).double()",
        "torch.diag(torch.tensor([2 / width, 2 / height])) @ torch.tensor([[cos, -sin, 0], [sin, cos, 0]]) "
        "@ torch.diag(torch.tensor([width / 2, height / 2, 1]))",
    ],
)
def test_a_turn_that_does_not_shear(theta):
    passes(*RIGID, TURN.format(theta))


@pytest.mark.parametrize(
    "theta",
    [
        "[[cos, -sin, 0], [sin, cos, 0]]",
        "[[cos, sin * height / width, 0], [-sin * width / height, cos, 0]]",
        "[[cos, -sin * width / height, 0], [sin * height / width, cos, 0]]",
        "[[cos, sin * height / width, 0], [sin * width / height, -cos, 0]]",
        "[[cos, -sin * height / width, 0.5], [sin * width / height, cos, 0]]",
        "[[2 * cos, -2 * sin * height / width, 0], [2 * sin * width / height, 2 * cos, 0]]",
    ],
)
def test_a_turn_that_shears_mirrors_shifts_or_goes_the_other_way_is_refused(theta):
    fails(*RIGID, TURN.format(theta))


# 4 Self- and cross-attention

KEY, LOST = (("04_self_attention", cell) for cell in ("exercise-1", "exercise-2"))


@pytest.mark.parametrize(
    "key", ["torch.linalg.inv(A.T) @ W_k", "torch.linalg.solve(A.T, W_k)", "(W_k.T @ torch.linalg.inv(A)).T"]
)
def test_the_inverse_of_the_transpose_undoes_a_matrix(key):
    passes(*KEY, f"your_key = lambda A, W_k: {key}")


@pytest.mark.parametrize(
    "key", ["torch.linalg.inv(A) @ W_k", "A.T @ W_k", "A @ W_k", "W_k", "W_k @ torch.linalg.inv(A).T"]
)
def test_no_other_matrix_does(key):
    fails(*KEY, f"your_key = lambda A, W_k: {key}")


RETURN = """
def your_misses(forward, back):
    start = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"))
    arrived = start + forward
    end = arrived + layers.bilinear_sample(back, {places})
    return {distance}
"""


@pytest.mark.parametrize("distance", ["(end - start).norm(dim=1)", "(end - start).square().sum(1) ** 0.5"])
def test_the_way_there_and_back_is_measured(distance):
    passes(*LOST, RETURN.format(places="arrived.permute(0, 2, 3, 1)", distance=distance))


@pytest.mark.parametrize(
    "answer",
    [
        "your_misses = lambda forward, back: (forward + back).norm(dim=1)",
        "your_misses = lambda forward, back: 0 * forward[:, 0]",
        RETURN.format(places="arrived.permute(0, 3, 2, 1)", distance="(end - start).norm(dim=1)"),
        RETURN.format(places="arrived.flip(1).permute(0, 2, 3, 1)", distance="(end - start).norm(dim=1)"),
        RETURN.format(places="arrived.permute(0, 2, 3, 1)", distance="(end - start).square().sum(1)"),
        RETURN.format(places="arrived.permute(0, 2, 3, 1)", distance="(end - start)[:, 0].abs()"),
        RETURN.format(places="arrived.permute(0, 2, 3, 1)", distance="(end - arrived).norm(dim=1)"),
        RETURN.format(places="arrived.round().permute(0, 2, 3, 1)", distance="(end - start).norm(dim=1)"),
        "your_misses = lambda forward, back: 5 + 0 * forward[:, 0]",
    ],
)
def test_another_way_back_is_refused(answer):
    fails(*LOST, answer)


# 5 Stand-alone self-attention

CORNER, ABOVE, PRICE = (("05_stand_alone", cell) for cell in ("ex-corner", "ex-shift-cell", "ex-cost-cell"))


@pytest.mark.parametrize("share", ["((K + 1) / (2 * K)) ** 2", "(K // 2 + 1) ** 2 / K**2", "(1 + 1 / K) ** 2 / 4"])
def test_what_the_corner_keeps(share):
    passes(*CORNER, f"your_share = lambda K: {share}")


@pytest.mark.parametrize("share", ["1 / 4", "(K + 1) / (2 * K)", "4 / 9", "1 / K**2", "(K - 1) ** 2 / K**2"])
def test_the_corner_keeps_nothing_else(share):
    fails(*CORNER, f"your_share = lambda K: {share}")


SHIFT = """
def your_parameters(layer):
    for parameter in layer.parameters():
        parameter.zero_()
    layer.q.weight[:, 3, 0, 0] = {alpha} * torch.tensor({query})
    layer.kv.weight[{values}, :, 0, 0] = torch.eye(4)
    delta = torch.arange(-1.0, 2.0)
    layer.height_rel.copy_(torch.stack([{rows}], 1))
    layer.width_rel.copy_(torch.stack([delta**2, delta], 1))
"""
RIGHT = {"alpha": 20, "query": "[-1.0, -2.0, -1.0, 0.0]", "values": "4:", "rows": "delta**2, delta"}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"alpha": 200},
        {"query": "[0.0, -1.0, -1.0, 0.0]"},
        {"query": "[-2.0, -1.0, -1.0, 0.0]", "rows": "delta, delta**2"},
        {"query": "[1.0, 0.0, -1.0, 0.0]", "rows": "(delta < 0).float(), delta"},
    ],
)
def test_a_head_fetches_the_pixel_above(change):
    passes(*ABOVE, SHIFT.format(**(RIGHT | change)))


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 1},
        {"alpha": -20},
        {"query": "[-1.0, 2.0, -1.0, 0.0]"},
        {"query": "[-1.0, 0.0, -1.0, -2.0]"},
        {"query": "[-1.0, -2.0, -1.0, -2.0]"},
        {"values": ":4"},
    ],
)
def test_a_head_that_fetches_another_pixel_is_refused(change):
    fails(*ABOVE, SHIFT.format(**(RIGHT | change)))


@pytest.mark.parametrize(
    "K", ["max(K for K in range(1, 99, 2) if K * K <= 3 * C)", "2 * int((math.sqrt(3 * C) - 1) / 2) + 1"]
)
def test_the_side_grows_with_the_root_of_the_width(K):
    passes(*PRICE, f"import math\nyour_largest = lambda C: {K}")


@pytest.mark.parametrize("K", ["3", "int((3 * C) ** 0.5)", "int((4.5 * C) ** 0.5) // 2 * 2 + 1", "9", "C // 2 * 2 + 1"])
def test_another_side_is_refused(K):
    fails(*PRICE, f"your_largest = lambda C: {K}")


# 7 Global Sparse Attention

CALL, EVEN, SWAP = (("07_global_sparse_attention", f"exercise-{name}") for name in ("pattern", "even", "swap"))


@pytest.mark.parametrize("pattern", ["(b rows i j) columns c", "(rows b i j) columns c", "(i j rows b) columns c"])
def test_rooms_of_a_row_may_come_in_any_order(pattern):
    passes(*CALL, f"your_pattern = {pattern!r}")


@pytest.mark.parametrize(
    "pattern",
    [
        "(b i j) (rows columns) c",
        "(b rows columns) (i j) c",
        "(b columns i j) rows c",
        "(b rows i columns) j c",
        "(rows i j columns) b c",
        "(b rows columns i) j c",
        "(b c i j) (rows columns)",
    ],
)
def test_another_call_is_refused(pattern):
    fails(*CALL, f"your_pattern = {pattern!r}")


@pytest.mark.parametrize("side", ["1 + (1 + 2 * C) ** 0.5", "max(np.roots([1, -2, -2 * C]))"])
def test_the_side_where_both_cost_the_same(side):
    passes(*EVEN, f"your_side = lambda C: {side}")


@pytest.mark.parametrize(
    "side",
    [
        "1 - (1 + 2 * C) ** 0.5",
        "(1 + (1 + 2 * C) ** 0.5) ** 2",
        "(2 * C) ** 0.5",
        "1 + (2 * C) ** 0.5",
        "2 * C",
        "12.4",
    ],
)
def test_a_side_where_the_costs_differ_is_refused(side):
    fails(*EVEN, f"your_side = lambda C: {side}")


@pytest.mark.parametrize(
    "partitions",
    ["layers.grid(2), layers.window(2)", "layers.window(4, dilation=2), layers.window(2)"],
)
def test_with_the_meeting_first_places_hear_patches_by_rank_one(partitions):
    passes(*SWAP, f"your_partitions = {partitions}")


@pytest.mark.parametrize(
    "partitions",
    [
        "layers.window(2), layers.grid(2)",
        "layers.grid(2), layers.grid(2)",
        "layers.window(2), layers.window(2)",
        "layers.window(4), layers.window(2)",
        "layers.grid(8), layers.GLOBAL",
        "layers.grid(2), layers.window(1)",
    ],
)
def test_other_blocks_are_refused(partitions):
    fails(*SWAP, f"your_partitions = {partitions}")


# 6 Twins

SUMMARY, NEIGHBOUR, CROSSING = (("06_twins", cell) for cell in ("ex1", "ex2-check-cell", "ex4-check-cell"))


@pytest.mark.parametrize("weight", ["sum()", "mean()", "sum().item()", "log().logsumexp(0).exp()", "mul(3).sum()"])
def test_a_summary_weighs_what_its_pixels_do(weight):
    passes(*SUMMARY, f"your_weight = lambda window: window.{weight}")


@pytest.mark.parametrize("weight", ["max()", "square().sum() / window.sum()", "square().sum()", "new_tensor(1.0)"])
def test_no_other_weight_gives_full_attention(weight):
    fails(*SUMMARY, f"your_weight = lambda window: window.{weight}")


@pytest.mark.parametrize(
    "kernel", ["[[0, 0, 0], [0, -1.0, 1], [0, 0, 0]]", "torch.tensor([[0, 0, 0], [0, -1, 1], [0, 0, 0]])"]
)
def test_peg_hands_on_the_neighbour(kernel):
    passes(*NEIGHBOUR, f"your_kernel = {kernel}")


@pytest.mark.parametrize("middle", ["[0, 0, 1]", "[1, -1, 0]", "[0, 1, 1]", "[0, -1, -1]"])
def test_peg_adds_the_pixel_itself(middle):
    fails(*NEIGHBOUR, f"your_kernel = [[0, 0, 0], {middle}, [0, 0, 0]]")


@pytest.mark.parametrize("formula", ["2 * (side // k) - 1", "2 * side / k - 1", "1 + 2 * (side - k) // k"])
def test_two_layers_cross_a_window(formula):
    passes(*CROSSING, f"your_formula = lambda side, k: {formula}")


@pytest.mark.parametrize("formula", ["side // k", "2 * side // k", "side // k + 1", "2 ** (side // k) - 1"])
def test_other_formulas_for_the_crossing_are_refused(formula):
    fails(*CROSSING, f"your_formula = lambda side, k: {formula}")


# 8 CIFAR-10

FOURTH, PLAN, PEEK = (("08_cifar10", f"check-{name}") for name in ("fourth", "plan", "peek"))
SHARE = """
def your_share(a, c):
    found = np.zeros(len(a), bool)
    for n in range({first}, 21):
        x, y = a[:, :n], c[:, :n]
        error = np.sqrt((x.var(1, ddof={ddof}) + y.var(1, ddof={ddof})) / n)
        found {stop} abs(x.mean(1) - y.mean(1)) > {reach} * error
    return found.mean()
"""
ONCE_EACH = {"first": 2, "ddof": 1, "stop": "|=", "reach": "reaches[n]"}


@pytest.mark.parametrize("interval", ["0.02, 0.58", "[0.0174, 0.5826]"])
def test_the_interval_of_four_runs(interval):
    passes(*FOURTH, f"your_interval = {interval}")


@pytest.mark.parametrize(
    "interval", ["-0.15, 0.75", "0.07, 0.53", "-0.02, 0.62", "-0.05, 0.65", "0.58, 0.02", "0.0002, 0.0058"]
)
def test_an_interval_by_another_reach_or_spread_is_refused(interval):
    fails(*FOURTH, f"your_interval = {interval}")


def test_the_plan_counts_the_control():
    passes(*PLAN, "your_runs = 7, 77")


@pytest.mark.parametrize("runs", ["(7, 66)", "(8, 77)", "(6.98, 77)", "(7, 49)", "(7, 56)", "(7, 11)", "(77, 7)"])
def test_another_plan_is_refused(runs):
    fails(*PLAN, f"your_runs = {runs}")


@pytest.mark.parametrize("change", [{}, {"reach": "__import__('scipy').stats.t.ppf(0.975, 2 * n - 2)"}])
def test_who_stops_at_a_star_is_counted(change):
    passes(*PEEK, SHARE.format(**(ONCE_EACH | change)))


@pytest.mark.parametrize(
    "change",
    [{"first": 3}, {"first": 20}, {"ddof": 0}, {"stop": "="}, {"reach": "1.96"}, {"reach": "reaches[20]"}],
)
def test_another_count_is_refused(change):
    fails(*PEEK, SHARE.format(**(ONCE_EACH | change)))


# 9 Properties

JACOBIAN, MISSING, FLOOR = (("09_properties", cell) for cell in ("ex1", "ex2-check", "ex3-check"))
WHOLE = "[[48, 12, 12], [24, 60, 24], [36, 36, 72]]"
LAYER = """
class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(16, 16, 1) for _ in range(3))

    def forward(self, x):
        q, key, v = (part(x).flatten(2) for part in (self.query, self.key, self.value))
        return {y}


your_layer = Layer()
"""


@pytest.mark.parametrize("values", ["torch.eye(3) * 36", "[[36, 0, 0], [0, 36.0, 0], [0, 0, 36]]"])
def test_the_square_is_the_weight(values):
    passes(*JACOBIAN, f"your_matrices = {WHOLE}, {values}")


@pytest.mark.parametrize("answer", [f"{WHOLE}, {WHOLE}", f"torch.tensor({WHOLE}).T, torch.eye(3) * 36"])
def test_other_jacobians_are_refused(answer):
    fails(*JACOBIAN, f"your_matrices = {answer}")


@pytest.mark.parametrize(
    "y",
    [
        "((v @ key.softmax(2).mT) @ q.softmax(1)).view_as(x)",
        "x + (v * key.sigmoid()).sum(2)[..., None, None]",
        "x + v.relu().mean(2)[..., None, None]",
        "(x.flatten(2) + (v @ key.softmax(2).mT).sum(2, keepdim=True)).view_as(x)",
    ],
)
def test_one_question_for_all_pixels_is_the_missing_row(y):
    passes(*MISSING, LAYER.format(y=y))


@pytest.mark.parametrize(
    "y",
    [
        "x + v.mean(2)[..., None, None]",
        "x * v.mean(2)[..., None, None].sigmoid()",
        "x + nn.functional.gelu(v.mean(2))[..., None, None]",
        "(v * key).cumsum(2).view_as(x)",
        "(v @ (key.softmax(2).mT @ q.softmax(1))).view_as(x)",
    ],
)
def test_layers_that_lack_one_property_are_refused(y):
    fails(*MISSING, LAYER.format(y=y))


@pytest.mark.parametrize("name", sorted(MECHANISMS))
def test_no_layer_of_the_book_is_the_missing_row(name):
    with pytest.raises(AssertionError):
        attempt(*MISSING, f"your_layer = layers.build_mechanism({name!r}, 16, (32, 32)).eval()")


@pytest.mark.parametrize("P", ["W / k * max(k - d, 0) / (W - d)", "max(0, W * (1 - d / k) / (W - d))"])
def test_windows_hold_close_pairs(P):
    passes(*FLOOR, f"your_P = lambda d, k, W: {P}")


@pytest.mark.parametrize("P", ["max(k - d, 0) / k", "W / k * (k - d) / (W - d)", "float(d < k)", "1 - d / k"])
def test_other_shares_are_refused(P):
    fails(*FLOOR, f"your_P = lambda d, k, W: {P}")


# 10 Outlook

KEYS, CROWD, LIAR = (("10_outlook", cell) for cell in ("exercise-1", "exercise-2", "exercise-3"))


@pytest.mark.parametrize(
    "weights", ["[0.6333, 0.2333, 0.1333, 0]", "[0.633, 0.233, 0.133, 0]", "(19 / 30, 7 / 30, 4 / 30, 0.0)"]
)
def test_the_sparsemax_of_four_keys(weights):
    passes(*KEYS, f"your_weights = {weights}")


@pytest.mark.parametrize(
    "weights", ["[0.75, 0.35, 0.25, -0.35]", "[0.7, 0.3, 0, 0]", "[0.391, 0.262, 0.237, 0.110]", "[0.6333, 0.3667, 0]"]
)
def test_negative_weights_a_softmax_and_another_support_are_refused(weights):
    fails(*KEYS, f"your_weights = {weights}")


@pytest.mark.parametrize("numbers", ["(405, 1)", "[405, 1.0]"])
def test_the_crowd_and_the_lead(numbers):
    passes(*CROWD, f"your_crowd = {numbers}")


@pytest.mark.parametrize("numbers", ["(404, 1)", "(406, 1)", "(405, 2)", "(405, 0.5)"])
def test_another_crowd_or_lead_is_refused(numbers):
    fails(*CROWD, f"your_crowd = {numbers}")


@pytest.mark.parametrize(
    "answer",
    [
        "your_liar = lambda f: torch.nn.functional.pad(f.sum((2, 3), keepdim=True), (0, 7, 0, 7))",
        "def swap(f):\n"
        "    cam = torch.einsum('c, bchw -> bhw', model[-1].weight.diff(dim=0)[0], f).abs().flatten(1)\n"
        "    peaks, g = cam.argmax(1), f.flatten(2)\n"
        "    for x, p in zip(g, peaks):\n"
        "        x[:, [0, int(p)]] = x[:, [int(p), 0]]\n"
        "    return g.view_as(f)\n"
        "your_liar = swap",
        "def to_the_corner(f):\n"
        "    cam = torch.einsum('c, bchw -> bhw', model[-1].weight.diff(dim=0)[0], f).abs().flatten(1)\n"
        "    rolled = [x.flatten(1).roll(-int(p), 1).view_as(x) for x, p in zip(f, cam.argmax(1))]\n"
        "    return torch.stack(rolled)\n"
        "your_liar = to_the_corner",
    ],
)
def test_a_liar_moves_the_map_and_no_answer(answer):
    passes(*LIAR, answer)


@pytest.mark.parametrize(
    "answer",
    [
        "your_liar = lambda f: f",
        "your_liar = lambda f: f.mean((2, 3), keepdim=True).expand_as(f)",
        "your_liar = lambda f: torch.nn.functional.pad(f.mean((2, 3), keepdim=True), (0, 7, 0, 7))",
        "your_liar = lambda f: torch.nn.functional.pad(f[..., :1, :1], (0, 7, 0, 7))",
        "your_liar = lambda f: f.sum((2, 3), keepdim=True)",
        "your_liar = lambda f: f.flip(2, 3)",
    ],
)
def test_a_liar_that_changes_answers_or_points_elsewhere_is_refused(answer):
    fails(*LIAR, answer)
