"""Figures that answer to the hand: one source for Jupyter, Colab and the site, with numbers from the package."""

from gsa.playable.base import Playable
from gsa.playable.bilinear_read import BilinearRead
from gsa.playable.flow import Flow
from gsa.playable.hop_map import HopMap
from gsa.playable.hop_weights import HopWeights
from gsa.playable.influence import Influence
from gsa.playable.matrix_behind import MatrixBehind
from gsa.playable.near_and_far import NearAndFar
from gsa.playable.occluder import Occluder
from gsa.playable.painted_gate import PaintedGate
from gsa.playable.profiles import Profiles
from gsa.playable.rank_one import RankOne
from gsa.playable.sampling_grid import SamplingGrid
from gsa.playable.seed_lottery import SeedLottery
from gsa.playable.table import Table
from gsa.playable.views import Views

__all__ = [
    "BilinearRead",
    "Flow",
    "HopMap",
    "HopWeights",
    "Influence",
    "MatrixBehind",
    "NearAndFar",
    "Occluder",
    "PaintedGate",
    "Playable",
    "Profiles",
    "RankOne",
    "SamplingGrid",
    "SeedLottery",
    "Table",
    "Views",
]
