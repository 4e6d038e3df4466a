"""Paint the gate: a slider for each pixel of a trained network's last map, set by hand, and what it then answers."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor, nn

from gsa.data import Photograph
from gsa.figures import KEY, QUERY, Pixel, mark, tint
from gsa.playable.base import Playable, pack, read_module, rounded

GATES = (0, 0.5, 1, 2, 4)


class PaintedGate(Playable):
    """A gate on ``maps``, the last of a network, which averages them over all pixels and ends in the linear ``head``.

    A pixel of a map says the class to which it adds most; ``word`` is the class that its reader listens for. The gate
    begins open, but for the bottom row, which is closed.
    """

    name = "painted_gate"
    _esm = read_module(name)

    def __init__(
        self,
        maps: Float[Tensor, "photographs channels side side"],
        head: nn.Linear,
        classes: Sequence[str],
        photographs: Sequence[Photograph],
        word: str,
        pixel: Pixel = (5, 5),
    ) -> None:
        self.maps, self.head, self.classes, self.photographs = maps, head, classes, photographs
        side = maps.shape[-1]
        with torch.no_grad():
            said = torch.einsum("kc,pcij->pijk", head.weight, maps) / side**2
        self.said = said.numpy().astype("<f4")
        described = [
            {
                "title": photograph.title,
                "credit": f"{photograph.credit}, {photograph.licence}",
                "pixels": pack(photograph.image.movedim(0, -1).numpy()),
                "said": pack(values),
            }
            for photograph, values in zip(photographs, self.said, strict=True)
        ]
        size = photographs[0].image.shape[-1]
        data = {"side": side, "size": size, "gates": GATES, "classes": classes, "photographs": described}
        data["bias"] = head.bias.tolist()
        gate = [1] * (side * (side - 1)) + [0] * side
        super().__init__(
            data=data, state={"photograph": 0, "gate": gate, "brush": 0, "word": classes.index(word), "pixel": pixel}
        )

    def gate(self) -> np.ndarray:
        return np.reshape(self.state["gate"], self.said.shape[1:3])

    def probabilities(self) -> np.ndarray:
        """What the network answers, a probability for each class."""
        gate, last = torch.from_numpy(self.gate()), self.maps[self.state["photograph"]]
        with torch.no_grad():
            logits = self.head((gate * last).mean((1, 2)).to(last.dtype))
        return logits.double().softmax(0).numpy()

    def loudest(self) -> np.ndarray:
        """The class that each pixel says, whatever its slider."""
        return self.said[self.state["photograph"]].argmax(-1)

    def leads(self) -> np.ndarray:
        """How much more each pixel adds to the word than to any other class, times its slider; 1 is the most of all."""
        said = self.said[self.state["photograph"]].astype(float)
        first, second = np.sort(said)[..., :-3:-1].T
        word = self.state["word"]
        leads = said[..., word] - np.delete(said, word, -1).max(-1)
        return (self.gate() * leads / (first - second).max()).clip(-1, 1)

    def words(self) -> str:
        gate, loudest, shares = self.gate(), self.loudest(), self.probabilities()
        first, second = shares.argsort()[:-3:-1]
        row, column = pixel = tuple(self.state["pixel"])
        saying = loudest == self.state["word"]
        closed, said = gate == 0, self.classes[self.state["word"]]
        return (
            f"The network says {self.classes[first]} with probability {rounded(shares[first])}; next comes "
            f"{self.classes[second]}, {rounded(shares[second])}. Closed: {closed.sum()} of {gate.size} pixels; turned "
            f"up: {(gate > 1).sum()}. Pixels that say {said}: {saying.sum()}, of them closed: {closed[saying].sum()}. "
            f"({row}, {column}), with g = {gate[pixel]:g}, says {self.classes[loudest[pixel]]}."
        )

    def draw(self) -> Figure:
        figure, (photo, said, answer) = plt.subplots(1, 3, figsize=(7.2, 2.9), width_ratios=(1, 1, 0.8))
        image = self.photographs[self.state["photograph"]].image.movedim(0, -1).numpy() / 255
        gate, leads, word = self.gate(), self.leads()[..., None], self.classes[self.state["word"]]
        light = np.kron(gate**0.5, np.ones([len(image) // len(gate)] * 2))[..., None]
        edges = (-0.5, len(gate) - 0.5)
        photo.imshow((image * light).clip(0, 1), extent=(*edges, *edges[::-1]))
        for (row, column), g in np.ndenumerate(gate):
            if g != 1:
                photo.text(column, row, f"{g:g}", ha="center", va="center", color="white", fontsize=8)
        said.imshow(1 - abs(leads) * (1 - np.where(leads > 0, to_rgb(KEY), to_rgb(QUERY))))
        for axes, title in ((photo, "the photograph, gated"), (said, f"what says {word}")):
            axes.set(title=title, xticks=[], yticks=[])
            mark(axes, tuple(self.state["pixel"]))
        answer.barh(self.classes, self.probabilities(), color=tint(KEY, 0.5))
        answer.set(title="the network says", xlim=(0, 1), xticks=(0, 0.5, 1), box_aspect=1.25)
        answer.invert_yaxis()
        return figure
