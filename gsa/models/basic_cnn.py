"""The smallest network of the book: two convolutions and a linear layer, for digits."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class BasicCNN(nn.Module):
    """Convolution 5×5, convolution 3×3, each with max pooling and ReLU, then one linear layer over all that is left.

    Shape:
        (batch, in_channels, size, size) in, (batch, classes) logits out. For digits of 28×28 it has 7,090 parameters:
        260 and 1,820 in the convolutions, 5,010 in the linear layer.

    Raises:
        ValueError: for images too small to leave a pixel.
    """

    def __init__(self, classes: int = 10, *, in_channels: int = 1, size: int = 28) -> None:
        super().__init__()
        side = ((size - 4) // 2 - 2) // 2
        if side < 1:
            raise ValueError(f"images of {size}×{size} pixels leave nothing after two convolutions; at least 12×12 do")
        self.conv1 = nn.Conv2d(in_channels, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 3)
        self.fc = nn.Linear(20 * side**2, classes)

    def forward(self, x: Float[Tensor, "batch in_channels height width"]) -> Float[Tensor, "batch classes"]:
        x = F.max_pool2d(self.conv1(x), 2).relu()
        x = F.max_pool2d(self.conv2(x), 2).relu()
        return self.fc(x.flatten(1))
