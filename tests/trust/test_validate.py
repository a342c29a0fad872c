"""``twin validate``: blind, complete, in order, and as accurate on the development table as the README says."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from twin.base import InputError
from twin.cli.main import main
from twin.trust import validate as v
from twin.trust.closed_loop import BenchmarkRun, draw_lengths, predict

HEAD = "system,model,precision,isl,osl,concurrency,tp_size,mean_ttft_ms,mean_tpot_ms\n"
ROWS = [
    "h100_sxm,meta-llama/Llama-3.1-70B,fp8,512,64,4,4,100,10\n",
    "h200_sxm,meta-llama/Llama-3.1-8B,bf16,512,64,8,1,50,7\n",
    "h100_sxm,openai/gpt-oss-120b,fp4,512,64,4,4,100,10\n",
    "a100_sxm,meta-llama/Llama-3.1-8B,fp8,512,64,4,1,100,10\n",
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "runs.csv"
    path.write_text(HEAD + "".join(ROWS))
    return path


def test_rows_order_and_columns_are_kept_and_every_row_has_a_figure_or_a_reason(table: Path) -> None:
    columns, rows = v.read_table(table)
    out = list(csv.DictReader(io.StringIO(v.as_csv(columns, rows, v.predict_rows(rows)))))
    assert [row["model"] for row in out] == [row["model"] for row in rows]
    assert list(out[0])[: len(columns)] == columns
    for row in out:
        assert bool(row["predicted_mean_tpot_ms"]) != bool(row["reason"])
    assert "gpt-oss-120b" in out[2]["reason"]
    assert "fp8" in out[3]["reason"]
    low, middle, high = (float(out[0][f"predicted_mean_ttft_ms{s}"]) for s in ("_lo90", "", "_hi90"))
    assert low < middle < high


def test_predictions_do_not_depend_on_measured_columns(table: Path, tmp_path: Path) -> None:
    def predicted(path: Path) -> list[v.Row]:
        return v.predict_rows(v.read_table(path)[1])

    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(line.rsplit(",", 2)[0] for line in (HEAD + "".join(ROWS)).splitlines()) + "\n")
    shuffled = tmp_path / "shuffled.csv"
    shuffled.write_text(HEAD + "".join(row.replace(",100,10", ",7,9000") for row in ROWS))
    assert predicted(table) == predicted(bare) == predicted(shuffled)
    assert v.compare(v.read_table(bare)[1], predicted(bare)) == []


def test_predictions_are_written_before_the_threshold_is_held_against_them(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "pred.csv"
    assert main(["validate", str(table), "--out", str(out), "--max-tpot-mape", "0.1%", "--quiet"]) == 4
    assert out.read_text().startswith("system,model")
    assert main(["validate", str(table), "--max-tpot-mape", "900%", "--quiet"]) == 0


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("system,model\nh100_sxm,x\n")
    with pytest.raises(InputError, match="'precision' is missing"):
        v.read_table(path)


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
    _, rows = v.read_table(shared / "groundtruth" / "inferencex_vllm_dev.csv")
    rows = [row for row in rows if "Llama" in row["model"]]
    overall = next(
        row for row in v.compare(rows, v.predict_rows(rows)) if row["system"] == "all" and not row["saturated"]
    )
    assert overall["rows"] == 108
    assert float(str(overall["tpot_mape"])) <= 0.05
    assert float(str(overall["ttft_mape"])) <= 0.12
    assert 0.80 <= float(str(overall["tpot_inside_90"])) <= 1.0
