"""What several test files need."""

import torch

from gsa.data import Dataset


def tinted(train: int = 80, test: int = 20, height: int = 8, width: int = 8) -> Dataset:
    """Four classes of noise, each with a tint of its own."""
    drawn = torch.Generator().manual_seed(0)
    y = torch.arange(train + test) % 4
    tints = torch.randint(256, (4, 3, 1, 1), generator=drawn)
    noise = torch.randint(-90, 91, (len(y), 3, height, width), generator=drawn)
    x = (tints[y] + noise).clamp(0, 255).to(torch.uint8)
    return Dataset("tinted", "drawn by a test", tuple("abcd"), x[:train], y[:train], x[train:], y[train:])
