"""Reading the database: SI out, one clear sentence for what cannot be used."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calibrate import importers
from twin.base import InputError

GEMM = "data/h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet"


def test_the_newest_version_is_read_in_seconds_without_the_eager_table(database: Path) -> None:
    table = importers.read_gemm(database, "h100_sxm")
    assert set(table["dtype"]) == {"bf16", "fp8"}
    assert table["seconds"].max() < 0.1  # 0.9.0 says one second everywhere, and latency is in ms
    assert "0.24.0" in table.attrs["source"]


def test_decode_counts_the_new_token_and_leaves_windows_out(database: Path) -> None:
    table = importers.read_decode(database, "h100_sxm")
    assert set(table["context"]) == {2, 64, 512, 4096, 32768}
    assert not table.duplicated(["batch", "context", "num_heads", "num_kv_heads"]).any()


def test_repeated_measurements_become_their_median(database: Path) -> None:
    path = database / GEMM
    table = pd.read_parquet(path)
    path.unlink()
    pd.concat([table, table.assign(latency=table["latency"] * 3), table]).to_parquet(path)
    again = importers.read_gemm(database, "h100_sxm")
    assert len(again) == (table["gemm_dtype"] != "fp8_block").sum()
    one = table[(table["gemm_dtype"] == "fp8") & (table[["m", "n", "k"]] == [64, 4096, 4096]).all(axis=1)]
    same = again[(again["dtype"] == "fp8") & (again[["m", "n", "k"]] == [64, 4096, 4096]).all(axis=1)]
    assert same["seconds"].item() == pytest.approx(one["latency"].item() * 1e-3)


def test_messages_are_in_bytes_and_from_the_graph(database: Path) -> None:
    table = importers.read_all_reduce(database, "h100_sxm")
    assert table["message_bytes"].min() == 2 * 128
    first = table[(table["num_gpus"] == 2) & (table["message_bytes"] == 256)]["seconds"].item()
    assert first == pytest.approx(1e-5, rel=0.01)


def test_gemms_without_windows_column_are_full_attention(database: Path) -> None:
    path = database / "data/h100_sxm/attention/vllm/0.24.0/generation_attention_perf.parquet"
    table = pd.read_parquet(path)
    table[table["window_size"] == 0].drop(columns="window_size").to_parquet(path)
    assert len(importers.read_decode(database, "h100_sxm")) == (table["window_size"] == 0).sum()


def _spoil(path: Path, **changes: object) -> None:
    table = pd.read_parquet(path)
    for column, value in changes.items():
        if value is None:
            table = table.drop(columns=column)
        else:
            table[column] = table[column].astype(float)
            table.loc[3, column] = value
    table.to_parquet(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"latency": None}, r"gemm_perf\.parquet: column 'latency' is missing \(allowed: .*gemm_dtype"),
        ({"n": None}, "column 'n' is missing"),
        ({"latency": np.nan}, "1 rows hold a number that is not finite.*row 3"),
        ({"latency": 0.0}, "latency that is not positive; the first is row 3"),
        ({"m": np.inf}, "not finite"),
    ],
)
def test_other_columns_and_bad_numbers_are_refused(database: Path, changes: dict[str, object], said: str) -> None:
    _spoil(database / GEMM, **changes)
    with pytest.raises(InputError, match=said):
        importers.read_gemm(database, "h100_sxm")


def test_a_file_that_is_no_parquet_is_named(database: Path) -> None:
    (database / GEMM).write_bytes(b"not parquet")
    with pytest.raises(InputError, match=r"gemm_perf\.parquet: not a readable parquet file"):
        importers.read_gemm(database, "h100_sxm")


def test_absent_families_gpus_and_databases_are_said(database: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown GPU 'h10'.*did you mean 'h100_sxm'"):
        importers.read_gemm(database, "h10")
    (database / "data/h100_sxm/quantize/vllm/0.24.0/scale_matrix_perf.parquet").unlink()
    with pytest.raises(InputError, match="the database has no scale_matrix_perf"):
        importers.read_elementwise(database, "h100_sxm")
    with pytest.raises(InputError, match="no measured-kernel database here"):
        importers.find_database(tmp_path / "nowhere")


def test_the_package_its_parent_or_the_folder_itself_will_do(database: Path) -> None:
    assert importers.find_database(database) == database
    assert importers.find_database(database.parent) == database
    assert importers.find_database(database.parent.parent) == database


def test_the_version_comes_from_the_wheel(database: Path) -> None:
    (database.parent.parent / "aiconfigurator_core-9.8.7.dist-info").mkdir()
    assert importers.database_label(database) == "aiconfigurator-core 9.8.7"


def test_a_datasheet_without_its_sections_is_refused(database: Path) -> None:
    (database / "h100_sxm.yaml").write_text("gpu: {mem_bw: 1}\n")
    with pytest.raises(InputError, match=r"h100_sxm\.yaml: section 'node' is missing"):
        importers.read_datasheet(database, "h100_sxm")
