"""The Hardware page says what ``twin hardware`` and ``twin model`` say, with where each figure comes from."""

from __future__ import annotations

import csv
import io
import json

import pytest
from app_pages import Drawn, cli, opened, ran, shown

from twin.cost.roofline import peaks, roofline
from twin.cost.standard import priced
from twin.show.hardware_charts import kernel_errors
from twin.show.units import si
from twin.spec.hardware import load_profile, profile_names
from twin.spec.prices import PRICE_KINDS, load_price_book

PAIR = ["h100_sxm", "l4"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    return Drawn(monkeypatch)


def test_every_profile_of_the_command_is_in_the_table(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    table = opened("hardware").dataframe[0].value
    listed = cli(capsys, "hardware", "list")["profiles"]
    assert table["name"].tolist() == [item["name"] for item in listed]
    assert table["speed"].tolist() == [item["origin"] for item in listed]
    assert table["memory"].tolist() == [si(item["memory_bytes"], "B") for item in listed]


def test_a_comparison_is_that_of_the_command(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    app = opened("hardware", gpu=PAIR)
    said = cli(capsys, "hardware", "compare", *PAIR)
    assert json.loads(drawn.file("Comparison (JSON)")) == said
    assert app.code[0].value == "twin hardware compare h100_sxm l4"
    facts = app.dataframe[1].value
    cell = next(row for row in said["facts"] if row["fact"] == "mem_bw_bytes_per_s")["values"]["l4"]
    assert facts[facts[""] == "memory bandwidth"]["l4"].item() == si(cell["value"], "B/s")


def test_operations_are_drawn_with_their_intervals(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    opened("hardware", gpu=PAIR)
    said = cli(capsys, "hardware", "compare", *PAIR)["operations"]
    for series in drawn.charts["operations"].series:
        cells = {row["operation"]: cell for row in said if (cell := row["values"][series.name])}
        assert list(series.x) == list(cells)
        for place, cell in enumerate(cells.values()):
            assert series.y[place] == pytest.approx(cell["seconds"] * 1e6)
            assert series.low[place] == pytest.approx(cell["low90_s"] * 1e6)
            assert series.high[place] == pytest.approx(cell["high90_s"] * 1e6)
            assert series.outside[place] == (not cell["inside"])
    assert all(drawn.charts["operations"].series[1].outside), "everything of the l4 is assumed"


@pytest.mark.parametrize("name", profile_names())
def test_a_roof_is_never_above_the_datasheet(name: str) -> None:
    profile = load_profile(name)
    for precision, peak in peaks(profile).items():
        roof = roofline(profile, precision)
        assert roof is not None
        bandwidth = profile.facts.mem_bw_bytes_per_s.value
        assert roof["flops_per_s"][1:] == pytest.approx([peak, peak])
        assert roof["flops_per_s"][0] == pytest.approx(bandwidth * roof["intensity"][0])
        for point in roof["points"]:
            cost = priced(profile)[f"GEMM {precision} {point['tokens']}×8192×8192"]
            assert cost is not None
            assert point["flops_per_s"] * cost.seconds == pytest.approx(2.0 * point["tokens"] * 8192**2)
            assert point["flops_per_s_lo90"] <= point["flops_per_s"] <= point["flops_per_s_hi90"]


def test_a_precision_that_a_device_lacks_has_no_roof(drawn: Drawn) -> None:
    assert roofline(load_profile("a100_sxm"), "fp8") is None
    app = opened("hardware", gpu=["a100_sxm", "h100_sxm"])
    assert [series.name for series in drawn.charts["roofline"].series][::2] == ["a100_sxm", "h100_sxm"]
    app.get("button_group")[1].set_value("fp8")
    ran(app)
    assert {series.name.split(",")[0] for series in drawn.charts["roofline"].series} == {"h100_sxm"}


def test_kernel_errors_are_those_held_out(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    opened("hardware", gpu=PAIR)
    for series in drawn.charts["kernel_errors"].series:
        kernels = {item["kernel"]: item for item in cli(capsys, "hardware", "show", series.name)["kernels"]}
        assert series.x
        assert list(series.y) == [kernels[name]["held_out"]["serving"]["mape"] for name in series.x]
        assert list(series.outside) == [kernels[name]["origin"] == "assumed" for name in series.x]
    assert kernel_errors([], ["gemm bf16"]).empty


def test_prices_with_their_range_source_and_date(drawn: Drawn) -> None:
    app = opened("hardware", gpu="h100_sxm")
    book = load_price_book()
    (series,) = drawn.charts["prices"].series
    kinds = [kind for kind in PRICE_KINDS if kind in book.prices["h100_sxm"] or kind == "owned"]
    figures = [book.price("h100_sxm", kind) for kind in kinds]
    assert list(series.y) == [figure.value for figure in figures]
    assert list(series.low) == [figure.low for figure in figures]
    assert list(series.high) == [figure.high for figure in figures]
    table = app.dataframe[2].value
    assert table["source"].tolist() == [figure.source for figure in figures]
    assert table["date"].tolist() == [figure.date for figure in figures]


def test_every_figure_has_its_source(drawn: Drawn) -> None:
    table = opened("hardware", gpu="h200_sxm").dataframe[3].value
    facts = table[table["section"] == "fact"]
    assert len(facts) >= 8
    assert set(table["origin"].dropna()) <= {"measured", "fitted", "datasheet", "assumed"}
    assert facts["source"].str.len().min() > 0
    assert facts["date"].str.len().min() > 0


def test_the_csv_is_that_of_the_command(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    from twin.cli.main import main

    opened("hardware", gpu=PAIR)
    capsys.readouterr()
    main(["hardware", "compare", *PAIR, "--format", "csv"])
    said = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    ours = list(csv.DictReader(io.StringIO(drawn.file("Comparison (CSV)"))))
    assert [(row["figure"], row["profile"]) for row in ours] == [(row["figure"], row["profile"]) for row in said]
    assert [float(row["value"] or "nan") for row in ours] == pytest.approx(
        [float(row["value"] or "nan") for row in said], nan_ok=True
    )


def test_none_chosen_is_an_empty_state(drawn: Drawn) -> None:
    app = opened("hardware")
    app.multiselect[0].set_value([])
    ran(app)
    assert "No GPU is chosen" in app.info[0].value
    assert not drawn.files or len(app.dataframe) == 1


def test_what_fits_of_a_model_is_that_of_the_command(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    app = opened("hardware", view="What fits of a model", model="openai/gpt-oss-120b")
    said = cli(capsys, "model", "show", "openai/gpt-oss-120b")
    assert json.loads(drawn.file("Model (JSON)")) == said
    assert shown(app)["Weights"] == f"{said['weight_bytes'][said['format']] / 2**30:,.1f} GiB"
    assert shown(app)["KV cache"] == f"{said['kv_bytes_per_token']['auto'] / 2**10:,.0f} KiB"
    table = app.dataframe[0].value.set_index("GPU")
    for gpu in said["gpus"]:
        row = table.loc[gpu["gpu"] + ("*" if gpu["not_modelled"] else "")]
        for fit in gpu["fits"]:
            cell = row[f"TP{fit['tensor_parallel_size']}"]
            assert (cell in ("no room", "no split")) == (fit["why_not"] is not None)
            assert fit["why_not"] or f"({fit['max_concurrency_8k']:,.0f})" in cell


def test_other_weights_and_cache(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    opened("hardware", view="What fits of a model", quantization="fp8", kv_cache_dtype="fp8")
    said = cli(capsys, "model", "show", "Qwen/Qwen3-32B", "--quantization", "fp8", "--kv-cache-dtype", "fp8")
    assert json.loads(drawn.file("Model (JSON)")) == said
