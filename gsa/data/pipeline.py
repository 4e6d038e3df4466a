"""Images on the device: split once, then shuffled, flipped, cropped and normalised batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from gsa.data.dataset import Dataset


@dataclass(frozen=True)
class Images:
    """A split of a data set on its device."""

    x: UInt8[Tensor, "images channels height width"]
    y: Int64[Tensor, " images"]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Int64[Tensor, " some"], device: torch.device) -> "Images":
        """The images of ``index``, in its order, on ``device``."""
        return Images(self.x[index].to(device), self.y[index].to(device))


def split(dataset: Dataset, holdout: float, images: int, device: torch.device) -> tuple[Images, Images, Images]:
    """Training, held-out and test images; the same ones are held out whatever the seed of a run.

    ``holdout`` is the share of the training set kept back, ``images`` how many of the rest are used, 0 for all.

    Raises:
        ValueError: for a share that keeps all images back, or none although it is not 0.
    """
    order = torch.randperm(len(dataset.y_train), generator=torch.Generator().manual_seed(0))
    kept_back = round(holdout * len(order))
    if not bool(holdout) <= kept_back < len(order):
        raise ValueError(f"a holdout of {holdout} keeps back {kept_back} of {len(order)} training images")
    train = Images(dataset.x_train, dataset.y_train)
    used = order[kept_back:][: images or None]
    test = Images(dataset.x_test.to(device), dataset.y_test.to(device))
    return train.take(used, device), train.take(order[:kept_back], device), test


def batches(images: Images, size: int, seed: int, epoch: int, crop: int) -> Iterator[Images]:
    """One epoch of augmented batches of equal ``size``, a function of (seed, epoch) alone; the last few left out.

    What is drawn for the epoch goes to the device at its beginning, all at once.
    """
    device, count = images.x.device, len(images)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).to(device)
    flips = alternating_flips(count, seed, epoch).to(device)
    offsets = torch.randint(
        2 * crop + 1, (count, 2), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch + 500_000)
    ).to(device)
    for index in order[: count - count % size].view(-1, size):
        batch = images.take(index, device)
        yield Images(flip(shift(batch.x, offsets[index], crop), flips[index]), batch.y)


def alternating_flips(images: int, seed: int, epoch: int) -> Bool[Tensor, " images"]:
    """Which images to mirror: a coin per image in epoch 0, then the other side in every following epoch.

    After two epochs each image was seen once each way, which plain random flips only do half of the time
    (arXiv:2404.00498).
    """
    coins = torch.rand(images, generator=torch.Generator().manual_seed(seed)) < 0.5
    return coins ^ bool(epoch % 2)


def flip(
    x: UInt8[Tensor, "images channels height width"], which: Bool[Tensor, " images"]
) -> UInt8[Tensor, "images channels height width"]:
    """Mirror the images that ``which`` names, left to right."""
    return torch.where(which[:, None, None, None], x.flip(-1), x)


def shift(
    x: UInt8[Tensor, "images channels height width"], offsets: Int64[Tensor, "images 2"], margin: int
) -> UInt8[Tensor, "images channels height width"]:
    """Crop every image at its (row, column) offset, 0…2·margin, from itself padded by ``margin`` reflected pixels."""
    if margin == 0:
        return x
    height, width = x.shape[-2:]
    padded = F.pad(x.float(), (margin,) * 4, mode="reflect").to(x.dtype)
    views = padded.unfold(2, height, 1).unfold(3, width, 1)
    return views[torch.arange(len(x), device=x.device), :, offsets[:, 0], offsets[:, 1]]


class Normalizer(nn.Module):
    """Pixels to zero mean and unit variance per channel, by the statistics of the training images.

    Shape:
        Bytes of (images, channels, height, width) in, numbers of the same shape out. ``mean`` and ``std`` are
        (channels, 1, 1), of pixels from 0 to 1, and move with the module.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Float[Tensor, "channels 1 1"], std: Float[Tensor, "channels 1 1"]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def of(cls, images: Images) -> "Normalizer":
        std, mean = torch.std_mean(images.x.float() / 255, (0, 2, 3))
        return cls(mean[:, None, None], std.clamp_min(1e-3)[:, None, None])

    def forward(
        self, x: UInt8[Tensor, "images channels height width"]
    ) -> Float[Tensor, "images channels height width"]:
        return ((x.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
