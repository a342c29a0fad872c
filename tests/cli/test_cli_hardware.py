"""``twin hardware``: what a person reads and what a script parses say the same, and what is assumed stands out."""

from __future__ import annotations

import csv
import io
import json

import pytest

from twin.cli.hardware_table import si
from twin.cli.main import main
from twin.cost import operators as ops
from twin.cost.parts import parts
from twin.spec.hardware import HardwareProfile, load_profile, profile_names

H200 = load_profile("h200_sxm")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["hardware", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["hardware", *arguments, "--format", "json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["exit_code"] == 2
    return captured.err


@pytest.mark.parametrize("name", profile_names())
def test_show_has_every_kernel_with_its_error_and_range(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    profile = load_profile(name)
    data = json.loads(run(capsys, "show", name, "--format", "json"))
    assert next(iter(data)) == "schema_version"
    assert data["origin"] == profile.kernels.gemm["bf16"].provenance.origin
    kernels = {item["kernel"]: item for item in data["kernels"]}
    assert list(kernels) == [part.name for part in parts(profile)]
    gemm, fitted = kernels["gemm bf16"], profile.kernels.gemm["bf16"]
    assert gemm["flops_per_s"]["value"] == fitted.flops_per_s.value
    assert gemm["flops_per_s"]["share_of_peak"] == fitted.flops_per_s.value / profile.facts.flops.bf16.value
    assert gemm["held_out"]["serving"]["mape"] == fitted.held_out.serving.mape
    if fitted.table is not None and fitted.provenance.origin != "assumed":
        nodes = fitted.table.axes["m"]
        assert gemm["measured_over"]["m"] == [nodes[0], nodes[-1]]
    table = run(capsys, "show", name)
    assert max(map(len, table.splitlines())) <= 100
    assert all(part.name in table for part in parts(profile))
    assert ("ASSUMED" in table) == bool(data["assumed"])


def test_show_rows_carry_unit_origin_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(run(capsys, "show", "h200_sxm", "--format", "csv"))))
    assert {row["section"] for row in rows} == {"fact", "kernel", "host"}
    assert all(row["origin"] and row["source"] and row["value"] for row in rows)
    memory = next(row for row in rows if row["name"] == "memory_bytes")
    assert (float(memory["value"]), memory["unit"]) == (H200.facts.memory_bytes.value, "B")
    assert run(capsys, "show", "h200_sxm", "--format", "md").count("\n") == len(rows) + 2


def test_a_fit_that_left_a_rate_open_shows_none(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(run(capsys, "show", "h200_sxm", "--format", "json"))
    kernel = next(item for item in data["kernels"] if item["kernel"] == "decode attention bf16 d128")
    rate = kernel["flops_per_s"]
    assert rate["seen"] == (rate["stderr"] is not None and rate["stderr"] <= rate["value"])


def test_show_what_if(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(run(capsys, "show", "h200_sxm", "--set", "mem_bw=×2", "--format", "json"))
    assert data["label"] == "NVIDIA H200 with mem_bw ×2"
    assert data["origin"] == "assumed"
    assert {"mem_bw_bytes_per_s", "gemm bf16", "element-wise"} <= set(data["assumed"])
    facts = {item["fact"]: item for item in data["facts"]}
    assert facts["mem_bw_bytes_per_s"]["value"] == 2 * H200.facts.mem_bw_bytes_per_s.value
    assert facts["mem_bw_bytes_per_s"]["source"] == "h200_sxm with mem_bw ×2"
    assert facts["memory_bytes"]["origin"] == "measured"
    table = run(capsys, "show", "h200_sxm", "--set", "mem_bw=×2")
    assert "ASSUMED" in table
    assert max(map(len, table.splitlines())) <= 100


def cpu() -> HardwareProfile:
    """A profile as this machine's CPU has it: no links, no power, one precision, assumed all-reduce nowhere."""
    flops = H200.facts.flops.model_copy(update={"fp8": None})
    absent = dict.fromkeys(("board_power_w", "intra_node_link_bytes_per_s", "pcie_bytes_per_s"))
    facts = H200.facts.model_copy(update={"flops": flops, **absent})
    kernels = H200.kernels.model_copy(update={"all_reduce": (), "gemm": {"bf16": H200.kernels.gemm["bf16"]}})
    changes = {"name": "my_cpu", "label": "CPU", "device": "cpu", "facts": facts, "kernels": kernels, "host": None}
    return H200.model_copy(update=changes)


def test_a_cpu_prints_well(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    import yaml

    path = tmp_path / "my_cpu.yaml"
    path.write_text(yaml.safe_dump(cpu().model_dump(mode="json", exclude_none=True), allow_unicode=True))
    table = run(capsys, "show", str(path))
    assert "132 cores" in table
    assert "(CPU)" in table
    assert "board power" not in table
    side = json.loads(run(capsys, "compare", "h200_sxm", str(path), "--format", "json"))
    by_name = {item["operation"]: item["values"][str(path)] for item in side["operations"]}
    assert by_name["all-reduce 8 GPUs 16 MiB"] is None
    assert by_name["GEMM bf16 1×8192×8192"] is not None
    facts = {item["fact"]: item["values"] for item in side["facts"]}
    assert facts["board_power_w"][str(path)] is None
    assert "–" in run(capsys, "compare", "h200_sxm", str(path))


def test_compare_prices_the_same_operation_on_each(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(run(capsys, "compare", "h200_sxm", "a100_sxm", "--format", "json"))
    assert [item["id"] for item in data["profiles"]] == ["h200_sxm", "a100_sxm"]
    found = {item["operation"]: item["values"] for item in data["operations"]}
    for name in ("h200_sxm", "a100_sxm"):
        seconds = float(ops.gemm_s(load_profile(name), "bf16", 64, 8192, 8192))
        cell = found["GEMM bf16 64×8192×8192"][name]
        assert cell["seconds"] == seconds
        assert cell["low90_s"] < seconds < cell["high90_s"]
        assert cell["inside"]
    a100, h200 = found["GEMM bf16 64×8192×8192"]["a100_sxm"], found["GEMM bf16 64×8192×8192"]["h200_sxm"]
    assert a100["ratio"] == pytest.approx(h200["seconds"] / a100["seconds"])
    assert a100["ratio"] < 1, "A100 is slower"
    assert found["GEMM fp8 64×8192×8192"]["a100_sxm"] is None, "A100 has no fp8"
    assert found["GEMM int8 64×8192×8192"]["h200_sxm"]["origin"] == "assumed"
    assert "all-reduce 16 GPUs 16 MiB" not in found, "a row that neither has is left out"
    facts = {item["fact"]: item["values"] for item in data["facts"]}
    assert facts["flops_fp8"]["a100_sxm"] is None
    assert facts["mem_bw_bytes_per_s"]["a100_sxm"]["ratio"] == pytest.approx(
        load_profile("a100_sxm").facts.mem_bw_bytes_per_s.value / H200.facts.mem_bw_bytes_per_s.value
    )


def test_many_profiles_still_fit_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    table = run(capsys, "compare", *profile_names())
    assert max(map(len, table.splitlines())) <= 100
    assert all(name in table for name in profile_names())
    rows = list(csv.DictReader(io.StringIO(run(capsys, "compare", *profile_names(), "--format", "csv"))))
    assert {row["profile"] for row in rows} == set(profile_names())


def test_compare_with_a_what_if(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("compare", "h200_sxm", "--set", "decode_attention.mem_bw=×8")
    data = json.loads(run(capsys, *arguments, "--format", "json"))
    found = {item["operation"]: item["values"]["h200_sxm what-if"] for item in data["operations"]}
    assert found["decode attention bf16 64×4096"]["ratio"] > 4
    assert not found["decode attention bf16 64×4096"]["inside"]
    assert found["GEMM bf16 1×8192×8192"]["ratio"] == 1.0
    assert "!" in run(capsys, *arguments)


def test_errors_are_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'h200_sxm'" in fail(capsys, "show", "h200_sxn")
    assert "did you mean 'mem_bw'" in fail(capsys, "show", "h200_sxm", "--set", "mem_w=×2")
    assert "--set mem_bw" in fail(capsys, "show", "h200_sxm", "--set", "mem_bw=2 GB")
    assert "two profiles or more" in fail(capsys, "compare", "h200_sxm")
    assert "two profiles or more" in fail(capsys, "compare", "h200_sxm", "h200_sxm")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (4.8e12, "B/s", "4.80 TB/s"), (1.978e15, "FLOP/s", "1.98 PFLOP/s"), (12.86e-6, "s", "12.9 µs"),
        (0.5e-9, "s", "0.50 ns"), (2.5, "s", "2.50 s"), (150109945856, "B", "139.8 GiB"), (700, "W", "700 W"),
        (1.128, "×", "1.13 ×"), (-2e-7, "s", "-200 ns"), (0.0, "s", "0.00 ns"),
    ],
)  # fmt: skip
def test_units(value: float, unit: str, text: str) -> None:
    assert si(value, unit) == text
