"""Two profiles: what one head of stand-alone attention can say about places, and what it cannot."""

from collections.abc import Sequence
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gsa.figures import COLOURS, QUERY
from gsa.layers import StandAloneSelfAttention
from gsa.playable.base import Playable, read_module

K, HIGHEST = 7, 6.0
ALPHAS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
OFFSETS = range(-(K // 2), K // 2 + 1)
WISHES = {"spot": np.zeros((K, K)), "stripe": np.zeros((K, K)), "diagonal": np.eye(K) / K}
WISHES["spot"][2, 5] = 1
WISHES["stripe"][:, 4] = 1 / K
BEST = {"spot": 1.0, "stripe": 1.0, "diagonal": 2 / K + (1 - 2 * K**-0.5) ** 2}
"""What the product of two profiles can have in common with a wish: of a diagonal two full cells and what is left."""


class Profiles(Playable):
    """The 7 × 7 weights that a head makes of seven logits of rows and seven of columns, times the sharpness ``alpha``.

    ``wish`` is the pattern to be reached, ``bar`` the one of the fourteen logits that keys change, columns first.

    Raises:
        ValueError: if there are not seven of each between 0 and 6, or alpha is none of the slider's.
    """

    name = "profiles"
    _esm = read_module(name)

    def __init__(
        self,
        rows: Sequence[float] = (1.0, 3.0, 4.0, 3.0, 1.0, 0.0, 0.0),
        columns: Sequence[float] = (0.0, 1.0, 2.0, 1.0, 2.0, 3.0, 1.0),
        alpha: float = 1.0,
        *,
        wish: Literal["spot", "stripe", "diagonal"] = "diagonal",
        bar: int = 0,
    ) -> None:
        if alpha not in ALPHAS:
            raise ValueError(f"alpha must be one of {ALPHAS}, got {alpha}")
        for logits in (rows, columns):
            if len(logits) != K or not all(0 <= logit <= HIGHEST for logit in logits):
                raise ValueError(f"needs {K} logits between 0 and {HIGHEST:g}, got {logits}")
        data = {"wishes": {name: wished.tolist() for name, wished in WISHES.items()}, "best": BEST, "alphas": ALPHAS}
        state = {"rows": list(rows), "columns": list(columns), "alpha": alpha, "wish": wish, "bar": bar}
        super().__init__(data=data, state=state)

    def weights(self) -> np.ndarray:
        """Whom the layer lets the middle of a 7 × 7 map hear: every query is (1, 1), every key zero."""
        layer = StandAloneSelfAttention(2, heads=1, kernel_size=K).double()
        with torch.no_grad():
            layer.q.weight[:] = torch.tensor([[1.0, 0], [1, 0]])[..., None, None]
            layer.kv.weight[:] = torch.tensor([[0.0, 0], [0, 0], [0, 1], [0, 1]])[..., None, None]
            for relative, logits in ((layer.height_rel, "rows"), (layer.width_rel, "columns")):
                relative[:, 0] = self.state["alpha"] * torch.tensor(self.state[logits], dtype=torch.float64)
            pixels = torch.eye(K * K, dtype=torch.float64).view(K * K, 1, K, K)
            heard = layer(torch.cat([torch.ones_like(pixels), pixels], 1))
        return heard[:, 0, K // 2, K // 2].view(K, K).numpy()

    def common(self) -> float:
        """What the weights have in common with the wish."""
        return float(np.minimum(self.weights(), WISHES[self.state["wish"]]).sum())

    def words(self) -> str:
        weights, wish = self.weights(), self.state["wish"]
        row, column = np.unravel_index(weights.argmax(), weights.shape)
        place = f"({OFFSETS[row]:+d}, {OFFSETS[column]:+d})".replace("-", "−").replace("+0", "0")
        return (
            f"The largest of the 49 weights, {weights.max():.2f}, is at offset {place}. The weights have "
            f"{self.common():.2f} in common with the wished {wish}; no two profiles have more than {BEST[wish]:.2f}."
        )

    def draw(self) -> Figure:
        ratios = {"width_ratios": (1, 2.5), "height_ratios": (1, 2.5)}
        figure, axes = plt.subplot_mosaic(".c;rw", figsize=(5.4, 5.4), **ratios)
        axes["r"].barh(OFFSETS, self.state["rows"], color=COLOURS["purple"])
        axes["r"].set(xlim=(HIGHEST, 0), ylim=(3.5, -3.5), xlabel="logits", ylabel="row offset δ")
        axes["c"].bar(OFFSETS, self.state["columns"], color=COLOURS["ochre"])
        axes["c"].set(ylim=(0, HIGHEST), xlim=(-3.5, 3.5), ylabel="logits")
        self.draw_weights(axes["w"])
        return figure

    def draw_weights(self, axes: Axes) -> None:
        axes.imshow(self.weights(), vmin=0, extent=(-3.5, 3.5, 3.5, -3.5), aspect="auto")
        for row, column in np.argwhere(WISHES[self.state["wish"]]):
            corner = OFFSETS[column] - 0.5, OFFSETS[row] - 0.5
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=QUERY, linewidth=2))
        axes.set(xlabel="column offset ε", yticks=[])
