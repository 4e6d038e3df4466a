"""The layers of the book, one file a chapter, and a registry of those that keep the shape of a map."""

from gsa.layers.attention import (
    NonLocal,
    SelfAttention,
    TemporalAttention,
    attend,
    frozen_weights,
    guidance_mask,
    record_weights,
)
from gsa.layers.controls import FixedAttention, Placed, ProjectedValues, ShuffledAttention, UniformAttention
from gsa.layers.convolution import DepthwiseSeparableConvolution, MatrixConvolution, unfold_convolution
from gsa.layers.cross import CrossAttention, DecoupledCrossAttention
from gsa.layers.gates import (
    CBAM,
    ChannelGate,
    LargeKernelAttention,
    SelectiveKernel,
    SpatialGate,
    SqueezeExcitation,
)
from gsa.layers.hashing import LSHAttention
from gsa.layers.partition import GLOBAL, Partition, folded_channels, grid, patches, window
from gsa.layers.registry import MECHANISMS, VARIANTS, build_mechanism
from gsa.layers.sampling import (
    DeformableConvolution,
    SpatialTransformer,
    bilinear_sample,
    deform_by_gathering,
    deform_by_sampling,
)
from gsa.layers.sparse import (
    FoldedGlobalSparseAttention,
    GlobalSparseAttention,
    cheapest_folded_patch,
    cheapest_patch,
)
from gsa.layers.standalone import AttentionStem, StandAloneSelfAttention
from gsa.layers.twins import GlobalSubsampledAttention, LocallyGroupedAttention, PositionEncodingGenerator

__all__ = [
    "CBAM",
    "GLOBAL",
    "MECHANISMS",
    "VARIANTS",
    "AttentionStem",
    "ChannelGate",
    "CrossAttention",
    "DecoupledCrossAttention",
    "DeformableConvolution",
    "DepthwiseSeparableConvolution",
    "FixedAttention",
    "FoldedGlobalSparseAttention",
    "GlobalSparseAttention",
    "GlobalSubsampledAttention",
    "LSHAttention",
    "LargeKernelAttention",
    "LocallyGroupedAttention",
    "MatrixConvolution",
    "NonLocal",
    "Partition",
    "Placed",
    "PositionEncodingGenerator",
    "ProjectedValues",
    "SelectiveKernel",
    "SelfAttention",
    "ShuffledAttention",
    "SpatialGate",
    "SpatialTransformer",
    "SqueezeExcitation",
    "StandAloneSelfAttention",
    "TemporalAttention",
    "UniformAttention",
    "attend",
    "bilinear_sample",
    "build_mechanism",
    "cheapest_folded_patch",
    "cheapest_patch",
    "deform_by_gathering",
    "deform_by_sampling",
    "folded_channels",
    "frozen_weights",
    "grid",
    "guidance_mask",
    "patches",
    "record_weights",
    "unfold_convolution",
    "window",
]
