"""Tables of a study's runs: in numbers, to compute and draw with, and as text for readers."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from gsa.results.statistics import MARGIN, Comparison, compare, expected_sigma, seeds_to_see, t_interval
from gsa.training import Record

LEGEND = """\
±                 95 % interval. Of several seeds: the t-interval of the mean accuracy on these test images. Of one seed
                  ("expected"): ± 1.96 expected σ. That assumes that seeds spread as the formula √(error/2N) says for N
                  test images. It was not measured, so no verdict rests on it.
TTA               Test accuracy with test-time augmentation: an image and its mirror image vote together.
σ                 Standard deviation of the accuracy between seeds, measured, and as the formula expects it.
seeds for margin  Seeds per arm at which Dunnett's test (5 %) of all arms in the table finds a difference as large as
                  the margin with 80 % power, at the σ measured over all arms, or where these have few seeds at the
                  expected one.
− control         Difference of the mean accuracies in points, with a corrected interval: with 95 % confidence the
                  intervals of all arms hold together.
verdict           What that interval allows to say. better, worse: it lies on one side of zero. equal within the margin:
                  zero is inside, and all of it lies within the margin. not known: neither.
type M            How many times too large a true difference of the size of the margin looks, on average, when such a
                  test finds it.
PFLOP             10¹⁵ floating-point operations of the network in all steps of training, forward and backward.
seconds           Mean time of training; none where the runs of an arm had different devices or numbers of threads."""

ENOUGH = 10
"""With fewer degrees of freedom a measured σ is off by a quarter and more, and the expected one plans better."""


def summarize(
    arms: Mapping[str, Sequence[Record]], control: str, *, margin: float = MARGIN, pooled: bool = True
) -> pd.DataFrame:
    """One row an arm, control first: accuracies are fractions, what the runs do not say is NaN.

    low, high: t-interval of the mean, or of one run the one expected by its assumption (see LEGEND); difference: to
    the control, with the interval and verdict of :func:`gsa.results.statistics.compare`, or without a verdict the
    expected one.
    """
    compared = compare(
        {arm: {run.config.seed: run.test_accuracy for run in runs} for arm, runs in arms.items()},
        control,
        margin=margin,
        pooled=pooled,
    )
    rivals = max(1, len(arms) - (control in arms))
    table = pd.DataFrame([_summary(runs) for runs in arms.values()], index=pd.Index(arms, name="arm"))
    freedom = table["seeds"] - 1
    pooled_sigma = math.sqrt((freedom * table["sigma"].fillna(0.0) ** 2).sum() / max(1, freedom.sum()))
    known = int(freedom.sum()) >= ENOUGH
    sigmas = [pooled_sigma] * len(table) if known else table["expected_sigma"]
    table.insert(7, "seeds_for_margin", [seeds_to_see(margin, sigma, rivals) for sigma in sigmas])
    beside = [_beside(arm, control, table, compared.get(arm)) for arm in arms]
    table = table.join(pd.DataFrame(beside, index=table.index)).sort_values("accuracy", ascending=False)
    return table.sort_index(key=lambda arms: arms != control, kind="stable")


def _summary(runs: Sequence[Record]) -> dict:
    """What one arm's runs say by themselves."""
    accuracies, places = [run.test_accuracy for run in runs], sorted({_place(run) for run in runs})
    mean, low, high = t_interval(accuracies)
    expected = expected_sigma(mean, runs[0].test_images)
    if len(runs) == 1:
        low, high = mean - 1.96 * expected, mean + 1.96 * expected
    seconds = t_interval([run.seconds for run in runs] if len(places) == 1 else [])
    return {
        "seeds": len(runs),
        "accuracy": mean,
        "low": low,
        "high": high,
        "accuracy_tta": float(np.mean([run.test_accuracy_tta for run in runs])),
        "sigma": float(np.std(accuracies, ddof=1)) if len(runs) > 1 and not math.isnan(low) else math.nan,
        "expected_sigma": expected,
        "epochs": runs[0].config.epochs,
        "parameters": runs[0].parameters,
        "macs": runs[0].macs,
        "flops": runs[0].flops,
        **dict(zip(("seconds", "seconds_low", "seconds_high"), seconds, strict=True)),
        "peak_memory": max((run.peak_memory for run in runs if run.peak_memory is not None), default=math.nan),
        "device": "; ".join(places),
    }


def _place(run: Record) -> str:
    """Where a run was timed: seconds of different places are not of one kind."""
    threads = f"{run.threads} thread" + "s" * (run.threads > 1)
    return f"{run.device}, {threads}" + (f", {run.processes} processes" if run.processes > 1 else "")


def _beside(arm: str, control: str, table: pd.DataFrame, compared: Comparison | None) -> dict:
    """What one arm's runs say beside the control's."""
    row = {"difference": math.nan, "difference_low": math.nan, "difference_high": math.nan, "exaggeration": math.nan}
    if arm == control:
        return row | {"test": "", "verdict": "control"}
    if control not in table.index:
        return row | {"test": "", "verdict": "no control: no verdict"}
    if compared:
        numbers = compared.difference, compared.low, compared.high, compared.luck.exaggeration
        return dict(zip(row, numbers, strict=True)) | {"test": compared.test, "verdict": compared.verdict}
    pair = table.loc[[arm, control]]
    difference = pair["accuracy"].iloc[0] - pair["accuracy"].iloc[1]
    half = 1.96 * math.sqrt((pair["expected_sigma"] ** 2 / pair["seeds"]).sum())
    single = (pair["seeds"] == 1).any()
    row |= {"difference": difference, "difference_low": difference - half, "difference_high": difference + half}
    return row | {"test": "", "verdict": "one seed: no verdict" if single else "no spread: no verdict"}


def display(table: pd.DataFrame) -> pd.DataFrame:
    """A table as text for readers, in percent and points: what its columns say stands in LEGEND."""
    control = next(iter(table.index[table["verdict"] == "control"]), "control")
    return pd.DataFrame([_cells(row, control) for row in table.to_dict("records")], table.index)


def _cells(row: dict, control: str) -> dict[str, str]:
    expected = "expected " * (row["seeds"] == 1)
    no_verdict = "expected " * row["verdict"].endswith("no verdict")
    return {
        "seeds": str(row["seeds"]),
        "test accuracy, %": points(row["accuracy"], row["low"], row["high"], kind=expected),
        "TTA": points(row["accuracy_tta"]),
        "σ": points(row["sigma"]),
        "expected σ": points(row["expected_sigma"]),
        "seeds for margin": _number(row["seeds_for_margin"]),
        f"− {control}": points(
            row["difference"], row["difference_low"], row["difference_high"], sign="+", kind=no_verdict
        ),
        "verdict": row["verdict"],
        "type M": _number(row["exaggeration"], 1),
        "epochs": str(row["epochs"]),
        "parameters": f"{row['parameters']:,}",
        "MACs": f"{row['macs'] / 1e6:,.1f} M",
        "PFLOP": f"{row['flops'] / 1e15:.3f}",
        "seconds": _number(row["seconds"]),
        "GPU memory": "–" if math.isnan(row["peak_memory"]) else f"{row['peak_memory'] / 1e9:.2f} GB",
        "device": row["device"],
    }


def points(value: float, low: float = math.nan, high: float = math.nan, sign: str = "", kind: str = "") -> str:
    """A share in percent, with half the width of its interval, and its ``kind``, where there is one."""
    if math.isnan(value):
        return "–"
    half = "" if math.isnan(low) else f"± {50 * (high - low):.2f}"
    return f"{100 * value:{sign}.2f}" + (f" ({kind}{half})" if half and kind else f" {half}" if half else "")


def _number(value: float, digits: int = 0) -> str:
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"
