"""The measurement log: what it refuses, how it goes on, and the tables made of it."""

import json
from pathlib import Path

import pytest

from calibrate.importers import read_decode, read_gemm, read_prefill
from calibrate.measure.log import FACTS, KEYS, Writer, read_log
from calibrate.measure.tables import summary, tables
from twin.base import InputError, TwinError

MACHINE = dict.fromkeys(FACTS, None) | {
    "schema_version": 1,
    "device": "cpu",
    "name": "a CPU",
    "torch": "2.13",
    "threads": 2,
    "num_sms": 2,
    "memory_bytes": 2**34,
    "l2_bytes": 2**25,
    "host_cpu": "a CPU",
    "date": "2026-11-21",
}
TIMED = {"seconds": 1e-3, "spread": 0.01, "repeats": 9}
POINTS = {
    "gemm": {"dtype": "bf16", "m": 4, "n": 64, "k": 32},
    "decode": {"kv": "bf16", "head_dim": 64, "num_heads": 8, "num_kv_heads": 2, "batch": 3, "context": 100},
    "prefill": {"kv": "bf16", "head_dim": 64, "num_heads": 8, "num_kv_heads": 2, "batch": 1, "chunk": 16, "context": 0},
    "elementwise": {"op": "rms_norm", "m": 4, "k": 64, "bytes_moved": 1024},
    "copy": {"direction": "device", "bytes_moved": 2**20},
    "all_reduce": {"num_gpus": 2, "message_bytes": 4096, "backend": "gloo"},
}
GEMM = {"family": "gemm", **POINTS["gemm"], **TIMED}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write(tmp_path / "a.jsonl", {"machine": MACHINE}, *({"family": f, **p, **TIMED} for f, p in POINTS.items()))


def test_every_family_is_read_and_becomes_a_table(log: Path) -> None:
    found = tables(read_log(log))
    assert set(found) == set(KEYS)
    for family, table in found.items():
        assert {*KEYS[family], "seconds", "spread", "repeats"} == set(table.columns)
        assert table.attrs["source"] == "a.jsonl: a CPU, torch 2.13, 2026-11-21"


def test_tables_have_the_columns_of_the_database(log: Path, database: Path) -> None:
    ours = tables(read_log(log))
    theirs = {"gemm": read_gemm(database, "h100_sxm"), "decode": read_decode(database, "h100_sxm")}
    theirs["prefill"] = read_prefill(database, "h100_sxm")
    for family, table in theirs.items():
        assert set(table.columns) <= set(ours[family].columns)


def test_the_summary_tells_the_best_rate(log: Path) -> None:
    rates = {row["family"]: row.get("best_flops_per_s", row.get("best_bytes_per_s")) for row in summary(read_log(log))}
    assert rates["gemm"] == pytest.approx(2 * 4 * 64 * 32 / 1e-3, rel=1e-2)
    assert rates["copy"] == pytest.approx(2**20 / 1e-3, rel=1e-2)
    assert rates["decode"] == pytest.approx(2 * 2 * 3 * 100 * 2 * 64 / 1e-3, rel=1e-2)
    assert rates["prefill"] == pytest.approx(4 * 16 * 8 * 8 * 64 / 1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seconds": float("nan")}, r"a\.jsonl:2: gemm: seconds is nan, not a positive number"),
        ({"seconds": 0}, "seconds is 0, not a positive number"),
        ({"seconds": None}, "seconds is None"),
        ({"seconds": True}, "seconds is True"),
        ({"m": -1}, "m is -1"),
        ({"m": 1.5}, "not a whole number"),
        ({"family": "gem"}, "unknown family 'gem'; did you mean 'gemm'"),
        ({"dtype": "fp16"}, "unknown dtype 'fp16'"),
    ],
)
def test_a_point_that_is_none_is_refused_with_its_line(change: dict[str, object], said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"machine": MACHINE}, GEMM | change)
    with pytest.raises(InputError, match=said):
        read_log(path)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([GEMM], "a.jsonl:1: a log of kernel timings begins with the facts of its machine"),
        ([], "empty"),
        ([{"machine": MACHINE}, {k: v for k, v in GEMM.items() if k != "k"}], "a.jsonl:2: gemm: 'k' is missing"),
        (
            [{"machine": MACHINE}, GEMM, {"machine": MACHINE | {"name": "another"}}],
            "a.jsonl:3: measurements of two machines",
        ),
        ([{"machine": {"name": "x"}}], "the machine's 'schema_version' is missing"),
        ([{"machine": MACHINE | {"schema_version": 2}}], "schema_version 2"),
        ([{"machine": MACHINE}, "nonsense\n", GEMM], "a.jsonl:2: not a line of JSON"),
        ([{"machine": MACHINE}, "[1]\n"], "a.jsonl:2: not a JSON object"),
    ],
)
def test_a_file_that_is_no_log_is_refused(rows: list[object], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read_log(write(tmp_path / "a.jsonl", *rows))


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: cannot read measurements: No such file"):
        read_log(tmp_path / "none.jsonl")


def test_a_torn_last_line_is_left_out_and_mended(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"machine": MACHINE}, GEMM, '{"family": "gemm", "m"')
    assert len(read_log(path).points) == 1
    writer = Writer(path, MACHINE | {"date": "2026-11-22"})
    writer.add([GEMM | {"m": 8}])
    writer.close()
    assert [point["m"] for point in read_log(path).points] == [4, 8]


def test_a_last_line_without_its_end_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"machine": MACHINE}, json.dumps(GEMM))
    Writer(path, MACHINE).close()
    assert len(read_log(path).points) == 1


def test_another_machine_cannot_go_on_and_nothing_is_written(log: Path) -> None:
    before = log.read_bytes()
    with pytest.raises(InputError, match=r"torch is '2\.13' and '2\.14'"):
        Writer(log, MACHINE | {"torch": "2.14"})
    assert log.read_bytes() == before


def test_what_is_no_time_is_never_written(log: Path) -> None:
    writer = Writer(log, MACHINE)
    before = log.read_bytes()
    with pytest.raises(InputError, match="not a positive number"):
        writer.add([GEMM | {"seconds": float("inf")}])
    writer.close()
    assert log.read_bytes() == before


def test_a_folder_that_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TwinError, match="cannot write"):
        Writer(tmp_path / "file" / "a.jsonl", MACHINE)
