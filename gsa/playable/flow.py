"""Matching two images: the weights with which a pixel of the first finds itself in the second, and their mean place."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from gsa.data import Moved
from gsa.figures import COLOURS, INK, KEY, QUERY, Pixel
from gsa.layers.matching import centres, endpoint_error, estimate_flow, patch_tokens
from gsa.playable.base import Playable, pack, read_module, rounded

PATCHES, SCALES = (1, 3, 5, 7), (10, 20, 40, 80, 160, 320, 640)
REACH = 2
"""How many pixels a mode reaches to every side."""


class Flow(Playable):
    """Pairs of square images, a pixel of the first, and the weights of :func:`~gsa.layers.matching.estimate_flow`.

    The first pair of each of ``pairs`` is shown, by its name. The mean error is that of
    :func:`~gsa.layers.matching.endpoint_error`.

    Raises:
        ValueError: for a patch or a scale that no slider has.
    """

    name = "flow"
    _esm = read_module(name)

    def __init__(self, pairs: Mapping[str, Moved], *, pixel: Pixel, patch: int = 3, scale: int = 40) -> None:
        if patch not in PATCHES or scale not in SCALES:
            raise ValueError(f"needs a patch of {PATCHES} and a scale of {SCALES}, got {patch} and {scale}")
        self.pairs = {name: Moved(*(part[:1] for part in pair)) for name, pair in pairs.items()}
        packed = {name: handed(pair) for name, pair in self.pairs.items()}
        data = {"patches": PATCHES, "scales": SCALES, "pairs": packed}
        super().__init__(data=data, state={"pair": next(iter(pairs)), "pixel": pixel, "patch": patch, "scale": scale})

    def pair(self) -> Moved:
        """The images that are shown, and how the first became the second."""
        return self.pairs[self.state["pair"]]

    def weights(self) -> Float[Tensor, "side side"]:
        """How well each pixel of the second image fits the pixel of the first: the weights sum to one."""
        size = self.pair().first.shape[-2:]
        number = np.ravel_multi_index(self.state["pixel"], size)
        q, k = (patch_tokens(image.double(), self.state["patch"])[0] for image in self.pair()[:2])
        return (self.state["scale"] * k @ q[number]).softmax(0).view(size)

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the weights' mean lies, and where the pixel went: (row, column) each."""
        row, column = self.state["pixel"]
        gone = self.pair().flow[0, :, row, column].double().numpy()
        return centres(self.weights()[None])[0].numpy(), self.state["pixel"] + gone

    def modes(self) -> list[tuple[Pixel, float]]:
        """The pixel with the largest weight, and that of all which are not near; how much weight lies near each."""
        rest, found = self.weights().numpy().copy(), []
        for _ in range(2):
            first = np.argmax(rest >= (1 - 1e-9) * rest.max())  # of equals, however they were summed
            row, column = (int(place) for place in np.unravel_index(first, rest.shape))
            near = np.s_[max(0, row - REACH) : row + REACH + 1, max(0, column - REACH) : column + REACH + 1]
            found.append(((row, column), float(rest[near].sum())))
            rest[near] = 0
        return found

    def errors(self) -> dict[int, list[float]]:
        """The mean error over the image for each patch and, in a list, each scale."""
        return self.data["pairs"][self.state["pair"]]["errors"]

    def seen(self) -> UInt8[np.ndarray, "side side 3"]:
        """The second image without its colours, its black a middle grey, and bluer the more a pixel weighs."""
        weights, grey = self.weights().numpy()[..., None], self.pair().second[0].double().mean(0).numpy()[..., None]
        pale = 1 - (grey.max() - grey) / (grey.max() - grey.min()) / 2
        return (255 * (pale + weights / weights.max() * (to_rgb(KEY) - pale))).round().astype(np.uint8)

    def words(self) -> str:
        patch, scale, (row, column) = self.state["patch"], self.state["scale"], self.state["pixel"]
        ((mode, share), (other, other_share)), (mean, end) = self.modes(), self.places()
        second = f", and {rounded(other_share)} within two of {other}" if other_share >= 0.01 else ""
        error = self.errors()[patch][SCALES.index(scale)]
        off = rounded(np.hypot(*(mean - end)), 1)
        return (
            f"({row}, {column}) asks with its {patch}×{patch} pixels and s = {scale}. {rounded(share)} of the weight "
            f"lies within two pixels of {mode}{second}. The mean is at {written(mean)}, the true partner at "
            f"{written(end)}: off by {off} pixels. The whole image is off by {rounded(error)}, on average."
        )

    def draw(self) -> Figure:
        figure, (first, second, errors) = plt.subplots(1, 3, figsize=(7.2, 2.7), width_ratios=(1, 1, 1.1))
        first.imshow(self.pair().first[0].movedim(0, -1).numpy())
        second.imshow(self.seen())
        mean, end = self.places()
        outline(first, np.array(self.state["pixel"]), self.state["patch"])
        outline(second, end, self.state["patch"])
        second.plot(*zip(mean[::-1], end[::-1], strict=True), ":", color=INK, linewidth=1)
        second.plot(*mean[::-1], "o", color=COLOURS["purple"], markeredgecolor="white", markersize=6)
        for axes, title in {first: "the first image", second: "whom it finds in the second"}.items():
            axes.set(xticks=[], yticks=[])
            axes.set_title(title, fontsize=9)
        self.draw_errors(errors)
        return figure

    def draw_errors(self, axes: Axes) -> None:
        patch, scale = self.state["patch"], self.state["scale"]
        for each, errors in self.errors().items():
            style = {"color": INK} if each == patch else {"color": COLOURS["grey"], "linewidth": 1}
            axes.loglog(SCALES, errors, "-", **style)
        axes.loglog(scale, self.errors()[patch][SCALES.index(scale)], "o", color=INK, markersize=7)
        axes.axhline(self.data["pairs"][self.state["pair"]]["still"], color=INK, linestyle="--", linewidth=0.8)
        axes.set(xlabel="s", ylim=(0.1, 20))
        axes.set_xticks(SCALES, SCALES)
        axes.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
        axes.minorticks_off()
        axes.set_title(f"mean error (pixels), {patch}×{patch}", fontsize=9)


def written(place: np.ndarray) -> str:
    row, column = place
    return f"({rounded(row, 1)}, {rounded(column, 1)})"


def outline(axes: Axes, place: np.ndarray, side: int) -> None:
    """A square frame around a place, seen on every colour."""
    row, column = place
    halo = withStroke(linewidth=3.5, foreground="white")
    frame = {"fill": False, "edgecolor": QUERY, "linewidth": 1.5, "path_effects": [halo]}
    axes.add_patch(Rectangle((column - side / 2, row - side / 2), side, side, **frame))


def handed(pair: Moved) -> dict:
    """What a page needs of a pair: its images, where the pixels went, and the mean errors of every setting."""
    first, second = (image.float() for image in pair[:2])

    def error(patch: int, scale: int) -> float:
        return endpoint_error(estimate_flow(first, second, patch=patch, scale=float(scale)), pair.flow)

    packed = dict(zip(("first", "second"), (pack(image[0].movedim(0, -1).numpy()) for image in pair[:2]), strict=True))
    return packed | {
        "flow": pack(pair.flow[0].movedim(0, -1).numpy().astype("<f4")),
        "errors": {patch: [error(patch, scale) for scale in SCALES] for patch in PATCHES},
        "still": endpoint_error(0 * pair.flow, pair.flow),
    }
