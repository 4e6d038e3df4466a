"""What came out: the ledger of finished runs, what several of them say together, and the studies that are planned."""

from gsa.results.ledger import PUBLISHED, Ledger, speed
from gsa.results.runner import run_missing
from gsa.results.statistics import (
    Comparison,
    Luck,
    SeedCorrelation,
    compare,
    dunnett_reach,
    expected_sigma,
    luck,
    power,
    seed_correlation,
    seeds_to_see,
    t_interval,
    wilson,
)
from gsa.results.studies import STUDIES, Study, evidence, judged, plan, progress, recorded
from gsa.results.tables import LEGEND, display

__all__ = [
    "LEGEND",
    "PUBLISHED",
    "STUDIES",
    "Comparison",
    "Ledger",
    "Luck",
    "SeedCorrelation",
    "Study",
    "compare",
    "display",
    "dunnett_reach",
    "evidence",
    "expected_sigma",
    "judged",
    "luck",
    "plan",
    "power",
    "progress",
    "recorded",
    "run_missing",
    "seed_correlation",
    "seeds_to_see",
    "speed",
    "t_interval",
    "wilson",
]
