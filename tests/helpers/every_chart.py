"""A chart of every kind, small, with all that a series can have."""

from __future__ import annotations

from twin.show.chart import Axis, Chart, Heat, Rule, Series

MS = Axis("p99 TTFT, ms", log=True)

LINE = Chart(
    "line",
    "Latency against load",
    Axis("requests per second"),
    MS,
    (
        Series(
            "p99",
            (1.0, 2.0, 4.0, 8.0),
            (50.0, 60.0, 100.0, 900.0),
            low=(40.0, 50.0, 80.0, 600.0),
            high=(60.0, 80.0, 150.0, 2000.0),
            outside=(False, False, False, True),
            labels=("", "", "", "overloaded"),
        ),
        Series("p50", (1.0, 2.0, 4.0, 8.0), (20.0, 30.0, None, 400.0)),
        Series("before", (1.0, 2.0, 4.0), (70.0, 90.0, 200.0), baseline=True),
    ),
    (Rule("y", 500.0, "promised"), Rule("x", 4.0, "planned")),
    note="Band: 90% interval.",
)
STEPS = Chart(
    "steps",
    "Share that holds",
    Axis("month"),
    Axis("held", share=True, low=0.0, high=1.02),
    (Series("held", (0, 1, 2, 3), (1.0, 0.8, 0.5, 0.1), "steps", low=(0.9, 0.7, 0.4, 0.0), high=(1.0, 0.9, 0.6, 0.2)),),
)
POINTS = Chart(
    "points",
    "Cost against latency",
    Axis("cost, USD a month", money=True),
    MS,
    (
        Series("front", (5000.0, 10000.0, 50000.0), (400.0, 150.0, 90.0), "points", keys=("a", "b", "c")),
        Series(
            "named",
            (6000.0, 40000.0),
            (300.0, 100.0),
            "points",
            low=(200.0, None),
            high=(900.0, None),
            outside=(True, False),
            keys=("d", "e"),
            labels=("cheapest", "best latency"),
        ),
    ),
)
BARS = Chart(
    "bars",
    "Errors",
    Axis("GPU"),
    Axis("error", share=True),
    (
        Series(
            "TTFT", ("l40s", "h100", "b200"), (0.1, 0.2, 0.3), "bars", low=(0.05, 0.1, None), high=(0.2, 0.4, None),
            outside=(False, False, True),
        ),
        Series("TPOT", ("l40s", "h100"), (0.03, 0.05), "bars"),
    ),
)  # fmt: skip
STACKED = Chart(
    "stacked",
    "What a month costs",
    Axis(""),
    Axis("USD a month", money=True, low=0.0),
    (
        Series("rent", ("on demand", "reserved"), (5000.0, 2000.0), "bars"),
        Series("depreciation", ("owned",), (1000.0,), "bars"),
        Series("interest", ("owned",), (500.0,), "bars"),
    ),
    across=True,
    stacked=True,
)
ACROSS = Chart(
    "across",
    "How it may turn out",
    Axis(""),
    Axis("share of what is promised", share=True, low=0.0),
    (
        Series("median", ("p99 TTFT", "p99 TPOT"), (0.4, 0.8), "points", low=(0.2, 0.5), high=(1.6, 1.3)),
        Series("as planned", ("p99 TTFT", "p99 TPOT"), (0.3, 0.7), "points"),
    ),
    (Rule("y", 1.0, "promised"),),
    across=True,
)
AREA = Chart(
    "area",
    "Tokens",
    Axis("hour"),
    Axis("tokens per second"),
    tuple(
        Series(name, (0.0, 1.0, 2.0), values, "area") for name, values in {"chat": (1, 2, 3), "code": (4, 4, 1)}.items()
    ),
)
HEAT = Chart(
    "heat",
    "Load by hour",
    Axis("hour"),
    Axis("day"),
    heat=Heat(("Mon", "Tue"), ("00", "01", "02"), ((1.0, 2.0, 3.0), (4.0, None, 6.0)), "requests per second"),
)
CHINESE = Chart(
    "chinese",
    "成本与延迟",
    Axis(""),
    Axis("每月成本", money=True),
    (Series("首个词元延迟", ("按需租用", "自有"), (30.0, 20.0), "bars"), Series("其他", ("自有",), (10.0,), "bars")),
    note="区间：90%。",
    across=True,
)
HOSTILE = Chart(
    "a/b+c d",
    "<script>alert(1)</script> & 0.123456",
    Axis("x <b>"),
    Axis("y & z"),
    (Series("<i>one</i>", (1.0,), (2.0,), "points", labels=("0.123456 {x}",)), Series("two", (1.0,), (3.0,), "points")),
    note='"quoted" <em>',
)
EVERY = (LINE, STEPS, POINTS, BARS, STACKED, ACROSS, AREA, HEAT, CHINESE, HOSTILE)
EMPTY = Chart("empty", "Nothing", Axis("x"), Axis("y"), across=True)
