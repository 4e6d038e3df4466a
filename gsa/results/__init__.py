"""What came out: the ledger of finished runs, what several of them say together, and the studies that are planned."""

from gsa.results.ledger import LEGEND, PUBLISHED, Ledger, speed
from gsa.results.runner import run_missing
from gsa.results.statistics import expected_sigma, points, seeds_to_see, t_interval, wilson
from gsa.results.studies import STUDIES, Study, evidence, plan, progress

__all__ = [
    "LEGEND",
    "PUBLISHED",
    "STUDIES",
    "Ledger",
    "Study",
    "evidence",
    "expected_sigma",
    "plan",
    "points",
    "progress",
    "run_missing",
    "seeds_to_see",
    "speed",
    "t_interval",
    "wilson",
]
