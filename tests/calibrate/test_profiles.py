"""From database to profile file: whole, read back unchanged, and used by the cost room."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import yaml
from made_up import BANDWIDTH, FACTS, LAUNCH, RATE, gemm_seconds, log_tables, write_database

from calibrate.judge import Judged
from calibrate.profile_yaml import to_yaml
from calibrate.profiles import build_profile, importable, keep_host, profile_from_tables
from twin.base import Estimate, InputError
from twin.cli.main import main
from twin.cost.collectives import all_reduce_s
from twin.cost.operators import decode_attention_s, elementwise_s, gemm_in_range, gemm_s, prefill_attention_s
from twin.cost.parts import parts
from twin.spec.hardware import HardwareProfile, HostFit, load_profile


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[HardwareProfile, Path]:
    systems = write_database(tmp_path_factory.mktemp("database"))
    return build_profile(systems, "h100_sxm", "2026-01-01"), systems


def test_predictions_are_the_kernels_that_were_measured(built: tuple[HardwareProfile, Path]) -> None:
    profile, _ = built
    m = np.array([1.0, 20.0, 300.0, 3000.0])
    for dtype in ("bf16", "fp8"):
        wanted = gemm_seconds(m, np.float64(5120), np.float64(3584), dtype == "fp8")
        assert gemm_s(profile, dtype, m, 5120, 3584) == pytest.approx(wanted, rel=0.05)
    assert profile.kernels.gemm["bf16"].held_out.serving.mape < 0.03
    tokens = 8 * 2000
    wanted = 4e-6 + (4 * tokens * 8 * 128 + 4 * 8 * 32 * 128) / 2.5e12
    assert float(decode_attention_s(profile, "bf16", 8, 2000, 32, 8, 128)) == pytest.approx(wanted, rel=0.05)


def test_the_yaml_reads_back_as_it_was(built: tuple[HardwareProfile, Path], tmp_path: Path) -> None:
    profile, _ = built
    text = to_yaml(profile)
    (tmp_path / "again.yaml").write_text(text)
    again = load_profile(tmp_path / "again.yaml")
    assert again == profile
    assert again.digest() == profile.digest()
    assert len(text.splitlines()) < 400
    assert "aiconfigurator-core" in text
    for word in ("llama", "qwen", "mistral"):
        assert word not in text.lower()


def test_a_host_section_survives_a_new_import(built: tuple[HardwareProfile, Path], tmp_path: Path) -> None:
    profile, _ = built
    figure = Estimate(value=2e-3, origin="fitted", source="runs", date="2026-01-01")
    needed = [name for name, info in HostFit.model_fields.items() if info.is_required()]
    host = HostFit(**dict.fromkeys(needed, figure), tpot_error=0.1, source="runs")
    path = tmp_path / "h100_sxm.yaml"
    path.write_text(to_yaml(profile.model_copy(update={"host": host})), encoding="utf-8")
    assert keep_host(profile, path).host == host
    assert keep_host(profile, tmp_path / "none.yaml").host is None


def test_an_unknown_gpu_is_refused(built: tuple[HardwareProfile, Path]) -> None:
    with pytest.raises(InputError, match="did you mean 'h100_sxm'"):
        build_profile(built[1], "h100", "2026-01-01")


def test_a_gpu_without_element_wise_timings_needs_others_for_a_mean(database: Path) -> None:
    (database / "data/h100_sxm/quantize/vllm/0.24.0/scale_matrix_perf.parquet").unlink()
    with pytest.raises(InputError, match="nor of 3 GPUs to take their mean"):
        build_profile(database, "h100_sxm", "2026-01-01")


def test_the_command_writes_a_profile_and_tells_its_errors(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "profiles"
    arguments = [
        "calibrate",
        "import",
        "--database",
        str(database),
        "--out",
        str(out),
        "--date",
        "2026-01-01",
    ]
    assert main([*arguments, "--gpu", "h100_sxm", "--format", "csv"]) == 0
    printed = capsys.readouterr()
    assert "h100_sxm: matrix multiplications" in printed.err
    lines = printed.out.splitlines()
    assert lines[0].startswith("gpu,kernel,serving_mape")
    assert any(line.startswith("h100_sxm,gemm fp8,") for line in lines)
    assert yaml.safe_load((out / "h100_sxm.yaml").read_text())["name"] == "h100_sxm"
    assert [path.name for path in out.iterdir()] == ["h100_sxm.yaml"]


def test_a_broken_database_ends_with_code_2_and_no_file(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (database / "data/h100_sxm/comm/vllm/0.24.0/custom_allreduce_perf.parquet").unlink()
    out = tmp_path / "profiles"
    assert main(["calibrate", "import", "--database", str(database), "--out", str(out)]) == 2
    assert "the database has no custom_allreduce_perf.parquet" in capsys.readouterr().err
    assert not out.exists()


def test_the_fit_keeps_every_held_out_prediction(tmp_path: Path) -> None:
    judged: list[Judged] = []
    profile = profile_from_tables("mine", FACTS, log_tables(), "2026-01-01", judged=judged)
    names = [part.name for part in parts(profile)]
    assert sorted(item.kernel for item in judged) == sorted(names)
    assert {item.gpu for item in judged} == {"mine"}


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_a_profile_from_a_log_of_a_few_hundred_points(device: Literal["gpu", "cpu"], tmp_path: Path) -> None:
    profile = profile_from_tables("mine", FACTS, log_tables(), "2026-01-01", device, "a board")
    assert (profile.name, profile.label, profile.device) == ("mine", "a board", device)
    m = np.array([1.0, 30.0, 300.0, 3000.0])
    wanted = gemm_seconds(m, np.float64(2000), np.float64(3000), False)
    assert gemm_s(profile, "bf16", m, 2000, 3000) == pytest.approx(wanted, rel=0.08)
    assert gemm_in_range(profile, "bf16", m, 2000, 3000).all()
    assert not gemm_in_range(profile, "bf16", 1, 50_000, 3000).any()
    moved = 4.0 * 8 * 2000 * 4 * 64 + 4.0 * 8 * 8 * 64
    assert float(decode_attention_s(profile, "bf16", 8, 2000, 8, 4, 64)) == pytest.approx(
        LAUNCH + moved / BANDWIDTH, rel=0.08
    )
    pairs = 4096 * 2048 + 4096**2 / 2
    after_context = float(prefill_attention_s(profile, "bf16", 4096, 2048, 16, 4, 64, batch=32))
    assert after_context == pytest.approx(LAUNCH + 4 * 32 * pairs * 16 * 64 / RATE, rel=0.08)
    assert float(elementwise_s(profile, 3e8)) == pytest.approx(3e8 / BANDWIDTH, rel=0.1)
    assert float(all_reduce_s(profile, 2, 1e7)) == pytest.approx(1e-5 + 1e7 / 100e9, rel=0.05)
    for part in parts(profile):
        assert part.held_out is not None
        assert part.held_out.serving.mape < 0.06
        assert part.held_out.serving.coverage90 == pytest.approx(0.9, abs=0.08)
    text = to_yaml(profile)
    assert len(text.splitlines()) < 400
    (tmp_path / "mine.yaml").write_text(text)
    assert load_profile(tmp_path / "mine.yaml") == profile


def test_one_device_has_no_all_reduce_and_says_so() -> None:
    tables = {name: table for name, table in log_tables().items() if name != "all_reduce"}
    profile = profile_from_tables("mine", FACTS, tables, "2026-01-01", "cpu")
    assert profile.kernels.all_reduce == ()
    assert any("All-reduce was not measured" in note for note in profile.fit_notes)
    assert float(all_reduce_s(profile, 1, 1e6)) == 0.0
    with pytest.raises(InputError, match="no measured all-reduce among 2"):
        all_reduce_s(profile, 2, 1e6)


def test_the_same_log_gives_the_same_bytes() -> None:
    one, two = (to_yaml(profile_from_tables("mine", FACTS, log_tables(), "2026-01-01")) for _ in range(2))
    assert one == two


def _changed(family: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> dict[str, pd.DataFrame]:
    tables = log_tables()
    source = tables[family].attrs["source"]
    tables[family] = change(tables[family])
    tables[family].attrs["source"] = source
    return tables


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        (
            "decode",
            lambda t: t.iloc[:0],
            "no measurements of decode: a profile needs gemm, decode, prefill, elementwise",
        ),
        ("gemm", lambda t: t.drop(columns="k"), r"log\.jsonl, gemm: gemm: column 'k' is missing \(allowed: dtype, m"),
        (
            "gemm",
            lambda t: t.assign(seconds=t["seconds"].mask(t.index == 7)),
            "1 rows have a seconds .* first is row 7",
        ),
        ("prefill", lambda t: t.assign(seconds=t["seconds"].mask(t.index == 3, 0.0)), "not a positive number.*row 3"),
        ("decode", lambda t: t.head(11), "11 points are too few for 4 coefficients: 9 more are needed"),
        ("elementwise", lambda t: t.head(9), "element-wise: 9 points are too few for 3 coefficients: 6 more"),
        ("gemm", lambda t: t.assign(dtype="fp8"), "no bf16 matrix multiplications"),
        (
            "gemm",
            lambda t: t.assign(seconds=t["seconds"] * 1e3),
            "times slower than the device's peak rates: their unit",
        ),
        ("elementwise", lambda t: t.assign(seconds=t["seconds"] * 1e-6), "times faster than the device's peak rates"),
        ("all_reduce", lambda t: t.head(4), "all-reduce 2 GPUs: 4 points are too few .*: 1 more"),
    ],
)
def test_a_log_that_cannot_be_fitted_is_refused_in_a_sentence(
    family: str, change: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        profile_from_tables("mine", FACTS, _changed(family, change), "2026-01-01")


def test_a_database_of_one_gpu_offers_no_averages(database: Path) -> None:
    assert importable(database) == ["h100_sxm"]


@pytest.mark.parametrize(
    ("file", "factor", "said"),
    [
        (
            "gemm/vllm/0.24.0/gemm_perf",
            1e-3,
            r"gemm_perf\.parquet: gemm bf16: .* times faster than the device's peak rates",
        ),
        ("comm/vllm/0.24.0/custom_allreduce_perf", 1e3, r"all-reduce 2 GPUs: .* times slower"),
        (
            "quantize/vllm/0.24.0/scale_matrix_perf",
            1e3,
            r"element-wise: .* times slower .* their unit or the datasheet",
        ),
    ],
)
def test_a_database_in_another_unit_is_refused(database: Path, file: str, factor: float, said: str) -> None:
    path = database / "data" / "h100_sxm" / f"{file}.parquet"
    table = pd.read_parquet(path)
    table.assign(latency=table["latency"] * factor).to_parquet(path)
    with pytest.raises(InputError, match=said):
        build_profile(database, "h100_sxm", "2026-01-01")
