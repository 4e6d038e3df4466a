"""One pixel of a photograph, and what each layer of the book lets it see."""

import base64
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from gsa.data import Photograph
from gsa.figures import Pixel, draw_eyes, members
from gsa.figures.family import STEPS, seen
from gsa.playable.base import Playable, read_module


class Views(Playable):
    """Photographs of 32 × 32 pixels as each layer lets one pixel see them: the more a place counts, the less it fades.

    Query and key of attention are the colour of a pixel, as in ``gsa.figures.draw_eyes``.
    """

    name = "views"
    _esm = read_module(name)

    def __init__(self, photographs: Sequence[Photograph], pixel: Pixel = (11, 11)) -> None:
        self.photographs = photographs
        described = [
            {
                "title": photograph.title,
                "credit": f"{photograph.credit}, {photograph.licence}",
                "pixels": base64.b64encode(photograph.image.movedim(0, -1).numpy().tobytes()).decode(),
            }
            for photograph in photographs
        ]
        layers = {f"{member.chapter} {name}": member.where.replace("\n", " ") for name, member in members().items()}
        data = {"side": 32, "patch": 8, "steps": STEPS.tolist(), "layers": layers, "photographs": described}
        super().__init__(data=data, state={"photograph": 0, "pixel": pixel})

    def strengths(self) -> list[np.ndarray]:
        """How much each place counts for the pixel in each layer, 1 where it counts most."""
        image = self.photographs[self.state["photograph"]].image.movedim(0, -1).numpy() / 255
        return [weights.astype(float) for _, weights in seen(image, tuple(self.state["pixel"]))]

    def words(self) -> str:
        convolution, gate, sampling, everywhere, stand_alone, *_ = self.strengths()
        row, column = self.state["pixel"]
        near, one, points, window = map(np.count_nonzero, (convolution, gate, sampling, stand_alone))
        strong = np.count_nonzero(everywhere >= 0.5)
        return (
            f"For the pixel ({row}, {column}), convolution sums over {near} pixels, a gate over {one}, sampling over "
            f"{points}, stand-alone attention over {window}, Twins over 64 and then 16 summaries (that of its own "
            "block is not drawn), Global Sparse Attention over 16 and then 64. Self-attention sums over all "
            f"{everywhere.size:,}; those with at least half of the largest weight: {strong:,}."
        )

    def draw(self) -> Figure:
        return draw_eyes(self.photographs[self.state["photograph"]].image, tuple(self.state["pixel"]))
