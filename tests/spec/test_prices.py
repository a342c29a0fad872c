"""The price book: derived by program, complete about what it lacks, and replaceable."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

import pytest

from calibrate.prices import dump, main, price_book, read_table
from twin.base import InputError, data_dir
from twin.spec.hardware import profile_names
from twin.spec.prices import load_price_book


def test_shipped_book_is_what_the_program_makes(shared: Path) -> None:
    made = dump(price_book(read_table(shared / "prices" / "gpu_prices.csv")))
    assert made == (data_dir("hwprofiles") / "prices.yaml").read_text(encoding="utf-8")


def test_on_demand_is_the_median_over_providers(shared: Path) -> None:
    with (shared / "prices" / "gpu_prices.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["gpu"] == "H100" and row["kind"] == "on_demand"]
    snapshot = [float(row["usd_per_gpu_hour_median"]) for row in rows if row["date"] == "2026-06-01"]
    price = load_price_book().price("h100_sxm", "on_demand")
    assert price.value == pytest.approx(statistics.median(snapshot))
    assert (price.n, price.origin, price.date) == (len(snapshot), "datasheet", "2026-06-01")


def test_every_price_of_a_gpu_has_a_source_and_spot_is_cheaper() -> None:
    """The snapshot lacks A30 and GeForce cards, and for some GPUs one kind: what is not there is not made up."""
    book = load_price_book()
    assert set(book.prices) <= set(profile_names())
    assert set(profile_names()) - set(book.prices) >= {"a30", "rtx4090"}
    for gpu, kinds in book.prices.items():
        for kind in kinds:
            price = book.price(gpu, kind)
            assert price.value > 0
            assert price.source
            assert price.date
        if {"on_demand", "spot"} <= set(kinds):
            assert book.price(gpu, "spot").value < book.price(gpu, "on_demand").value, gpu


def test_the_spread_is_over_providers(shared: Path) -> None:
    with (shared / "prices" / "gpu_prices.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["gpu"] == "L40S" and row["kind"] == "spot"]
    values = [float(row["usd_per_gpu_hour_median"]) for row in rows if row["date"] == "2026-06-01"]
    price = load_price_book().price("l40s", "spot")
    assert (price.low, price.high) == (min(values), max(values))
    assert load_price_book().price("gb200", "on_demand").low is None  # one provider


def test_a_region_has_its_own_prices_and_no_others() -> None:
    book = load_price_book()
    assert book.price("h100_sxm", "on_demand", "aws/us-east-1").value == 6.88
    with pytest.raises(InputError, match=r"unknown region 'aws/us-east-2'; did you mean 'aws/us-east-1'"):
        book.price("h100_sxm", "on_demand", "aws/us-east-2")
    with pytest.raises(InputError, match=r"no reserved price of h100_sxm in aws/us-east-1.*on_demand, spot"):
        book.price("h100_sxm", "reserved", "aws/us-east-1")
    assert book.price("h100_sxm", "owned", "aws/us-east-1") == book.price("h100_sxm", "owned")


def test_estimates_say_so() -> None:
    for kind in ("reserved", "owned"):
        assert load_price_book().price("h200_sxm", kind).origin == "assumed"  # type: ignore[arg-type]


def test_a_missing_price_says_which_and_what_there_is() -> None:
    with pytest.raises(InputError, match=r"no owned price of l40s.*on_demand, spot") as caught:
        load_price_book().price("l40s", "owned")
    assert caught.value.where == "prices.yaml"
    with pytest.raises(InputError, match="no spot price of tpu"):
        load_price_book().price("tpu", "spot")
    with pytest.raises(InputError, match="unknown price kind"):
        load_price_book().price("l40s", "on_demnd")  # type: ignore[arg-type]


def test_a_users_book_replaces_the_shipped_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("prices:\n  l40s: {owned: 0.6, on_demand: {usd_per_gpu_hour: 1, source: quote, date: 2026-11}}\n")
    book = load_price_book(file)
    owned = book.price("l40s", "owned")
    assert (owned.value, owned.origin, owned.source) == (0.6, "assumed", "the user's price book")
    assert book.price("l40s", "on_demand").source == "quote"
    assert (book.assets, book.ownership, book.items, book.regions) == ({}, None, {}, {})
    with pytest.raises(InputError, match=r"mine\.yaml: no on_demand price of h100_sxm"):
        book.price("h100_sxm", "on_demand")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prices:\n  l40s:\n    on_demand: -1\n", r"b\.yaml:3: .*greater than 0"),
        ("prices:\n  l40s:\n    on_demnd: 1\n", r"b\.yaml:3: "),
        ("prices:\n  l40s:\n    spot: {usd: 1}\n", r"b\.yaml:3: .*usd"),
        ("prices:\n  l40s: cheap\n", r"b\.yaml:2: "),
        ("price:\n  l40s: {spot: 1}\n", r"b\.yaml:1: unknown key 'price'; did you mean 'prices'"),
        ("prices:\n  l40s:\n    spot: {usd_per_gpu_hour: 1, low: 2}\n", r"b\.yaml:3: .*1 lies outside its own spread"),
        ("prices: {}\nregions:\n  eu:\n    l40s: {spot: 0}\n", r"b\.yaml:4: .*greater than 0"),
        ("prices: {}\nitems:\n  egress: -1\n", r"b\.yaml:\d: .*egress: -1 USD a month"),
        ("prices: [1\n", r"b\.yaml:\d: not valid YAML"),
    ],
)
def test_a_bad_book_says_where(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        load_price_book(tmp_path / "b.yaml")


def test_the_program_refuses_another_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("gpu,kind\nH100,spot\n")
    assert main([str(tmp_path / "t.csv")]) == 2
    assert "t.csv: the price table lacks" in capsys.readouterr().err
    assert main([str(tmp_path / "none.csv")]) == 2
    assert main([]) == 2
