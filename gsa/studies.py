"""The studies behind the book: which arms are trained, with which seeds, recipe and learning rate."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from gsa.layers import MECHANISMS
from gsa.ledger import Ledger
from gsa.training import Config, arm_options


@dataclass(frozen=True)
class Study:
    """A recipe, and the arms and seeds that follow it.

    The learning rates of an arm are those of the recipe times one of ``rates``: the one whose single run, kept in a
    study of its own, ends with the highest accuracy on held-out training images. The test images choose nothing.
    """

    recipe: Config
    arms: Sequence[str]
    seeds: Sequence[int] = range(5)
    rates: Sequence[float] = (0.5, 1.0, 2.0)

    @property
    def name(self) -> str:
        return self.recipe.study

    def config(self, arm: str, seed: int, rate: float) -> Config:
        """One run. ValueError if the study has no such arm."""
        if arm not in self.arms:
            raise ValueError(f"study {self.name} has no arm {arm!r}; it has {', '.join(self.arms)}")
        lr, mechanism_lr = self.recipe.lr * rate, self.recipe.mechanism_lr * rate
        return replace(self.recipe, **arm_options(arm), seed=seed, lr=lr, mechanism_lr=mechanism_lr)

    def grid(self, arm: str) -> dict[float, Config]:
        """The runs that choose the rate of an arm, by rate."""
        return {rate: replace(self.config(arm, 0, rate), study=study) for rate, study in self.grid_studies().items()}

    def grid_studies(self) -> dict[float, str]:
        """The studies that keep those runs, by rate."""
        return {rate: f"{self.name}-rate{rate:g}" for rate in self.rates}

    def rate(self, arm: str, ledger: Ledger) -> float:
        """The rate that was best on held-out images. ValueError while a run of the grid is missing."""
        if missing := [config.study for config in self.grid(arm).values() if not ledger.has(config)]:
            raise ValueError(f"no rate can be chosen for {arm} before its runs in {', '.join(missing)}")
        kept = {record.config: record for config in self.grid(arm).values() for record in ledger.records(config.study)}
        return max(self.rates, key=lambda rate: kept[self.grid(arm)[rate]].history[-1].holdout_accuracy)


def _study(arms: Sequence[str], **recipe) -> Study:
    return Study(Config(**recipe), tuple(arms))


WIDENED = ("none-parameters-of-gsa", "none-macs-of-gsa", "none-parameters-of-gsa-folded", "none-macs-of-gsa-folded")

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        _study((*MECHANISMS, *WIDENED), model="resnet20"),
        _study(("none", "se", "window", "gsa", "gsa-folded"), model="resnet18"),
        _study(("none", "gsa-folded", "gsa"), model="source", stages=(0, 1, 2, 3, 4), study="sources"),
    )
}
"""By name. ``resnet20`` has every mechanism of the registry and hosts without one, widened to the cost of GSA;
``resnet18`` a few in a larger host; ``sources`` the source's network with its layer out, as coded, as described."""


def progress(ledger: Ledger) -> pd.DataFrame:
    """How many of the planned runs the ledger has: one row an arm, one column a study, as "done/planned"."""
    done = {(record.config.study, record.config.arm, record.config.seed) for record in ledger.records()}
    counts = {
        name: {arm: f"{sum((name, arm, s) in done for s in study.seeds)}/{len(study.seeds)}" for arm in study.arms}
        for name, study in STUDIES.items()
    }
    return pd.DataFrame(counts).fillna("").rename_axis("arm")


def evidence(ledger: Ledger, *arms: str) -> pd.DataFrame:
    """What is recorded of these arms and what is only planned, as text: one row a study and arm, ``none`` first.

    "runs" counts recorded runs, of a planned study as "done/planned". The runs that chose rates are left out.
    Errors: ValueError for an arm that no study records or plans.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    planned_runs = progress(ledger).to_dict()
    grids = {name for study in STUDIES.values() for name in study.grid_studies().values()}
    for name in dict.fromkeys((*sorted({*ledger.studies()} - grids), *STUDIES)):
        planned = STUDIES[name].arms if name in STUDIES else ()
        recorded = ledger.display(name).T if name in ledger.studies() else {}
        found = [arm for arm in arms if arm in recorded or arm in planned]
        if found:
            counts = planned_runs.get(name, {})
            rows |= {(name, arm): _known(recorded.get(arm), counts.get(arm)) for arm in ("none", *found)}
    if unknown := set(arms) - {arm for _, arm in rows}:
        raise ValueError(f"no study records or plans {', '.join(sorted(unknown))}")
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["study", "arm"])


def _known(recorded: pd.Series | None, planned: str | None) -> dict[str, str]:
    """One arm of a study: what the ledger displays of it, or that it was not run."""
    shown = ["test accuracy, %", "− none", "verdict"]
    if recorded is None:
        return {"runs": planned or "0", **dict.fromkeys(shown, "–"), "verdict": "not run"}
    return {"runs": planned or str(recorded["seeds"])} | {name: str(recorded[name]) for name in shown}
