"""Pictures of how wrong the twin has been: the shipped figures, and an upload's predictions beside its measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from twin.show.chart import Axis, Chart, Rule, Series, Value
from twin.spec.accuracy import METRICS, Accuracy, Errors
from twin.trust.plot import Point
from twin.trust.table import Metric

SHOWN = METRICS[:2]
"""TPOT and TTFT, which a plan promises."""
SHARES = np.linspace(0.0, 1.0, 101)
"""Where the distribution of a request log is drawn: a mark for each hundredth, however many requests."""


def by_gpu(accuracy: Accuracy) -> Chart:
    """Mean absolute errors of the runs of each GPU."""
    found = _measured(accuracy)
    return Chart(
        "errors_by_gpu",
        "How wrong it was on measured runs",
        Axis("GPU, measured"),
        Axis("mean absolute error", share=True, low=0.0),
        _bars(found),
        note="Of each run's means, away from saturation. Hollow: host times were fitted on these very runs, which flatters the"
        " error. Filled: not used in any fit.",
        across=True,
    )


def coverage(accuracy: Accuracy) -> Chart:
    """How many measurements lay inside the predicted 90 % bounds."""
    found = {name: errors for name, errors in _measured(accuracy).items() if errors.inside_90}
    series = tuple(
        Series(
            metric.upper(),
            tuple(found),
            tuple((errors.inside_90 or {}).get(metric) for errors in found.values()),
            "bars",
            outside=tuple(errors.fitted for errors in found.values()),
        )
        for metric in SHOWN
    )
    return Chart(
        "coverage",
        "Do the 90 % bounds hold?",
        Axis("GPU, measured"),
        Axis("measurements inside the bounds", share=True, low=0.0, high=1.0),
        series,
        (Rule("y", 0.9, "90%"),),
        note="Share of the measurements: 90% would be right. Hollow: host times were fitted on these very runs.",
        across=True,
    )


def unseen(what: str, left_out: Mapping[str, Errors]) -> Chart:
    """Errors of fits that had not seen the GPU, or the layout (``what``), on the runs of each GPU."""
    said = "GPU" if what == "gpu" else "layout (tensor-parallel size)"
    return Chart(
        f"unseen_{what}",
        f"How wrong it was on {'a GPU' if what == 'gpu' else 'a layout'} that the fit had not seen",
        Axis("GPU"),
        Axis("mean absolute error", share=True, low=0.0),
        _bars({gpu.replace(", engines before vLLM", " before"): errors for gpu, errors in left_out.items()}),
        note=f"Host times fitted without the runs of the {said}, then compared with them. Before 0.16: runs of older vLLM.",
        across=True,
    )


def scatter(metric: Metric, points: Sequence[Point]) -> Chart:
    """Predicted against measured, run by run."""
    ends = [end for point in points for end in (point.measured, point.predicted)]
    diagonal = (min(ends) / 1.2, max(ends) * 1.2)
    series = [Series("as measured", diagonal, diagonal, baseline=True)]
    for gpu in dict.fromkeys(point.gpu for point in points):
        mine = [point for point in points if point.gpu == gpu]
        series.append(
            Series(
                gpu,
                tuple(point.measured for point in mine),
                tuple(point.predicted for point in mine),
                "points",
                tuple(point.low for point in mine),
                tuple(point.high for point in mine),
                tuple(point.saturated for point in mine),
            )
        )
    name = metric.name.upper() if metric.unit == "ms" else metric.name.replace("_", " ")
    return Chart(
        f"scatter_{metric.name}",
        f"{name}, predicted against measured",
        Axis(f"measured, {metric.unit}", log=True),
        Axis(f"predicted, {metric.unit}", log=True),
        tuple(series),
        note="Whiskers: 90 % bounds of the prediction. Hollow: saturated in the simulation.",
    )


def distributions(name: str, runs: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Chart:
    """Cumulative shares of the requests of each run, measured and predicted, in ms."""
    series = []
    for number, (run, (measured, predicted)) in enumerate(runs.items()):
        for said, values, baseline in (("measured", measured, True), ("predicted", predicted, False)):
            x: tuple[float, ...] = tuple(float(value) for value in np.quantile(values, SHARES) * 1e3)
            y: tuple[Value, ...] = tuple(float(share) for share in SHARES)
            series.append(Series(f"{run}, {said}", x, y, colour=number, baseline=baseline))
    return Chart(
        f"requests_{name}",
        f"{name.upper() if name != 'queue' else 'Queue'} of the requests",
        Axis("ms"),
        Axis("share of requests", share=True, low=0.0, high=1.0),
        tuple(series),
        note="Cumulative shares, by hundredths; dashed grey: measured.",
    )


def _measured(accuracy: Accuracy) -> dict[str, Errors]:
    return {f"{gpu}, {errors.n} {errors.kind}": errors for gpu, found in accuracy.gpus.items() for errors in found}


def _bars(found: Mapping[str, Errors]) -> tuple[Series, ...]:
    return tuple(
        Series(
            metric.upper(),
            tuple(found),
            tuple(getattr(errors, metric) for errors in found.values()),
            "bars",
            outside=tuple(errors.fitted for errors in found.values()),
            labels=tuple(f"{errors.n} {errors.kind}" for errors in found.values()),
        )
        for metric in SHOWN
    )
