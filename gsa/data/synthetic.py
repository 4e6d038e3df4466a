"""Images that numpy draws from a seed: figures to classify, to compare and to find by a sentence; moving textures."""

from collections.abc import Callable

import numpy as np

SIZE = 32
SEED = 0
Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]
Draw = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def _disc(radius: float, centre: float = 0.0) -> Outline:
    return lambda x, y: np.hypot(x - centre, y) - radius


def _polygon(vertices: list[tuple[float, float]]) -> Outline:
    """Signed distance to a polygon: the nearest edge, negative inside, where a ray crosses an odd number of edges."""

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        nearest, inside = np.full_like(x, np.inf), np.zeros(x.shape, bool)
        for (ax, ay), (bx, by) in zip(vertices, vertices[1:] + vertices[:1], strict=True):
            ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
            along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, (px - along * ex) ** 2 + (py - along * ey) ** 2)
            inside ^= ((y >= ay) != (y >= by)) & ((ex * py - ey * px > 0) == (by > ay))
        return np.where(inside, -1, 1) * np.sqrt(nearest)

    return distance


def _star(outer: float, inner: float) -> Outline:
    angles = np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2, inner, outer)
    return _polygon(list(zip(radii * np.cos(angles), radii * np.sin(angles), strict=True)))


def _rectangle(width: float, height: float) -> Outline:
    w, h = width / 2, height / 2
    return _polygon([(-w, -h), (w, -h), (w, h), (-w, h)])


def _both(first: Outline, second: Outline) -> Outline:
    return lambda x, y: np.maximum(first(x, y), second(x, y))


def _either(first: Outline, second: Outline) -> Outline:
    return lambda x, y: np.minimum(first(x, y), second(x, y))


def _outside(outline: Outline) -> Outline:
    return lambda x, y: -outline(x, y)


FIGURES: dict[str, Outline] = {
    "disc": _disc(0.8),
    "ring": _both(_disc(1.0), _outside(_disc(0.6))),
    "crescent": _both(_disc(1.16, 0.42), _outside(_disc(0.95, 1.0))),
    "square": _rectangle(1.42, 1.42),
    "triangle": _polygon([(1.24, 0.0), (-0.62, 1.075), (-0.62, -1.075)]),
    "bar": _rectangle(2.7, 0.74),
    "cross": _either(_rectangle(2.0, 0.59), _rectangle(0.59, 2.0)),
    "star": _star(1.25, 0.545),
    "corner": _polygon([(-0.7, -0.7), (1.1, -0.7), (1.1, 0.0), (0.0, 0.0), (0.0, 1.1), (-0.7, 1.1)]),
    "arrow": _polygon(
        [(1.25, 0.0), (0.05, 1.0), (0.05, 0.32), (-1.25, 0.32), (-1.25, -0.32), (0.05, -0.32), (0.05, -1.0)]
    ),
}


def _cover(outline: Outline, centre: np.ndarray, angle: np.ndarray, scale: np.ndarray, size: int = SIZE) -> np.ndarray:
    """How much of each pixel an outline covers, with soft edges: (images, size, size) in [0, 1].

    Lengths are in units of which an image has SIZE, whatever its size.
    """
    fine = np.float32(size / SIZE)
    pixels = (np.arange(size, dtype=np.float32) + 0.5) / fine
    column, row, cos, sin, scale = (
        values.astype(np.float32)[:, None, None] for values in (*centre.T, np.cos(angle), np.sin(angle), scale)
    )
    x, y = pixels - column, pixels[:, None] - row
    return np.clip(0.5 - fine * scale * outline((cos * x + sin * y) / scale, (cos * y - sin * x) / scale), 0, 1)


def _cover_each(outlines: list[Outline], kinds: np.ndarray, *pose: np.ndarray, size: int = SIZE) -> np.ndarray:
    """The cover of ``outlines[kinds[i]]`` in image i."""
    cover = np.empty((len(kinds), size, size), np.float32)
    for kind, outline in enumerate(outlines):
        cover[kinds == kind] = _cover(outline, *(values[kinds == kind] for values in pose), size)
    return cover


def _paint(canvas: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> None:
    canvas += cover[..., None] * (colour[:, None, None, :] - canvas)


def _background(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Two colours that fade into each other in some direction: (images, size, size, 3)."""
    first, second = rng.random((2, count, 1, 1, 3), np.float32)
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1)).astype(np.float32)
    place = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    fade = 0.5 + 0.7 * (np.cos(angle) * place + np.sin(angle) * place[:, None])
    return first + fade[..., None] * (second - first)


def _contrasting(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """For each image the one of six random colours that is farthest from the colour in its middle."""
    colours = rng.random((6, len(canvas), 3), np.float32)
    middle = canvas.shape[1] // 2
    farthest = ((colours - canvas[:, middle, middle]) ** 2).sum(-1).argmax(0)
    return colours[farthest, np.arange(len(canvas))]


def _finish(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Noise and rounding: uint8."""
    noise = rng.standard_normal(canvas.shape, np.float32)
    return np.clip(255 * canvas + 10 * noise, 0, 255).astype(np.uint8)


def draw_shapes(rng: np.random.Generator, labels: np.ndarray, *, size: int = SIZE) -> np.ndarray:
    """One figure per image, of any place, lean, size and colour, over a stroke and two dots: uint8 (N, size, size, 3).

    All figures have the same area and any colour, so that a histogram of colours says nothing about the class. A larger
    ``size`` shows the same with finer edges.
    """
    count = len(labels)
    canvas = _background(rng, count, size)
    colour = _contrasting(rng, canvas)
    for clutter in (_rectangle(8.0, 0.4), _disc(0.8), _disc(0.8)):
        pose = rng.uniform(0, SIZE, (count, 2)), rng.uniform(0, 2 * np.pi, count), rng.uniform(1.5, 3, count)
        _paint(canvas, _cover(clutter, *pose, size), rng.random((count, 3), np.float32))
    pose = rng.uniform(11, 21, (count, 2)), rng.uniform(-0.6, 0.6, count), rng.uniform(6, 10, count)
    _paint(canvas, _cover_each(list(FIGURES.values()), labels, *pose, size=size), colour)
    return _finish(rng, canvas)


def draw_same(rng: np.random.Generator, labels: np.ndarray, *, apart: float = 21, size: int = SIZE) -> np.ndarray:
    """A bar at the left and one at the right, parallel where the label is 1: uint8 (N, size, size, 3).

    Each bar lies in one of four directions, and with either label each direction is as frequent on either side. So
    whatever a layer computes from one bar alone has the same mean for both labels, and the loss of a linear reading of
    the average of such layers is least where it says 1/2 to every image. ``apart`` is the distance of the bars' centres
    in pixels; with 21, ten columns in the middle are empty, and no window of eleven pixels touches both bars. A larger
    ``size`` shows the same finer: these are then pixels of an image of 32.
    """
    count = len(labels)
    rank = labels.argsort(kind="stable").argsort()
    left = rank % 4
    right = (left + np.where(labels == 1, 0, 1 + rank // 4 % 3)) % 4
    canvas = np.empty((count, size, size, 3), np.float32)
    canvas[:] = 0.2 * rng.random((count, 1, 1, 3), np.float32)
    for side, direction in ((-1, left), (1, right)):
        across = SIZE / 2 + side * apart / 2 + rng.uniform(-0.5, 0.5, count)
        centre = np.stack([across, rng.uniform(6, SIZE - 6, count)], axis=1)
        cover = _cover(FIGURES["bar"], centre, direction * np.pi / 4, np.full(count, 3.0), size)
        _paint(canvas, cover, 0.6 + 0.4 * rng.random((count, 3), np.float32))
    return _finish(rng, canvas)


COLOURS = {"red": (0.85, 0.2, 0.2), "green": (0.2, 0.75, 0.25), "blue": (0.25, 0.35, 0.95), "yellow": (0.9, 0.85, 0.2)}
FORMS = ("disc", "square", "triangle", "cross")
WORDS = ("", "the", "one", *COLOURS, *FORMS)


def draw_described(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two or three coloured figures, a sentence that names one, and where that one is.

    Images are uint8 (N, 32, 32, 3), sentences three indices into WORDS, masks (N, 32, 32). A third of the sentences
    name a colour and a form, and two more figures have one of them each; to the others the colour or the form is
    enough, and the second figure differs in nothing else. So every word is needed. The figures lie in different
    quarters of the image.
    """
    colour, form = rng.integers(4, size=(2, count))
    other_colour, other_form = ((kind + rng.integers(1, 4, count)) % 4 for kind in (colour, form))
    named = rng.integers(3, size=count)  # 0: by both, 1: by its colour, 2: by its form
    quarters = rng.permuted(np.tile(np.arange(4), (count, 1)), axis=1)
    canvas = np.empty((count, SIZE, SIZE, 3), np.float32)
    canvas[:] = 0.25 * rng.random((count, 1, 1, 3), np.float32)
    tones, outlines = np.array(list(COLOURS.values()), np.float32), [FIGURES[name] for name in FORMS]
    covers = []
    for quarter, tone, kind, absent in zip(
        quarters.T[:3],
        (colour, colour, other_colour),
        (form, other_form, form),
        (named < 0, named == 1, named == 2),
        strict=True,
    ):
        centre = 16 * np.stack([quarter % 2, quarter // 2], axis=1) + rng.uniform(6, 10, (count, 2))
        pose = centre, rng.uniform(-0.3, 0.3, count), rng.uniform(4, 5, count)
        covers.append(_cover_each(outlines, kind, *pose) * ~absent[:, None, None])
        _paint(canvas, covers[-1], tones[tone] + rng.uniform(-0.1, 0.1, (count, 3)).astype(np.float32))
    the, one = WORDS.index("the"), WORDS.index("one")
    first = np.where(named == 2, WORDS.index(FORMS[0]) + form, WORDS.index("red") + colour)
    second = np.choose(named, [WORDS.index(FORMS[0]) + form, one, 0])
    return _finish(rng, canvas), np.stack([np.full(count, the), first, second], axis=1), covers[0] > 0.5


def draw_moved(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A texture before and after it has moved, and how far each of its points went.

    Images are uint8 (N, 32, 32, 3); flows (N, 2, 32, 32), rows before columns: what pixel p of the first image shows
    is at p + flow(p) in the second. A shift of up to three pixels either way and a little turning, stretching and
    shearing; the texture is a sum of waves, known at every point, so that nothing is interpolated.
    """
    place = np.stack(np.meshgrid(*2 * [np.arange(SIZE) - (SIZE - 1) / 2], indexing="ij"))
    shift, bend = rng.uniform(-3, 3, (count, 2, 1, 1)), rng.uniform(-0.05, 0.05, (count, 2, 2))
    flow = (shift + np.einsum("nij,jhw->nihw", bend, place)).astype(np.float32)
    angle, period = rng.uniform(0, 2 * np.pi, (count, 24)), rng.uniform(5, 16, (count, 24))
    wave = 2 * np.pi / period * np.stack([np.cos(angle), np.sin(angle)])
    phase, colour = rng.uniform(0, 2 * np.pi, (count, 24, 1, 1)), rng.normal(0, 0.06, (count, 24, 3))

    def texture(points: np.ndarray) -> np.ndarray:
        waves = np.cos(np.einsum("ink,nihw->nkhw", wave, points) + phase)
        return (0.5 + np.einsum("nkhw,nkc->nhwc", waves, colour)).astype(np.float32)

    return _finish(rng, texture(place + flow)), _finish(rng, texture(np.broadcast_to(place, flow.shape))), flow


def dataset(draw: Draw, classes: int, train: int = 5_000, test: int = 1_000) -> dict[str, np.ndarray]:
    """Training and test images with as many of each class, in random order; the same bytes every time."""
    rng = np.random.default_rng(SEED)
    arrays = {}
    for split, count in (("train", train), ("test", test)):
        labels = rng.permutation(np.arange(count) % classes).astype(np.uint8)
        few_at_a_time = np.array_split(labels, count // 250)
        arrays[f"x_{split}"] = np.concatenate([draw(rng, some) for some in few_at_a_time])
        arrays[f"y_{split}"] = labels
    return arrays
