"""The networks of the book: hosts that carry any mechanism, and controls of the same size without it."""

from gsa.models.basic_cnn import BasicCNN
from gsa.models.gsa_resnet import GSAResNet
from gsa.models.registry import MODELS, RESNETS, build_model, matched_width, resnet8, resnet18, resnet20
from gsa.models.resnet import BasicBlock, MixingBlock, ResNet
from gsa.models.standalone import StandAloneBlock
from gsa.models.twins import Twins, twins_pcpvt, twins_svt
from gsa.models.whitened import WhitenedNet

__all__ = [
    "MODELS",
    "RESNETS",
    "BasicBlock",
    "BasicCNN",
    "GSAResNet",
    "MixingBlock",
    "ResNet",
    "StandAloneBlock",
    "Twins",
    "WhitenedNet",
    "build_model",
    "matched_width",
    "resnet8",
    "resnet18",
    "resnet20",
    "twins_pcpvt",
    "twins_svt",
]
