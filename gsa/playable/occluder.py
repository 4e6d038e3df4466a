"""A cover dragged over a photograph: what a network then answers, beside the maps that should have told."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from gsa.figures import COLOURS, INK, KEY, QUERY, UNSEEN, Pixel
from gsa.playable.base import Playable, pack, read_module, rounded

Images = UInt8[Tensor, "batch 3 side side"]
Photo = UInt8[Tensor, "3 side side"]
Map = Float[Tensor, "_ _"]
SIZES, STRIDE, STEPS, DARKEST = (4, 8, 12), 2, 2**16 - 1, 3.0
FOR = COLOURS["purple"]


class Occluder(Playable):
    """A photograph under a square of another, at every second place and in three sizes, as a network classifies it.

    ``classify`` gives the shares of the ``classes`` for images; of each cover the network sees what lies at the same
    place. ``cam`` adds up, but for a constant, to the log odds of the ``answer``, ``rollout`` adds up to one; both may
    be coarser than the photograph. The ``corner`` of the square is its upper left.
    """

    name = "occluder"
    _esm = read_module(name)

    def __init__(
        self,
        classify: Callable[[Images], Float[Tensor, "batch classes"]],
        photograph: Photo,
        covers: Mapping[str, Photo],
        classes: Sequence[str],
        answer: str,
        *,
        cam: Map,
        rollout: Map,
        cover: str,
        size: int = 8,
        corner: Pixel = (12, 14),
    ) -> None:
        self.photograph, self.covers, self.side = photograph, covers, photograph.shape[-1]
        self.classes, self.answer = list(classes), list(classes).index(answer)
        self.whole = in_steps(classify(photograph[None]))[0]
        self.shares = {
            name: {each: under_cover(classify, photograph, image, each) for each in SIZES}
            for name, image in covers.items()
        }
        self.cam, self.rollout = (each.detach().numpy().astype("<f4") for each in (cam, rollout))
        data = {
            "side": self.side,
            "stride": STRIDE,
            "classes": self.classes,
            "answer": self.answer,
            "pixels": pixels(photograph),
            "covers": {name: pixels(image) for name, image in covers.items()},
            "whole": packed(self.whole),
            "shares": {name: {n: packed(each) for n, each in sizes.items()} for name, sizes in self.shares.items()},
            "cam": pack(self.cam),
            "rollout": pack(self.rollout),
            "darkest": DARKEST,
        }
        super().__init__(data=data, state={"cover": cover, "size": size, "corner": corner})

    def square(self) -> tuple[slice, slice]:
        """The rows and columns under the cover."""
        row, column = (slice(start, start + self.state["size"]) for start in self.state["corner"])
        return row, column

    def answers(self) -> Float[np.ndarray, "classes"]:
        """The shares of the classes with the cover where it is."""
        row, column = self.state["corner"]
        return self.shares[self.state["cover"]][self.state["size"]][row // STRIDE, column // STRIDE]

    def falls(self, cover: str, size: int) -> Float[np.ndarray, "rows columns"]:
        """How far the log odds fall under a cover at each of its places."""
        return log_odds(self.whole)[self.answer] - log_odds(self.shares[cover][size])[..., self.answer]

    def maps(self) -> dict[str, Float[np.ndarray, "side side"]]:
        """Per pixel, the fall around the middle of each place, and what both maps have; nan where there is no place."""
        falls = self.falls(self.state["cover"], self.state["size"]).repeat(STRIDE, 0).repeat(STRIDE, 1)
        border = (self.side - len(falls)) // 2
        occlusion = np.pad(falls, border, constant_values=np.nan)
        fine = {name: finely(each, self.side) for name, each in (("CAM", self.cam), ("rollout", self.rollout))}
        return {"occlusion": occlusion, **fine}

    def scales(self) -> dict[str, float]:
        """What is darkest in each map."""
        return {name: abs(each).max() for name, each in self.maps().items()} | {"occlusion": DARKEST}

    def words(self) -> str:
        cover, size, (row, column) = (self.state[part] for part in ("cover", "size", "corner"))
        shares, before, name = self.answers(), self.whole[self.answer], self.classes[self.answer]
        share, others = shares[self.answer], np.where(np.arange(len(shares)) == self.answer, 0, shares)
        fall = (log_odds(self.whole) - log_odds(shares))[self.answer]
        same = f"{share:.2f}" == f"{before:.2f}"
        moved = "stays at" if same else f"{'falls' if fall > 0 else 'rises'} from {before:.2f} to"
        cam, rollout = (each[self.square()].sum() for each in list(self.maps().values())[1:])
        even = (size / self.side) ** 2
        return (
            f"{size}×{size} pixels of {cover} at ({row}, {column}): {name} {moved} {share:.2f}; "
            f"{'next' if others.max() < share else 'ahead'} is {self.classes[others.argmax()]} with "
            f"{others.max():.2f}. The log odds of {name} {'lose' if fall > 0 else 'gain'} {abs(fall):.2f}. Under the "
            f"square CAM has {rounded(cam)} of them, an even share is {rounded(even * self.cam.sum(dtype=float))}; "
            f"rollout has {rounded(rollout)} of its weight, an even share is {rounded(even)}."
        )

    def draw(self) -> Figure:
        figure = plt.figure(figsize=(7.2, 5.2))
        (above,), (below,) = figure.subfigures(2, 1, squeeze=False)
        photo, shares = above.subplots(1, 2, width_ratios=(1, 1.7))
        panels = dict(zip(("covered", *self.maps()), (photo, *below.subplots(1, 3)), strict=True))
        row, column = self.square()
        seen = self.photograph.clone()
        seen[:, row, column] = self.covers[self.state["cover"]][:, row, column]
        photo.imshow(seen.movedim(0, -1).numpy())
        for (name, each), scale in zip(self.maps().items(), self.scales().values(), strict=True):
            hues = ["white", KEY] if name == "rollout" else [QUERY, "white", FOR]
            shades = LinearSegmentedColormap.from_list(name, hues).with_extremes(bad=UNSEEN)
            panels[name].imshow(each, cmap=shades, vmin=0 if name == "rollout" else -scale, vmax=scale)
        for name, axes in panels.items():
            off, size = (self.state["size"] // 2 - 1, STRIDE) if name == "occlusion" else (0, self.state["size"])
            corner = column.start + off - 0.5, row.start + off - 0.5
            axes.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=INK, linewidth=2))
            axes.set(title=name, xticks=[], yticks=[])
        self.draw_shares(shares)
        return figure

    def draw_shares(self, axes: Axes) -> None:
        """Bars of the answers under the cover, and lines where they were without it."""
        shares, places = self.answers(), np.arange(len(self.classes))
        colours = np.array([COLOURS["grey"]] * len(shares))
        colours[np.where(places == self.answer, 0, shares).argmax()], colours[self.answer] = QUERY, FOR
        axes.barh(places, shares, color=colours)
        axes.vlines(self.whole, places - 0.45, places + 0.45, color=INK)
        axes.set(title="the network's answer", xlim=(0, 1), ylim=(len(shares) - 0.5, -0.5))
        axes.set_yticks(places, self.classes)


def under_cover(
    classify: Callable[[Images], Float[Tensor, "batch classes"]], photograph: Photo, cover: Photo, size: int
) -> Float[np.ndarray, "rows columns classes"]:
    """The shares of the classes with a square of the cover at every place."""
    images = covered(photograph, cover, size)
    shares = in_steps(torch.cat([classify(some) for some in images.split(250)]))
    return shares.reshape(round(len(images) ** 0.5), -1, shares.shape[1])


def covered(photograph: Photo, cover: Photo, size: int) -> Images:
    """The photograph under a square of the cover at every place, row by row."""
    pixels = torch.arange(photograph.shape[-1])
    starts = torch.arange(0, len(pixels) - size + 1, STRIDE)[:, None]
    inside = (starts <= pixels) & (pixels < starts + size)
    squares = inside[:, None, :, None] & inside[:, None]
    return torch.where(squares.flatten(0, 1)[:, None], cover, photograph)


def in_steps(shares: Float[Tensor, "batch classes"]) -> Float[np.ndarray, "batch classes"]:
    """Shares in as many steps as two bytes tell apart, none of them 0 or 1."""
    return (shares.detach().double() * STEPS).round().clamp(1, STEPS - 1).numpy() / STEPS


def finely(coarse: Float[np.ndarray, "rows columns"], side: int) -> Float[np.ndarray, "side side"]:
    """A square map with each of its values spread evenly over the pixels that it stands for."""
    step = side // len(coarse)
    return coarse.astype(float).repeat(step, 0).repeat(step, 1) / step**2


def log_odds(shares: np.ndarray) -> np.ndarray:
    return np.log(shares / (1 - shares))


def packed(shares: np.ndarray) -> str:
    return pack((shares * STEPS).round().astype("<u2"))


def pixels(image: Photo) -> str:
    return pack(image.movedim(0, -1).contiguous().numpy())
