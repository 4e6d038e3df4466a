"""The table of self-attention: every weight between the pixels of a photograph, read by rows or by columns."""

import base64

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from gsa.figures import QUERY, Pixel, mark
from gsa.playable.base import Playable, read_module


class Table(Playable):
    """Self-attention on a small square photograph, whose weights are the softmax of ``queries`` times ``keys``.

    A row of the table says whom a pixel hears, a column by whom it is heard. In the state, ``shuffled`` lays the pixels
    out in another order, and ``near`` adds a bias: minus an eighth of the squared distance to every logit.
    """

    name = "table"
    _esm = read_module(name)

    def __init__(
        self,
        queries: Float[Tensor, "pixels width"],
        keys: Float[Tensor, "pixels width"],
        photograph: UInt8[Tensor, "3 side side"],
        pixel: Pixel = (4, 3),
    ) -> None:
        self.q, self.k = queries.numpy().astype("<f4"), keys.numpy().astype("<f4")
        self.photograph = photograph.movedim(0, -1).numpy()
        self.order = np.random.default_rng(0).permutation(len(queries))
        packed = [base64.b64encode(values.tobytes()).decode() for values in (self.q, self.k, self.photograph)]
        names = ("queries", "keys", "pixels")
        data = {"side": len(self.photograph), "order": self.order.tolist(), **dict(zip(names, packed, strict=True))}
        super().__init__(data=data, state={"pixel": pixel, "reads": "row", "shuffled": False, "near": False})

    def weights(self) -> np.ndarray:
        """The table as it stands: pixels that ask × pixels that are heard."""
        size, order = self.photograph.shape[:2], self.order if self.state["shuffled"] else slice(None)
        logits = self.q[order].astype(float) @ self.k[order].astype(float).T
        if self.state["near"]:
            places = np.indices(size).reshape(2, -1)
            logits -= ((places[:, :, None] - places[:, None]) ** 2).sum(0) / 8
        loudness = np.exp(logits - logits.max(1, keepdims=True))
        return loudness / loudness.sum(1, keepdims=True)

    def read(self) -> np.ndarray:
        """The row or the column of the pixel, folded into a map."""
        weights, number = self.weights(), self.number()
        return (weights[number] if self.state["reads"] == "row" else weights[:, number]).reshape(self.image().shape[:2])

    def number(self) -> int:
        """The pixel's row of the table."""
        return int(np.ravel_multi_index(self.state["pixel"], self.photograph.shape[:2]))

    def image(self) -> np.ndarray:
        """The photograph as it lies, shuffled or not."""
        if not self.state["shuffled"]:
            return self.photograph
        return self.photograph.reshape(-1, 3)[self.order].reshape(self.photograph.shape)

    def words(self) -> str:
        heard, weights, written = self.weights().sum(0), self.read(), "({}, {})".format
        pixel, most = written(*self.state["pixel"]), written(*np.unravel_index(weights.argmax(), weights.shape))
        if self.state["reads"] == "row":
            return (
                f"Row: {pixel} has {weights.sum():.2f} to give away, as everybody has. The most, {weights.max():.3f}, "
                f"goes to {most}. What it gets from all is another matter: {heard[self.number()]:.2f}."
            )
        return (
            f"Column: all together give {pixel} {weights.sum():.2f}; the most, {weights.max():.3f}, comes from {most}. "
            f"The columns sum to {heard.min():.2f} at the least and {heard.max():.2f} at the most, and to 1 on average."
        )

    def draw(self) -> Figure:
        figure, (photo, table, heard) = plt.subplots(1, 3, figsize=(7.2, 2.8))
        weights = self.read()
        photo.imshow(self.image())
        table.imshow(self.weights(), vmax=np.quantile(self.weights(), 0.99, method="lower"))
        by_row = self.state["reads"] == "row"
        (table.axhline if by_row else table.axvline)(self.number(), color=QUERY, linestyle="-", linewidth=1)
        heard.imshow(1 - (weights / weights.max())[..., None] * (1 - self.image() / 255))
        titles = ("the photograph", "the table", "whom it hears" if by_row else "by whom it is heard")
        for axes, title in zip((photo, table, heard), titles, strict=True):
            axes.set(title=title, xticks=[], yticks=[])
        table.set(xlabel="j, who is heard", ylabel="i, who asks")
        for axes in (photo, heard):
            mark(axes, tuple(self.state["pixel"]))
        return figure
