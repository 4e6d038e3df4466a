"""Training: one loop for every network and recipe; a :class:`Config` goes in, a :class:`Run` comes out."""

from gsa.training.config import Config
from gsa.training.loop import build, build_for, train
from gsa.training.optimizers import ascended, make_optimizers, schedule
from gsa.training.record import Epoch, Record, Run, TrainingError, to_json

__all__ = [
    "Config",
    "Epoch",
    "Record",
    "Run",
    "TrainingError",
    "ascended",
    "build",
    "build_for",
    "make_optimizers",
    "schedule",
    "to_json",
    "train",
]
