"""What a module costs and does, measured on the module itself."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gsa.layers.attention import record_weights


def count_parameters(module: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward pass on an input of ``shape``, counted, not computed: nothing is allocated.

    Counts matrix products and convolutions; norms, activations and softmax are left out, as is customary.
    """
    module = copy.deepcopy(module).to("meta").eval()
    with torch.no_grad(), record_weights(), FlopCounterMode(display=False) as counter:
        module(torch.empty(shape, device="meta"))
    return counter.get_total_flops() // 2
