"""The weights of both hops of Global Sparse Attention on a photograph, pixel by pixel."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from gsa.figures import Pixel, draw_attention
from gsa.layers import Partition, grid, window
from gsa.playable.base import Playable, read_module

STEPS = 2**16 - 1


class HopWeights(Playable):
    """Where the sum at a pixel comes from, through which relay, and with what weights, on a square photograph.

    ``across`` and ``within`` are the softmax matrices that :func:`~gsa.layers.attention.record_weights` keeps of
    :class:`~gsa.layers.sparse.GlobalSparseAttention` on one image; the mean of their heads is shown.
    """

    name = "hop_weights"
    _esm = read_module(name)

    def __init__(
        self,
        across: Float[Tensor, "places heads patches patches"],
        within: Float[Tensor, "patches heads places places"],
        photograph: UInt8[Tensor, "3 rows columns"],
        *,
        receiver: Pixel = (6, 5),
        sender: Pixel = (1, 2),
    ) -> None:
        self.photograph = photograph
        patch, per_side = round(len(across) ** 0.5), round(len(within) ** 0.5)
        self.side = patch * per_side
        self.one, self.two = (
            by_pixel(weights, partition, self.side)
            for weights, partition in ((across, grid(patch)), (within, window(patch)))
        )
        packed = [base64.b64encode((w * STEPS).round().astype("<u2").tobytes()).decode() for w in (self.one, self.two)]
        data = {"side": self.side, "patch": patch, "weights": packed, "photograph": pale(photograph)}
        super().__init__(data=data, state={"receiver": receiver, "sender": sender, "shown": "both"})

    def relay(self) -> Pixel:
        """The sender's place in the receiver's patch."""
        patch = self.data["patch"]
        row, column = (
            there - there % patch + place % patch
            for there, place in zip(self.state["receiver"], self.state["sender"], strict=True)
        )
        return row, column

    def maps(self) -> dict[str, np.ndarray]:
        """Weights on the whole map: the relay's in hop 1, the receiver's in hop 2 and in both."""
        size, patch = (self.side, self.side), self.data["patch"]
        one, two = dense(self.one, grid(patch), self.side), dense(self.two, window(patch), self.side)
        relay, receiver = (np.ravel_multi_index(pixel, size) for pixel in (self.relay(), self.state["receiver"]))
        maps = {"one": one[relay], "two": two[receiver], "both": two[receiver] @ one}
        return {name: weights.reshape(size) for name, weights in maps.items()}

    def words(self) -> str:
        maps, relay = self.maps(), self.relay()
        receiver, sender = (tuple(self.state[name]) for name in ("receiver", "sender"))
        largest = np.unravel_index(maps["both"].argmax(), maps["both"].shape)
        written = "({}, {})".format
        return (
            f"{written(*receiver)} gives {written(*sender)} the weight {maps['both'][sender]:.4f}: in hop 2 it gives "
            f"the relay {written(*relay)} {maps['two'][relay]:.3f}, and in hop 1 the relay gave {written(*sender)} "
            f"{maps['one'][sender]:.3f}. An even share of all {self.side**2} pixels would be {self.side**-2:.4f}; the "
            f"largest weight, {maps['both'].max():.4f}, is at {written(*largest)}."
        )

    def draw(self) -> Figure:
        figure, panels = plt.subplots(1, 3, figsize=(7.2, 3.2))
        titles = {"one": "hop 1, of the relay", "two": "hop 2, of the receiver", "both": "both hops"}
        for axes, (name, weights) in zip(panels, self.maps().items(), strict=True):
            query = self.relay() if name == "one" else tuple(self.state["receiver"])
            table = np.zeros((self.side,) * 4)
            table[query] = weights
            draw_attention(axes, self.photograph, table, query).set_title(titles[name])
        return figure


def members(partition: Partition, side: int) -> np.ndarray:
    """The numbers of the pixels of each group of a square map."""
    numbers = torch.arange(float(side**2)).view(1, 1, side, side)
    return partition.split(numbers)[..., 0].long().numpy()


def by_pixel(weights: Float[Tensor, "groups heads tokens tokens"], partition: Partition, side: int) -> np.ndarray:
    """The weights of each pixel over its group, the mean of the heads, in 65,535 steps."""
    rows = np.zeros((side**2, weights.shape[-1]))
    rows[members(partition, side)] = weights.mean(1).numpy()
    return (rows * STEPS).round() / STEPS


def dense(rows: np.ndarray, partition: Partition, side: int) -> np.ndarray:
    """The weights of each pixel over the whole map."""
    matrix = np.zeros((side**2, side**2))
    for group in members(partition, side):
        matrix[np.ix_(group, group)] = rows[group]
    return matrix


def pale(photograph: UInt8[Tensor, "3 rows columns"]) -> str:
    """A photograph without colours, its black a middle grey, as the address of a PNG file."""
    grey = photograph.float().mean(0).numpy()
    with io.BytesIO() as file:
        plt.imsave(file, grey, format="png", cmap="gray", vmin=2 * grey.min() - grey.max(), vmax=grey.max())
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
