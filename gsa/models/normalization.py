"""Batch normalisation whose statistics span all processes, so that several train as one does, on any device."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over the union of the processes' batches, which must be of equal size.

    Differs:
        From ``nn.SyncBatchNorm`` in that it also runs on the CPU.
    """

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        if not self.training:
            return super().forward(x)
        moments = torch.stack((x.float().mean((0, 2, 3)), x.float().square().mean((0, 2, 3))))
        mean, square = _Sum.apply(moments) / dist.get_world_size()
        variance = square - mean.square()
        count = x.numel() // x.shape[1] * dist.get_world_size()
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


def synchronize_batch_norm(module: nn.Module) -> nn.Module:
    """Turn every BatchNorm2d of ``module``, in place, into its synchronised form; parameters and names stay."""
    for layer in module.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = SynchronizedBatchNorm2d
    return module
