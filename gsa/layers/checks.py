"""What arguments must be: one place for the checks that several layers make, and for what they say."""

from torch import Tensor


def divisors(n: int) -> list[int]:
    """All divisors of n, ascending."""
    return [k for k in range(1, n + 1) if n % k == 0]


def check_axes(x: Tensor, axes: str = "batch channels height width") -> None:
    """ValueError unless ``x`` has these axes."""
    names = axes.split()
    if x.ndim != len(names):
        raise ValueError(f"expected a tensor of shape ({', '.join(names)}), got one of shape {tuple(x.shape)}")


def check_heads(channels: int, heads: int) -> None:
    """ValueError unless ``heads`` divides ``channels``."""
    if heads < 1 or channels % heads:
        fit = divisors(channels)
        raise ValueError(f"{heads} heads do not divide {channels} channels; heads that do: {fit}")


def check_kernel_size(kernel_size: int) -> None:
    """ValueError unless ``kernel_size`` is odd, so that the window has a middle pixel."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        near = max(1, kernel_size - 1)
        raise ValueError(f"a window of side {kernel_size} has no middle; odd sides do, such as {near} or {near + 2}")
