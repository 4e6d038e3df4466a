"""The studies behind the book: which arms are trained, with which seeds, recipe and learning rate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from gsa.results.ledger import Ledger
from gsa.results.statistics import MARGIN, power
from gsa.results.tables import points
from gsa.training import Config


@dataclass(frozen=True)
class Study:
    """A recipe, the arms that follow it, each with what it changes, and their seeds.

    With ``multipliers`` the learning rates of an arm are those of the recipe times one of them: the one whose single
    run, kept in a study of its own, ends with the highest accuracy on held-out training images. Those runs do not read
    the test images.
    """

    recipe: Config
    arms: Mapping[str, Mapping[str, object]]
    seeds: Sequence[int] = range(5)
    multipliers: Sequence[float] = ()
    question: str = ""
    """What the study is to answer, in one sentence; none where runs are kept for their weights or their recipe."""
    control: str = "none"
    """The arm that all others are compared with."""
    margin: float = MARGIN
    """A true difference that is smaller counts as none."""
    pooled: bool = True
    """Whether runs may be taken to spread alike in all arms; else they are compared by Welch's test."""
    primary: bool = False
    """Whether its verdicts are the answer, or exploration."""

    @property
    def name(self) -> str:
        return self.recipe.study

    def config(self, arm: str, seed: int, multiplier: float = 1.0) -> Config:
        """One run. ValueError if the study has no such arm."""
        if arm not in self.arms:
            raise ValueError(f"study {self.name} has no arm {arm!r}; it has {', '.join(self.arms)}")
        config = replace(self.recipe, **self.arms[arm], seed=seed)
        rates = {name: getattr(config, name) * multiplier for name in ("lr", "mechanism_lr")}
        return replace(config, **rates, named="" if config.arm == arm else arm)

    def choices(self, arm: str) -> dict[float, Config]:
        """The runs that choose the learning rates of an arm, by multiplier."""
        return {
            multiplier: replace(self.config(arm, 0, multiplier), study=study, test=False)
            for multiplier, study in self.choice_studies().items()
        }

    def choice_studies(self) -> dict[float, str]:
        """The studies that keep those runs, by multiplier."""
        return {multiplier: f"{self.name}-rate{multiplier:g}" for multiplier in self.multipliers}

    def multiplier(self, arm: str, ledger: Ledger) -> float:
        """The one that was best on held-out images. ValueError while one of its runs is missing."""
        if not self.multipliers:
            return 1.0
        choices = self.choices(arm)
        if missing := [config.study for config in choices.values() if not ledger.has(config)]:
            raise ValueError(f"no rate can be chosen for {arm} before its runs in {', '.join(missing)}")
        kept = {record.config: record for config in choices.values() for record in ledger.records(config.study)}
        return max(choices, key=lambda multiplier: kept[choices[multiplier]].holdout_accuracy_tta)

    def runs(self, ledger: Ledger, arms: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Config]:
        """All runs of the study, or of these arms and seeds: one seed of every arm after the other.

        Raises:
            ValueError: as :meth:`multiplier`.
        """
        multipliers = {arm: self.multiplier(arm, ledger) for arm in arms or self.arms}
        return [self.config(arm, seed, best) for seed in seeds or self.seeds for arm, best in multipliers.items()]

    def done(self, ledger: Ledger) -> dict[str, int]:
        """How many planned runs of each arm are kept: their whole recipe is the planned one, at some multiplier."""
        kept = {record.config for record in ledger.records(self.name)}
        return {
            arm: sum(any(self.config(arm, seed, m) in kept for m in self.multipliers or (1.0,)) for seed in self.seeds)
            for arm in self.arms
        }

    def table(self, ledger: Ledger) -> pd.DataFrame:
        """What its runs say, judged as planned. ValueError while there are none."""
        return ledger.table(self.name, self.control, margin=self.margin, pooled=self.pooled)

    def sentences(self, ledger: Ledger) -> list[str]:
        """What may be concluded of each planned arm by now, one sentence an arm."""
        recorded = self.name in ledger.studies()
        rows = self.table(ledger).to_dict("index") if recorded else {}
        return [self._sentence(arm, rows.get(arm)) for arm in self.arms if arm != self.control]

    def _sentence(self, arm: str, row: dict | None) -> str:
        if row is None:
            return f"{arm} − {self.control}: not run"
        if math.isnan(row["difference"]):
            return f"{arm} − {self.control}: {row['verdict']}"
        low, high = (f"{100 * row[end]:+.2f}" for end in ("difference_low", "difference_high"))
        interval = f"95 % {'corrected' if row['test'] else 'expected'} interval {low} to {high}"
        runs = f"{row['seeds']} of {len(self.seeds)} planned runs"
        return f"{arm} − {self.control}: {100 * row['difference']:+.2f} points ({interval}; {runs}): {row['verdict']}"


def carrying(*mechanisms: str) -> dict[str, dict[str, object]]:
    """Arms that differ in the mechanism alone, and are called after it."""
    return {mechanism: {"mechanism": mechanism} for mechanism in mechanisms}


def widened(*mechanisms: str) -> dict[str, dict[str, object]]:
    """Hosts without a mechanism, as wide as costs what they cost with one."""
    return {
        f"none-{cost}-of-{mechanism}": {"mechanism": mechanism, "match": cost}
        for mechanism in mechanisms
        for cost in ("parameters", "macs")
    }


RESIDUAL = Config(
    model="resnet20",
    stages=(2, 3),
    epochs=30,
    batch=128,
    optimizer="sgd",
    lr=0.2,
    head_lr=0.01,
    bias_lr=0.02,
    momentum=0.9,
    weight_decay=5e-4,
    mechanism_weight_decay=0.05,
    warmup=0.2,
    label_smoothing=0.1,
    crop=4,
    precision="bf16",
)
"""The recipe of residual hosts. Under SGD the rates of head and biases are those of the host; the others stand in their
records and decide nothing."""

SPEEDRUN = Config(
    model="whitened-published",
    batch=500,
    lr=0.24,
    head_lr=0.01,
    bias_lr=0.02,
    holdout=0.0,
    precision="bf16",
    study="speedrun",
)
"""The published network, at rates that were chosen for batches of 500."""

FAST = Config(precision="bf16")
"""The recipe of the fast host: the defaults of a configuration."""

RACE = Study(
    replace(FAST, holdout=0.0, study="race"),
    {
        f"{mechanism}-{goal}": {"mechanism": mechanism} | longer
        for goal, longer in (("90", {}), ("94", {"model": "whitened-published", "epochs": 16}))
        for mechanism in ("none", "gsa")
    },
    seeds=[0],
)
"""All training images, against the clock: to 90 and to 94 % of the test images, two votes for each."""

PRIMARY = Study(
    replace(FAST, study="primary"),
    carrying("none", "gsa", "host-conv", "gsa-uniform", "self") | {"none-longer": {"epochs": 4}},
    seeds=range(12),
    multipliers=(0.5, 1.0, 2.0),
    question="On CIFAR-10, in the fast host, does Global Sparse Attention as described change test accuracy?",
    primary=True,
)
"""``host-conv`` costs as many multiply-accumulates as ``gsa``; ``none-longer`` is trained for about as many seconds;
``gsa-uniform`` has neither queries nor keys."""

EXPLORATION = Study(
    replace(FAST, study="exploration"),
    carrying(
        *("none", "gsa", "window", "grid", "gsa-window-first", "gsa-shuffled", "gsa-projections", "gsa-fixed"),
        *("gsa-patch1", "gsa-patch2", "gsa-patch8", "gsa-1-heads", "gsa-2-heads", "gsa-placed", "gsa-nested"),
    )
    | {f"gsa-stage{stage}": {"mechanism": "gsa", "stages": (stage,)} for stage in (2, 3)}
    | {"gsa-stages-1-2-3": {"mechanism": "gsa", "stages": (1, 2, 3)}}
    | carrying("twins", "sasa", "lka", "se", "cbam", "sk", "non-local", "hashed", "gsa-folded")
    | widened("gsa"),
    question="Which part of the layer does what, and how do the other layers of the book compare?",
)

SMALL = Study(
    replace(FAST, width=32, epochs=8, study="small"),
    carrying("none", "gsa", "self", "se", "window"),
    seeds=[0],
)
"""A third of the width, so that the trained weights are small enough to come with the book."""

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        PRIMARY,
        EXPLORATION,
        RACE,
        replace(RACE, recipe=replace(RACE.recipe, study="race-gpu")),
        SMALL,
        Study(
            replace(RESIDUAL, model="source", stages=(0, 1, 2, 3, 4), epochs=10, study="sources"),
            carrying("none", "gsa-folded", "gsa"),
            seeds=range(3),
            question="What is the source's layer worth in its own network?",
        ),
        Study(replace(RESIDUAL, study="resnet20-cpu"), carrying("none", "gsa"), seeds=[0]),
        Study(
            replace(RESIDUAL, model="resnet10", width=32, stages=(2,), epochs=12, study="resnet10"),
            carrying("none", "gsa"),
            seeds=[0],
        ),
        Study(
            replace(RESIDUAL, model="resnet10", width=32, stages=(2,), epochs=20, study="resnet10-20epochs"),
            carrying("none", "gsa", "conv"),
            seeds=[0],
        ),
        Study(
            SPEEDRUN,
            {
                f"{mechanism}-{epochs}epochs": {"mechanism": mechanism, "epochs": epochs}
                for epochs in (3, 8)
                for mechanism in ("none", "gsa")
            },
            seeds=[1],
        ),
        Study(
            replace(SPEEDRUN, holdout=0.1, test=False, study="speedrun-held-out"),
            {f"{mechanism}-3epochs": {"mechanism": mechanism} for mechanism in ("none", "gsa")},
            seeds=[0],
        ),
    )
}
"""By name. Every number in results/ has its recipe here."""


def plan(ledger: Ledger, sigma: float) -> pd.DataFrame:
    """What was written down before the runs, as text: one row for each study that asks a question.

    "power" is that of Dunnett's test to find a difference as large as the margin, should runs spread by ``sigma``; none
    is given where the study expects its arms to spread by different σ.
    """
    rows = {}
    for name, study in STUDIES.items():
        if study.question:
            rivals = [arm for arm in study.arms if arm != study.control]
            rows[name] = {
                "question": study.question,
                "arms": ", ".join(rivals),
                "control": study.control,
                "seeds": str(len(study.seeds)),
                "rates tried": str(len(study.multipliers) or 1),
                "verdicts": "the answer" if study.primary else "exploration",
                "test": "Dunnett" if study.pooled else "Welch, Bonferroni",
                "margin": f"{100 * study.margin:g} points",
                "power": f"{power(study.margin, sigma, len(study.seeds), len(rivals)):.0%}" if study.pooled else "–",
                "runs": f"{sum(study.done(ledger).values())}/{len(study.arms) * len(study.seeds)}",
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("study")


def progress(ledger: Ledger) -> pd.DataFrame:
    """How many of the planned runs the ledger has: one row an arm, one column a study, as "done/planned"."""
    counts = {
        name: {arm: f"{done}/{len(study.seeds)}" for arm, done in study.done(ledger).items()}
        for name, study in STUDIES.items()
    }
    return pd.DataFrame(counts).fillna("").rename_axis("arm")


def judged(ledger: Ledger, name: str) -> pd.DataFrame:
    """What the runs of a study say: of a planned one as planned, of another beside its arm ``none``."""
    return STUDIES[name].table(ledger) if name in STUDIES else ledger.table(name)


def recorded(ledger: Ledger, *arms: str) -> dict[tuple[str, str], pd.DataFrame]:
    """Where these arms have read the test images: the judged tables by study and arm, controls aside."""
    read = [
        name for name in ledger.studies() if any(record.test_accuracy is not None for record in ledger.records(name))
    ]
    tables = {name: judged(ledger, name) for name in read}
    return {(name, arm): table for name, table in tables.items() for arm in table.index if arm in arms}


def evidence(ledger: Ledger, *arms: str) -> pd.DataFrame | None:
    """What is recorded of these arms and their control, as text: one row a study and arm.

    "runs" counts recorded runs, of a planned study as "done/planned"; the difference has an interval where there is a
    verdict. The runs that chose rates are left out. None where nothing is recorded: a page then shows nothing.
    """
    rows: dict[tuple[str, str], dict] = {}
    counts = progress(ledger).to_dict()
    for (name, arm), table in recorded(ledger, *arms).items():
        for either, row in table[(table["verdict"] == "control") | (table.index == arm)].iterrows():
            interval = (
                () if str(row["verdict"]).endswith("no verdict") else (row["difference_low"], row["difference_high"])
            )
            rows[name, either] = {
                "runs": counts.get(name, {}).get(either) or str(row["seeds"]),
                "test accuracy, %": points(row["accuracy"]),
                "difference": points(row["difference"], *interval, sign="+"),
                "verdict": row["verdict"],
            }
    if not rows:
        return None
    return pd.DataFrame([*rows.values()], pd.MultiIndex.from_tuples([*rows], names=["study", "arm"]))
