"""Photographs in the public domain that come with scikit-image: nothing is fetched."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

PHOTOGRAPHS = {
    "chelsea": ("Chelsea, a cat", "Stéfan van der Walt", "CC0"),
    "rocket": ("Launch of a Falcon 9", "SpaceX", "public domain"),
    "coffee": ("A cup of coffee", "Rachel Michetti, courtesy of Pikolo Espresso Bar", "CC0"),
    "astronaut": ("Eileen Collins, astronaut", "NASA", "public domain"),
    "camera": ("A man with a camera", "Lav Varshney", "CC0"),
    "horse": ("Silhouette of a horse (a drawing)", "Andreas Preuss", "CC0"),
}
"""Title, credit and licence of each, by the name that it has in scikit-image."""


@dataclass(frozen=True)
class Photograph:
    """A square photograph, and what is to be said under it."""

    title: str
    credit: str
    licence: str
    image: UInt8[Tensor, "3 size size"]


def photograph(name: str, size: int = 32) -> Photograph:
    """The square in the middle of the photograph ``name``, each pixel the average of those that it stands for.

    Raises:
        ValueError: for a name that is none of PHOTOGRAPHS, or a size that the photograph does not have.
    """
    from skimage import data  # needed for nothing else

    if name not in PHOTOGRAPHS:
        raise ValueError(f"no photograph is called {name!r}; there are {', '.join(PHOTOGRAPHS)}")
    pixels = getattr(data, name)()
    side = min(pixels.shape[:2])
    if not 1 <= size <= side:
        raise ValueError(
            f"the photograph {name!r} has a square of {side}×{side} pixels, so size is 1…{side}, got {size}"
        )
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    square = pixels[top : top + side, left : left + side].astype(np.float32) * (255 if pixels.dtype == bool else 1)
    channels = torch.from_numpy(square.reshape(side, side, -1)).movedim(-1, 0).expand(3, -1, -1)
    image = F.interpolate(channels[None], (size, size), mode="area")[0].round().to(torch.uint8)
    return Photograph(*PHOTOGRAPHS[name], image)
