"""What-if hardware: physics that any change must obey, honest labels, and errors that say what is allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.base import Estimate, InputError, data_dir
from twin.cost import operators as ops
from twin.cost.collectives import all_reduce_s
from twin.cost.layout import HostCosts
from twin.spec.hardware import HardwareProfile, load_profile
from twin.spec.hypothetical import Hypothetical, hypothetical
from twin.spec.scenario import Scenario, load_scenario

H200 = load_profile("h200_sxm")
FAMILIES = ("gemm", "decode_attention", "prefill_attention", "elementwise")
EVERY_KEY = [
    "memory", "mem_bw", "flops", "link_bw", "launch",
    *(f"{family}.{key}" for family in FAMILIES for key in ("mem_bw", "flops", "launch")),
]  # fmt: skip
WHATIF = data_dir("scenarios") / "whatif_memory.yaml"


def what_if(profile: HardwareProfile = H200, **changes: object) -> HardwareProfile:
    """Keys with ``__`` for the dot."""
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return hypothetical(profile, Hypothetical.model_validate(keys))


def decode_s(profile: HardwareProfile, context: float = 32768, batch: int = 128) -> float:
    return float(ops.decode_attention_s(profile, "bf16", batch, context, 32, 8, 128))


def gemm_s(profile: HardwareProfile, m: int) -> float:
    return float(ops.gemm_s(profile, "bf16", m, 8192, 8192))


def test_times_one_on_everything_changes_nothing() -> None:
    ones = Hypothetical.model_validate(dict.fromkeys(EVERY_KEY, "×1"))
    assert hypothetical(H200, ones).digest() == H200.digest()
    assert hypothetical(H200, Hypothetical()) is H200


def test_twice_the_bandwidth_halves_what_memory_bounds_and_leaves_what_compute_bounds() -> None:
    fast = what_if(mem_bw="×2")
    assert decode_s(fast) == pytest.approx(decode_s(H200) / 2, rel=0.03)
    launch_s = next(
        a.kernel.launch_s.value for a in H200.kernels.decode_attention if (a.kv, a.head_dim) == ("bf16", 128)
    )
    saved = decode_s(H200, 512, 8) - decode_s(fast, 512, 8)
    assert 0 < saved < decode_s(H200, 512, 8) - launch_s, "the launch is not memory's"
    assert gemm_s(fast, 8192) == pytest.approx(gemm_s(H200, 8192), rel=0.01)
    assert gemm_s(fast, 1) < 0.6 * gemm_s(H200, 1)
    sharper = what_if(flops="×2")
    assert gemm_s(sharper, 8192) == pytest.approx(gemm_s(H200, 8192) / 2, rel=0.05)
    assert decode_s(sharper) == pytest.approx(decode_s(H200), rel=0.03)


def test_scaling_all_rates_and_launches_scales_every_time_exactly() -> None:
    """×2 on rates and ×0.5 on launches leaves each ratio of the roofline as it is, so the tables too."""
    twice = what_if(mem_bw="×2", flops="×2", launch="×0.5")
    m = np.array([1.0, 17.0, 300.0, 8192.0])
    for dtype in ("bf16", "fp8"):
        np.testing.assert_allclose(
            ops.gemm_s(twice, dtype, m, 5120, 3584) * 2, ops.gemm_s(H200, dtype, m, 5120, 3584), rtol=1e-12
        )
    assert decode_s(twice, 77, 3) * 2 == pytest.approx(decode_s(H200, 77, 3), rel=1e-12)
    np.testing.assert_allclose(ops.elementwise_s(twice, m) * 2, ops.elementwise_s(H200, m), rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(EVERY_KEY), st.floats(0.1, 10), st.floats(0.1, 10))
def test_factors_compose(key: str, first: float, second: float) -> None:
    both = what_if(what_if(**{key: f"×{first!r}"}), **{key: f"×{second!r}"})
    once = what_if(**{key: f"×{first * second!r}"})
    assert both.facts.memory_bytes.value == pytest.approx(once.facts.memory_bytes.value, rel=1e-9)
    assert decode_s(both) == pytest.approx(decode_s(once), rel=1e-9)
    assert gemm_s(both, 64) == pytest.approx(gemm_s(once, 64), rel=1e-9)
    assert all_reduce_s(both, 8, 2**24) == pytest.approx(all_reduce_s(once, 8, 2**24), rel=1e-9)


def test_a_family_alone_is_compute_in_memory() -> None:
    beside = what_if(decode_attention__mem_bw="×8")
    assert 6.5 < decode_s(H200) / decode_s(beside) < 8
    assert beside.kernels.gemm == H200.kernels.gemm
    assert beside.facts == H200.facts, "the bus to the rest of the device is as before"
    own = what_if(mem_bw="×2", decode_attention__mem_bw="×8")
    assert decode_s(own) == decode_s(beside), "a family's own factor takes the place of the device's"
    assert gemm_s(own, 1) == gemm_s(what_if(mem_bw="×2"), 1)


def test_links_speed_up_bytes_not_latency() -> None:
    fast = what_if(link_bw="×2")
    assert float(all_reduce_s(fast, 8, 256)) == float(all_reduce_s(H200, 8, 256))
    assert float(all_reduce_s(fast, 8, 2**30)) == pytest.approx(float(all_reduce_s(H200, 8, 2**30)) / 2, rel=0.01)
    assert fast.kernels.all_reduce[0].provenance.origin == "assumed"


def test_what_a_launch_hides_is_a_share_of_the_launch() -> None:
    quick = HostCosts.of(what_if(launch="×0.5"))
    real = HostCosts.of(H200)
    assert quick.kernel_overlap_s == real.kernel_overlap_s / 2
    assert quick.step_s == real.step_s


@pytest.mark.parametrize(
    ("key", "quantity", "factor"),
    [
        ("memory", "282 GB", 282e9 / H200.facts.memory_bytes.value),
        ("memory", "300GiB", 300 * 2**30 / H200.facts.memory_bytes.value),
        ("mem_bw", "9.6 TB/s", 2.0),
        ("flops", "2 PFLOP/s", 2e15 / 989e12),
        ("flops", "1978 TFLOPS", 2.0),
        ("link_bw", "900 GB/s", 2.0),
        ("gemm.mem_bw", "9.6 TB/s", 2.0),
    ],
)
def test_a_quantity_is_a_factor_against_the_datasheet(key: str, quantity: str, factor: float) -> None:
    asked, scaled = what_if(**{key: quantity}), what_if(**{key: f"×{factor!r}"})
    assert asked.facts.memory_bytes.value == scaled.facts.memory_bytes.value
    assert asked.facts.mem_bw_bytes_per_s.value == pytest.approx(scaled.facts.mem_bw_bytes_per_s.value)
    assert gemm_s(asked, 1) == pytest.approx(gemm_s(scaled, 1))
    assert gemm_s(asked, 8192) == pytest.approx(gemm_s(scaled, 8192))


def figures(value: object, path: str = "") -> dict[str, dict[str, object]]:
    if isinstance(value, dict):
        if "origin" in value:
            return {path: value}
        return {k: v for key, item in value.items() for k, v in figures(item, f"{path}.{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, item in enumerate(value) for k, v in figures(item, f"{path}.{i}").items()}
    return {}


def test_every_changed_figure_is_assumed_and_says_why_and_no_other() -> None:
    fast = what_if(mem_bw="2x", flops="x1.5")
    before, after = figures(H200.model_dump()), figures(fast.model_dump())
    changed = [path for path in before if before[path] != after[path]]
    assert len(changed) > 30
    for path in changed:
        assert after[path]["origin"] == "assumed", path
        assert after[path]["source"] == "h200_sxm with mem_bw ×2, flops ×1.5", path
    same = [path for path in before if path not in changed]
    assert all("launch_s" in p or ".p" in p or "all_reduce" in p or "host" in p or "facts" in p for p in same)
    assert fast.label == "NVIDIA H200 with mem_bw ×2, flops ×1.5"
    assert fast.name == "h200_sxm"
    assert not ops.gemm_in_range(fast, "bf16", 64, 8192, 8192), "so a plan says: outside the calibrated range"
    assert ops.gemm_in_range(H200, "bf16", 64, 8192, 8192)


def test_a_device_without_links_has_none_to_change() -> None:
    alone = H200.model_copy(
        update={"facts": H200.facts.model_copy(update={"intra_node_link_bytes_per_s": None}), "name": "cpu"}
    )
    with pytest.raises(InputError, match="cpu has no links between devices"):
        what_if(alone, link_bw="×2")
    assert what_if(alone, mem_bw="×2").facts.intra_node_link_bytes_per_s is None


@pytest.fixture
def scenario(tmp_path: Path):  # type: ignore[no-untyped-def]
    def load(hardware: str, *overrides: str) -> Scenario:
        lines = [line for line in WHATIF.read_text().splitlines() if "hardware:" not in line]
        at = lines.index("  gpu: h200_sxm") + 1
        path = tmp_path / "file.yaml"
        path.write_text("\n".join([*lines[:at], *([f"  hardware: {hardware}"] if hardware else []), *lines[at:]]))
        return load_scenario(path, overrides)

    return load


def test_a_scenario_carries_it_and_reads_back(scenario, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    asked = scenario("{mem_bw: 2x, memory: 282 GB, decode_attention.mem_bw: ×8, gemm: {launch: ×0.5}}")
    assert asked.profile == what_if(mem_bw="×2", memory="282 GB", decode_attention__mem_bw="×8", gemm__launch="×0.5")
    text = asked.to_yaml()
    copy = tmp_path / "copy.yaml"
    copy.write_text(text)
    again = load_scenario(copy)
    assert again == asked
    assert again.to_yaml() == text
    assert scenario("").profile is H200


def test_set_overrides_the_file(scenario) -> None:  # type: ignore[no-untyped-def]
    dotted = "{decode_attention.mem_bw: ×8, mem_bw: ×2}"
    changed = scenario(dotted, "deployment.hardware.decode_attention.mem_bw=×4", "deployment.hardware.mem_bw=4.8 TB/s")
    assert changed.profile == what_if(decode_attention__mem_bw="×4")
    assert scenario("", "deployment.hardware.mem_bw=×2").profile == what_if(mem_bw="×2")
    assert scenario(dotted, "deployment.hardware=null").profile is H200


@pytest.mark.parametrize(
    ("hardware", "said"),
    [
        ("{mem_bandwidth: ×2}", r"file\.yaml:\d+: unknown key 'mem_bandwidth'; did you mean 'mem_bw'"),
        ("{decode.mem_bw: ×2}", r"file\.yaml:\d+: unknown key 'decode'; did you mean 'decode_attention'"),
        ("{gemm.memory: ×2}", r"file\.yaml:\d+: unknown key 'memory'.*allowed: flops, launch, mem_bw"),
        ("{mem_bw: ×0}", r"file\.yaml:\d+: .*mem_bw: '×0' is not above 0"),
        ("{mem_bw: ×-2}", "is not above 0"),
        ("{mem_bw: -3 TB/s}", "is not above 0"),
        ("{mem_bw: 2}", r"2 is not a factor such as ×2 or a quantity such as 9\.6 TB/s"),
        ("{mem_bw: 9.6 TB}", r"unknown unit 'TB' in '9\.6 TB'"),
        ("{memory: 2 FLOP/s}", "unknown unit 'FLOP/s'"),
        ("{flops: 2 TB/s}", "unknown unit 'TB/s'"),
        ("{launch: 3us}", "'3us' is not a factor such as ×2"),
        ("{mem_bw: ×2 TB/s}", "is not a factor"),
        ("{mem_bw: fast}", "'fast' is not a factor"),
        ("{mem_bw: ×nan}", "is not a factor"),
        ("{mem_bw: ×1e999}", "is not a finite number"),
        ("{mem_bw: [2]}", "is not a factor"),
        ("{gemm: ×2}", "gemm"),
        ("×2", "hardware"),
    ],
)
def test_errors_say_what_and_where(scenario, hardware: str, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=said):
        scenario(hardware)
    with pytest.raises(InputError, match="did you mean 'mem_bw'"):
        scenario("", "deployment.hardware.mem_w=×2")


def test_stderr_scales_with_its_figure() -> None:
    real, fast = H200.kernels.gemm["bf16"].bytes_per_s, what_if(mem_bw="×2").kernels.gemm["bf16"].bytes_per_s
    assert isinstance(fast, Estimate)
    assert fast.stderr == pytest.approx(2 * real.stderr)  # type: ignore[operator]
