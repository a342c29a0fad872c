"""Profiles: found, whole, honest about their errors, and refused in one sentence when they are not."""

import time
from pathlib import Path

import numpy as np
import pytest

from twin.base import InputError, data_dir
from twin.spec.hardware import HardwareProfile, Table, load_profile, profile_names

NAMES = ["a100_sxm", "b200_sxm", "h100_sxm", "h200_sxm", "l40s"]
# Held-out error on serving shapes that the fits must keep (not on L40S, whose timings scatter more).
LIMITS = {"gemm bf16": 0.05, "gemm fp8": 0.10, "decode": 0.06, "prefill": 0.06, "all-reduce": 0.06}


def test_shipped_profiles_are_found_by_name() -> None:
    assert profile_names() == NAMES


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'h100_sxm'") as caught:
        load_profile("h100")
    assert caught.value.allowed == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_says_where_it_comes_from(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name

    def estimates(value: object) -> list[dict[str, object]]:
        if isinstance(value, dict):
            if "origin" in value:
                return [value]
            return [found for item in value.values() for found in estimates(item)]
        if isinstance(value, list | tuple):
            return [found for item in value for found in estimates(item)]
        return []

    found = estimates(profile.model_dump(exclude={"host"}))
    assert len(found) > 20
    assert all(item["source"] and item["date"] for item in found)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "l40s"])
def test_held_out_errors_keep_their_limits(name: str) -> None:
    kernels = load_profile(name).kernels
    errors: dict[str, list[float]] = {
        **{f"gemm {dtype}": [kernel.held_out.serving.mape] for dtype, kernel in kernels.gemm.items()},
        "decode": [fit.kernel.held_out.serving.mape for fit in kernels.decode_attention],
        "prefill": [fit.kernel.held_out.serving.mape for fit in kernels.prefill_attention],
    }
    reduce = [fit.held_out.serving for fit in kernels.all_reduce]
    errors["all-reduce"] = [float(np.average([e.mape for e in reduce], weights=[e.n for e in reduce]))]
    for family, values in errors.items():
        assert max(values) <= LIMITS[family], family


def test_facts_are_what_the_devices_report() -> None:
    memory_gib = {name: load_profile(name).facts.memory_bytes.value / 2**30 for name in NAMES}
    assert memory_gib == pytest.approx(
        {"a100_sxm": 79.15, "b200_sxm": 178.35, "h100_sxm": 79.11, "h200_sxm": 139.80, "l40s": 44.39},
        abs=0.01,
    )
    assert load_profile("a100_sxm").facts.flops.fp8 is None
    assert load_profile("a100_sxm").kernels.elementwise.launch_s.origin == "assumed"


def test_the_digest_follows_content_not_layout(tmp_path: Path) -> None:
    profile = load_profile("l40s")
    text = (data_dir("hwprofiles") / "l40s.yaml").read_text()
    copy = tmp_path / "mine.yaml"
    copy.write_text("# a remark\n" + text)
    assert load_profile(copy).digest() == profile.digest()
    copy.write_text(text.replace("label: NVIDIA L40S", "label: another board"))
    assert load_profile(copy).digest() != profile.digest()


def test_loading_is_quick() -> None:
    path = data_dir("hwprofiles") / "b200_sxm.yaml"
    times = []
    for _ in range(3):
        start = time.perf_counter()
        HardwareProfile.model_validate(_parse(path))
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1


def _parse(path: Path) -> object:
    import yaml

    return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("label: NVIDIA L40S", "lable: NVIDIA L40S"), r"mine\.yaml:.*(label|lable)"),
        (
            ("num_gpus_per_node: 8", "num_gpus_per_node: 0"),
            r"mine\.yaml:facts\.num_gpus_per_node: .*greater than 0",
        ),
        (("label: NVIDIA L40S", "label: [NVIDIA"), r"mine\.yaml:\d+: .*(YAML|flow)"),
    ],
)
def test_a_broken_file_is_named_with_its_field_or_line(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    broken = tmp_path / "mine.yaml"
    text = (data_dir("hwprofiles") / "l40s.yaml").read_text()
    assert change[0] in text
    broken.write_text(text.replace(*change))
    with pytest.raises(InputError, match=said):
        load_profile(broken)


def test_an_absent_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read hardware profile"):
        load_profile(tmp_path / "nothing.yaml")


def test_a_table_checks_its_size_and_axes() -> None:
    good = {"axes": {"m": (1, 8), "n": (1, 2, 4)}, "stderr": 0.01, "n": 5, "milli_log": ("0 1 2", "3 4 5")}
    assert Table.model_validate(good).values.tolist() == [[0.0, 0.001, 0.002], [0.003, 0.004, 0.005]]
    for bad in (
        {**good, "milli_log": ("0 1", "3 4 5")},
        {**good, "axes": {"m": (8, 1), "n": (1, 2, 4)}},
        {**good, "axes": {"m": (0, 8), "n": (1, 2, 4)}},
    ):
        with pytest.raises(ValueError, match=r"axis|numbers"):
            Table.model_validate(bad)
