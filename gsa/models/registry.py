"""The networks of the book: hosts that carry any mechanism, and controls of the same size without it."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from gsa.models.gsa_resnet import GSAResNet
from gsa.models.resnet import ResNet
from gsa.models.standalone import StandAloneBlock
from gsa.models.whitened import WhitenedNet

RESNETS: dict[str, partial[ResNet]] = {
    **{f"resnet{6 * n + 2}": partial(ResNet, blocks=(n, n, n), width=16, stages=(2, 3)) for n in (1, 2, 3)},
    "resnet10": partial(ResNet, blocks=(1, 1, 1, 1), width=64, stages=(2, 3)),
    "resnet18": partial(ResNet, blocks=(2, 2, 2, 2), width=64, stages=(2, 3)),
}
"""Convolutional hosts: the CIFAR ResNets of depth 6n + 2 (arXiv:1512.03385, section 4.2; shortcuts with 1×1
convolutions) and ResNet-10 and -18 with a 3×3 stem."""

MODELS: dict[str, partial[ResNet] | partial[GSAResNet] | partial[WhitenedNet]] = {
    "whitened": partial(WhitenedNet, width=64),
    "whitened-published": partial(WhitenedNet, width=64, growth=(1, 4, 4), padded=False),
    **RESNETS,
    **{f"sasa-{name}": partial(net, block=StandAloneBlock) for name, net in RESNETS.items()},
    **{f"sasa-{name}-stem": partial(net, block=StandAloneBlock, stem_window=4) for name, net in RESNETS.items()},
    "source": partial(GSAResNet, width=64),
}
"""Constructors by name: the fast host, and with the widths and the maps of its model
(:class:`~gsa.models.whitened.WhitenedNet`); :data:`~gsa.models.RESNETS`; those with stand-alone attention in the place
of every 3×3 convolution but the stem, as ``sasa-resnet20``; and those with an attention stem too, as
``sasa-resnet20-stem``, which leaves the first stage a quarter of the side of the image. ``source`` is the network whose
90 % the book is about, and stands by itself: see :class:`~gsa.models.gsa_resnet.GSAResNet`."""

resnet8, resnet20, resnet18 = MODELS["resnet8"], MODELS["resnet20"], MODELS["resnet18"]


def build_model(name: str, width: int | None = None, **options) -> nn.Module:
    """The network ``name`` with the options of its constructor; ``width`` None is its own.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; there are {', '.join(MODELS)}")
    return MODELS[name](**options) if width is None else MODELS[name](width=width, **options)


def matched_width(
    name: str,
    width: int | None,
    mechanism: str,
    stages: Sequence[int],
    cost: Callable[[nn.Module], float],
    **options,
) -> int:
    """The width at which the host without the mechanism costs most nearly what it costs at ``width`` with it."""

    def build(**extra) -> nn.Module:
        with torch.device("meta"):
            return build_model(name, **options, **extra)

    narrowest: int = width or MODELS[name].keywords["width"]
    width = narrowest
    target = cost(build(width=width, mechanism=mechanism, stages=stages))
    while cost(build(width=width)) < target:
        width += 1
    return min((width, max(width - 1, narrowest)), key=lambda w: abs(cost(build(width=w)) - target))
