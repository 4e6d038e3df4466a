"""The influence on a photograph: which of its pixels move a pixel of a layer's output, and how, map beside map."""

import zlib
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from gsa.figures import KEY, UNSEEN, Pixel, mark
from gsa.playable.base import Playable, pack, read_module

Map = Float[Tensor, "side side side side"]
LARGEST, LEAST, DECADE = 64, 16, 16
"""Tones of the largest influence on a pixel and of all from a thousandth of it down, and how many a tenth takes off."""


class Influence(Playable):
    """For each layer the influence of every pixel on every pixel of its output, with its weights moving and held.

    The first of its two ``maps`` is that of :func:`gsa.probes.influence` for all (row, column), the second the same
    with the weights held, as in :func:`gsa.probes.mixing`. Each is shown by its logarithm, relative to its largest
    value. Pixels of the ``photograph`` that are zero are called black.
    """

    name = "influence"
    _esm = read_module(name)

    def __init__(
        self,
        maps: Mapping[str, tuple[Map, Map]],
        photograph: UInt8[Tensor, "3 side side"],
        *,
        layer: str,
        pixel: Pixel = (0, 0),
    ) -> None:
        self.photograph = photograph.movedim(0, -1).numpy()
        self.tones = {name: [toned(each.double().numpy()) for each in both] for name, both in maps.items()}
        self.others = {name: [share_of_others(each.double().numpy()) for each in both] for name, both in maps.items()}
        data = {
            "side": len(self.photograph),
            "pixels": pack(self.photograph),
            "tones": {name: compressed(np.stack(both)) for name, both in self.tones.items()},
            "others": {name: [pack(each) for each in both] for name, both in self.others.items()},
        }
        super().__init__(data=data, state={"layer": layer, "pixel": pixel})

    def maps(self) -> list[np.ndarray]:
        """How blue each pixel is, from 0 to 1, with the layer's weights moving and held."""
        return [tones[tuple(self.state["pixel"])] / LARGEST for tones in self.tones[self.state["layer"]]]

    def words(self) -> str:
        layer, (row, column) = self.state["layer"], self.state["pixel"]
        moving, held = (np.count_nonzero(each) for each in self.maps())
        others, others_held = (each[row, column] / 100 for each in self.others[layer])
        light = "is not black" if self.photograph[row, column].any() else "is black"
        return (
            f"Layer {layer}. The pixel ({row}, {column}) {light}. Input pixels that move its output: {moving} of "
            f"{len(self.photograph) ** 2}; with the weights held, {held}. Pixels other than itself have {others:.2f} "
            f"of the influence; with the weights held, {others_held:.2f}."
        )

    def draw(self) -> Figure:
        figure, (photo, *panels) = plt.subplots(1, 3, figsize=(7.2, 2.8))
        photo.imshow(self.photograph)
        blues = LinearSegmentedColormap.from_list("blues", [UNSEEN, KEY])
        for axes, blueness in zip(panels, self.maps(), strict=True):
            axes.imshow(blueness, cmap=blues, vmin=0, vmax=1)
        titles = ("the photograph", f"{self.state['layer']}: weights moving", f"{self.state['layer']}: weights held")
        for axes, title in zip((photo, *panels), titles, strict=True):
            axes.set(title=title, xticks=[], yticks=[])
            mark(axes, tuple(self.state["pixel"]))
        return figure


def toned(influence: Float[np.ndarray, "side side side side"]) -> UInt8[np.ndarray, "side side side side"]:
    """Each map by the logarithm of its values, relative to its largest; without influence, zero."""
    relative = influence / influence.max((2, 3), keepdims=True)
    tones = LARGEST + DECADE * np.log10(np.where(relative > 0, relative, 1))
    return np.where(relative > 0, tones.round().clip(LEAST), 0).astype(np.uint8)


def share_of_others(influence: Float[np.ndarray, "side side side side"]) -> UInt8[np.ndarray, "side side"]:
    """The part of the influence on a pixel that is not its own, in hundredths."""
    own = np.einsum("ijij->ij", influence)
    return (100 * (1 - own / influence.sum((2, 3)))).round().astype(np.uint8)


def compressed(tones: UInt8[np.ndarray, "2 side side side side"]) -> str:
    return pack(np.frombuffer(zlib.compress(tones.tobytes()), np.uint8))
