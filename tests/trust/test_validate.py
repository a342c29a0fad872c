"""``twin validate``: blind, complete, in order, and as accurate on the development table as the README says."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from twin.base import InputError
from twin.cli.main import main
from twin.spec.hardware import load_profile
from twin.spec.model import load_model
from twin.trust import table as t
from twin.trust import validate as v
from twin.trust.closed_loop import BenchmarkRun, draw_lengths, engine_config, modelled_version, predict

HEAD = "system,model,precision,isl,osl,concurrency,tp_size,mean_ttft_ms,mean_tpot_ms\n"
ROWS = [
    "h100_sxm,meta-llama/Llama-3.1-70B,fp8,512,64,4,4,100,10\n",
    "h200_sxm,meta-llama/Llama-3.1-8B,bf16,512,64,8,1,50,7\n",
    "h100_sxm,someone/mixture-9b,fp4,512,64,4,4,100,10\n",
    "a100_sxm,meta-llama/Llama-3.1-8B,fp8,512,64,4,1,100,10\n",
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "runs.csv"
    path.write_text(HEAD + "".join(ROWS))
    return path


def test_rows_order_and_columns_are_kept_and_every_row_has_a_figure_or_a_reason(table: Path) -> None:
    columns, rows = t.read_table(table)
    out = list(csv.DictReader(io.StringIO(t.as_csv(columns, rows, v.predict_rows(rows)))))
    assert [row["model"] for row in out] == [row["model"] for row in rows]
    assert list(out[0])[: len(columns)] == columns
    for row in out:
        assert bool(row["predicted_mean_tpot_ms"]) != bool(row["reason"])
    assert "mixture-9b" in out[2]["reason"]
    assert "fp8" in out[3]["reason"]
    low, middle, high = (float(out[0][f"predicted_mean_ttft_ms{s}"]) for s in ("_lo90", "", "_hi90"))
    assert low < middle < high


def test_predictions_do_not_depend_on_measured_columns(table: Path, tmp_path: Path) -> None:
    def predicted(path: Path) -> list[t.Row]:
        return v.predict_rows(t.read_table(path)[1])

    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(line.rsplit(",", 2)[0] for line in (HEAD + "".join(ROWS)).splitlines()) + "\n")
    shuffled = tmp_path / "shuffled.csv"
    shuffled.write_text(HEAD + "".join(row.replace(",100,10", ",7,9000") for row in ROWS))
    assert predicted(table) == predicted(bare) == predicted(shuffled)
    assert v.compare(t.read_table(bare)[1], predicted(bare)) == []


def test_predictions_are_written_before_the_threshold_is_held_against_them(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "pred.csv"
    assert main(["validate", str(table), "--out", str(out), "--max-tpot-mape", "0.1%", "--quiet"]) == 4
    assert out.read_text().startswith("system,model")
    assert main(["validate", str(table), "--max-tpot-mape", "900%", "--quiet"]) == 0


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("system,model\nh100_sxm,x\n")
    with pytest.raises(InputError, match="'precision' is missing"):
        t.read_table(path)


def test_lengths_are_the_clients_draws() -> None:
    run = BenchmarkRun(system="h100_sxm", model="x", precision="fp8", isl=1000, osl=100, concurrency=50, tp_size=1)
    inputs, outputs = draw_lengths(run)
    assert len(inputs) == len(outputs) == 500
    assert inputs.min() >= 800
    assert inputs.max() <= 1000
    assert outputs.min() >= 80
    assert 880 < inputs.mean() < 920


@pytest.mark.parametrize("field", ["isl", "osl", "concurrency"])
def test_more_work_never_gives_faster_tokens(field: str) -> None:
    base = {"isl": 1000, "osl": 200, "concurrency": 8}
    run = BenchmarkRun(system="h100_sxm", model="meta-llama/Llama-3.1-8B", precision="bf16", tp_size=1, **base)
    more = run.model_copy(update={field: base[field] * 4})
    assert predict(more).e2el_s > predict(run).e2el_s


def test_accuracy_on_the_development_table(shared: Path) -> None:
    _, rows = t.read_table(shared / "groundtruth" / "inferencex_vllm_dev.csv")
    rows = [row for row in rows if "Llama" in row["model"]]
    overall = next(
        row for row in v.compare(rows, v.predict_rows(rows)) if row["system"] == "all" and not row["saturated"]
    )
    assert overall["rows"] == 107
    assert float(str(overall["tpot_mape"])) <= 0.03
    assert float(str(overall["ttft_mape"])) <= 0.07
    assert float(str(overall["e2el_mape"])) <= 0.03
    assert 0.80 <= float(str(overall["tpot_inside_90"])) <= 1.0


@pytest.mark.parametrize(("model", "rows", "tpot", "ttft"), [("gpt-oss", 45, 0.09, 0.15), ("MiniMax", 51, 0.11, 0.15)])
def test_mixtures_on_the_development_table(shared: Path, model: str, rows: int, tpot: float, ttft: float) -> None:
    _, table = t.read_table(shared / "groundtruth" / "inferencex_vllm_dev.csv")
    table = [row for row in table if model in row["model"]]
    overall = next(row for row in v.compare(table, v.predict_rows(table)) if row["system"] == "all")
    assert overall["rows"] == rows
    assert float(str(overall["tpot_mape"])) <= tpot
    assert float(str(overall["ttft_mape"])) <= ttft
    assert 0.80 <= float(str(overall["tpot_inside_90"])) <= 1.0


def rewritten(path: Path, change: Callable[[t.Row, t.Row], dict[str, str]]) -> Path:
    """The table with what ``change`` makes of each row and its prediction."""
    columns, rows = t.read_table(path)
    new = [{**row, **change(row, guess)} for row, guess in zip(rows, v.predict_rows(rows), strict=True)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, *(name for name in new[0] if name not in columns)])
        writer.writeheader()
        writer.writerows(new)
    return path


def predicted_over(factor: float, *columns: str) -> Callable[[t.Row, t.Row], dict[str, str]]:
    return lambda _, guess: {
        name: f"{float(guess[f'predicted_{name}']) / factor:.9g}" if guess[f"predicted_{name}"] else ""
        for name in columns
    }


def test_what_is_predicted_ten_per_cent_high_is_ten_per_cent_off(table: Path) -> None:
    columns = [metric.column for metric in t.METRICS]
    _, rows = t.read_table(rewritten(table, predicted_over(1.1, *columns)))
    overall = v.compare(rows, v.predict_rows(rows))[-1]
    assert (overall["system"], overall["rows"]) == ("all", 2)
    for metric in t.METRICS:
        for name in ("mape", "median", "p90", "bias"):
            assert overall[f"{metric.name}_{name}"] == pytest.approx(0.1, rel=1e-4)


def test_e2el_that_is_not_there_follows_from_the_lengths_that_the_client_drew(table: Path) -> None:
    _, rows = t.read_table(table)
    predictions = v.predict_rows(rows)
    found = t.measured_values(rows, predictions)
    mean_output = draw_lengths(t.run_of(rows[0]))[1].mean()
    assert found[0]["e2el"] == pytest.approx(100 + 10 * (mean_output - 1))
    assert "e2el" not in found[2]  # a row that cannot be predicted
    own = rewritten(table, lambda *_: {"mean_e2el_ms": "777"})
    _, rows = t.read_table(own)
    assert t.measured_values(rows, predictions)[0]["e2el"] == 777


def test_the_groups_hold_every_row_once(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(table), "--by", "layout", "--format", "json"]) == 0
    payload = json.loads(capsys.readouterr().out)
    assert set(payload["errors_by"]) == {"gpu", "model", "layout", "concurrency"}
    assert payload["e2el"] == "derived"
    for name, rows in payload["errors_by"].items():
        key = v.GROUPS[name][0]
        assert sum(row["rows"] for row in rows if row[key] != "all") == payload["predicted"] == 2
    assert [row["tp_size"] for row in payload["errors_by"]["layout"]] == ["1", "4", "all"]
    assert [row["concurrency"] for row in payload["errors_by"]["concurrency"]] == ["4", "8", "all"]


@pytest.mark.parametrize(("column", "factor", "unit"), [
    ("mean_tpot_ms", 1e3, "seconds"), ("mean_ttft_ms", 1e3, "seconds"), ("mean_ttft_ms", 1e-3, "microseconds"),
])  # fmt: skip
def test_another_unit_is_refused_once_the_predictions_are_written(
    table: Path, column: str, factor: float, unit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rewritten(table, predicted_over(factor, column))
    out = table.with_name("pred.csv")
    assert main(["validate", str(table), "--out", str(out), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert f"runs.csv:2: {column} " in said
    assert "cannot be milliseconds: " in said
    assert f"{unit}?" in said
    assert len(list(csv.DictReader(out.open()))) == len(ROWS)


def test_a_bad_prediction_is_not_taken_for_another_unit(table: Path) -> None:
    """Three times too high or too low is an error of the twin; and one odd row is no reason to doubt the column."""
    for factor in (3.0, 1 / 3):
        _, rows = t.read_table(rewritten(table, predicted_over(factor, "mean_tpot_ms", "mean_ttft_ms")))
        assert v.compare(rows, v.predict_rows(rows))
    one = table.with_name("one.csv")
    one.write_text(HEAD + ROWS[0] * 3 + ROWS[0].replace(",10\n", ",0.01\n"))
    _, rows = t.read_table(one)
    assert v.compare(rows, v.predict_rows(rows))[-1]["rows"] == 4


@pytest.mark.parametrize("value", ["nan", "-3", "0", "fast", "inf"])
def test_a_measured_value_that_is_none_is_named_with_its_line(table: Path, value: str) -> None:
    table.write_text(HEAD + ROWS[0] + "\n" + ROWS[1].replace(",50,7", f",50,{value}"))
    out = table.with_name("pred.csv")
    _, rows = t.read_table(table)
    with pytest.raises(InputError, match=rf"runs\.csv:4: mean_tpot_ms '{value}' is not a positive number"):
        v.compare(rows, v.predict_rows(rows))
    assert main(["validate", str(table), "--out", str(out), "--quiet"]) == 2
    assert out.exists()


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"system": "tpu_v7"}, "unknown GPU 'tpu_v7'"),
        ({"isl": "long"}, "isl 'long' is not a whole number"),
        ({"osl": "0"}, "osl is 0: 1 … 10,000,000 is meant"),
        ({"max_num_seqs": "x"}, "max_num_seqs 'x' is not a whole number"),
        ({"vllm_version": "nightly"}, "vllm_version 'nightly' is not a version"),
        ({"attention_dp_size": "two"}, "attention_dp_size 'two' is not a whole number"),
        ({"tp_size": "3"}, "3"),
    ],
)
def test_a_row_that_cannot_be_predicted_says_why(table: Path, cells: dict[str, str], reason: str) -> None:
    _, rows = t.read_table(rewritten(table, lambda *_: cells))
    assert all(reason in prediction["reason"] for prediction in v.predict_rows(rows)[:1])
    assert v.compare(rows[:1], v.predict_rows(rows[:1])) == []


@pytest.mark.parametrize(
    ("stated", "date", "modelled"),
    [
        ("0.18.0", "", "0.19"), ("0.11", "", "0.19"), ("0.19.1", "2026-11-01", "0.19"), ("v0.31.0rc1", "", "0.32"),
        ("1.2", "", "0.32"), ("", "2025-10-29", "0.19"), ("", "2026-11-21", "0.32"), ("", "", "0.32"),
    ],
)  # fmt: skip
def test_the_release_modelled_is_the_nearest(stated: str, date: str, modelled: str) -> None:
    assert modelled_version(stated, date) == modelled


@pytest.mark.parametrize(
    ("system", "model", "flags"),
    [
        ("h100_sxm", "meta-llama/Llama-3.1-70B", {"max_num_seqs": 16, "max_model_len": 2068}),
        ("b200_sxm", "meta-llama/Llama-3.1-70B", {"max_num_seqs": 512, "max_model_len": 2068}),
        ("h100_sxm", "openai/gpt-oss-120b", {"max_num_seqs": 16, "max_model_len": 10240}),
        ("h200_sxm", "MiniMaxAI/MiniMax-M2.5", {"max_num_seqs": 1024, "max_num_batched_tokens": 8192}),
    ],
)
def test_the_server_is_started_as_its_benchmark_did(system: str, model: str, flags: dict[str, int]) -> None:
    run = BenchmarkRun(
        system=system, model=model, precision="fp8", isl=1024, osl=1024, concurrency=16, tp_size=4, num_gpu_blocks=9999
    )
    config = engine_config(run, load_model("meta-llama/Llama-3.1-70B"), load_profile(system))
    assert {name: getattr(config, name) for name in flags} == flags
    assert run.flags.gpu_memory_utilization == (0.95 if "MiniMax" in model else 0.9)
    stated = run.model_copy(
        update={"max_num_seqs": 7, "max_model_len": 4000, "isl": 8192, "gpu_memory_utilization": 0.8}
    )
    config = engine_config(stated, load_model("meta-llama/Llama-3.1-70B"), load_profile(system))
    assert (config.max_num_seqs, config.max_model_len, stated.flags.gpu_memory_utilization) == (7, 4000, 0.8)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_plot_is_the_same_bytes_twice(table: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    plots = [table.with_name(f"{number}{suffix}") for number in range(2)]
    for plot in plots:
        assert main(["validate", str(table), "--plot", str(plot), "--quiet"]) == 0
    assert plots[0].read_bytes() == plots[1].read_bytes()
    assert len(plots[0].read_bytes()) > 5000


def test_a_plot_that_cannot_be_drawn_is_refused_before_any_work(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = table.with_name("pred.csv")
    assert main(["validate", str(table), "--plot", "x.jpeg", "--out", str(out), "--quiet"]) == 2
    assert "a plot is no .jpeg (allowed: .pdf, .png, .svg)" in capsys.readouterr().err
    assert not out.exists()


def test_without_matplotlib_the_plot_says_so(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    from twin.trust.plot import require_plot

    with pytest.raises(InputError, match="needs matplotlib: pip install"):
        require_plot(table.with_suffix(".png"))


def test_output_never_takes_the_place_of_the_measurements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "runs.csv"
    file.write_text("system,model,precision,isl,osl,concurrency,tp_size\n")
    assert main(["validate", str(file), "--out", str(file)]) == 2
    assert "place of the measurements" in capsys.readouterr().err
    assert file.read_text().startswith("system")


def test_a_threshold_above_one_needs_its_sign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "runs.csv"
    file.write_text("system,model,precision,isl,osl,concurrency,tp_size\n")
    assert main(["validate", str(file), "--max-tpot-mape", "3"]) == 2
    assert "'3' is not a share (allowed: 5%, 0.05)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"), [("concurrency", "100000000"), ("isl", "99999999"), ("concurrency", "1000000")]
)
def test_what_no_benchmark_has_is_not_simulated(name: str, text: str) -> None:
    row = {"system": "h200_sxm", "model": "meta-llama/Llama-3.1-70B", "precision": "fp8", "isl": "1024", "osl": "1024",
           "concurrency": "4", "tp_size": "2"}  # fmt: skip
    with pytest.raises(InputError, match=r"10,000,000 is meant|tokens in all"):
        t.run_of(row | {name: text})
