"""From database to profile file: whole, read back unchanged, and used by the cost room."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from made_up import gemm_seconds, write_database

from calibrate.profiles import build_profile, keep_host, to_yaml
from twin.base import Estimate, InputError
from twin.cli.main import main
from twin.cost.operators import decode_attention_s, gemm_s
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
    fields = {
        name: figure if "Estimate" in str(info.annotation) else (0.1 if info.annotation is float else "runs")
        for name, info in HostFit.model_fields.items()
    }
    host = HostFit.model_validate(fields)
    path = tmp_path / "h100_sxm.yaml"
    path.write_text(to_yaml(profile.model_copy(update={"host": host})), encoding="utf-8")
    assert keep_host(profile, path).host == host
    assert keep_host(profile, tmp_path / "none.yaml").host is None


def test_an_unknown_gpu_is_refused(built: tuple[HardwareProfile, Path]) -> None:
    with pytest.raises(InputError, match="did you mean 'h100_sxm'"):
        build_profile(built[1], "h100", "2026-01-01")


def test_a_gpu_without_element_wise_timings_needs_others_for_a_mean(database: Path) -> None:
    (database / "data/h100_sxm/quantize/vllm/0.24.0/scale_matrix_perf.parquet").unlink()
    with pytest.raises(InputError, match="nor of two GPUs to take their mean"):
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
