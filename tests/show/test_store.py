"""Where traces lie, and what an upload becomes."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from twin.base import InputError, TwinError
from twin.show import store
from twin.traffic.readers import read_trace

TRACE = b"arrival_s,input_tokens,output_tokens\n0,10,5\n1,20,6\n3,30,7\n"


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("TWIN_TRACES", raising=False)


def test_an_upload_is_kept_once_under_its_own_name() -> None:
    path = store.keep_upload("mine.csv", io.BytesIO(TRACE))
    assert path.read_bytes() == TRACE
    assert path.parent.name == hashlib.sha256(TRACE).hexdigest()[:12]
    assert store.keep_upload("mine.csv", TRACE) == path
    assert store.trace_files()["mine.csv"] == path
    assert store.shown_name(path) == "mine.csv"
    assert [item.name for item in path.parent.parent.iterdir()] == [path.parent.name]


def test_two_contents_of_one_name_are_told_apart() -> None:
    first, second = store.keep_upload("mine.csv", TRACE), store.keep_upload("mine.csv", TRACE + b"4,1,1\n")
    names = {store.shown_name(path): path for path in (first, second)}
    assert set(names.values()) == {first, second}
    assert {store.trace_file(name) for name in names} == {first, second}


@pytest.mark.parametrize(
    "name", ["../../evil.csv", "a/b/evil.csv", "..\\evil.csv", "..", "", "x" * 500 + ".csv", "e\0.csv"]
)
def test_no_name_leaves_the_folder(name: str, tmp_path: Path) -> None:
    path = store.keep_upload(name, TRACE)
    assert path.parent.parent == tmp_path / "runs" / ".uploads"
    assert path.read_bytes() == TRACE
    assert {item for item in tmp_path.rglob("*") if item.is_file()} == {path}


def test_measurements_are_no_traffic() -> None:
    store.keep_upload("runs.csv", TRACE, "measurements")
    assert "runs.csv" not in store.trace_files()


def test_what_is_dropped_leaves_nothing(tmp_path: Path) -> None:
    store.drop_upload(store.keep_upload("mine.csv", TRACE))
    assert list((tmp_path / "runs" / ".uploads").iterdir()) == []


def test_an_upload_that_cannot_be_kept_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(TwinError, match=r"^mine\.csv: cannot keep the upload: "):
        store.keep_upload("mine.csv", TRACE)


def test_the_folder_of_traces_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    for name in ("a.csv", "b.jsonl.gz", "README.md", "c.tar.gz", "SHA256SUMS"):
        (folder / name).write_bytes(TRACE)
    monkeypatch.setenv("TWIN_TRACES", str(folder))
    given = [name for name, path in store.trace_files().items() if path.parent == folder]
    assert given == ["a.csv", "b.jsonl.gz"]


def test_an_unknown_name_has_its_nearest() -> None:
    with pytest.raises(InputError, match=r"did you mean 'chat\.yaml'"):
        store.trace_file("chatt.yaml")


def test_a_trace_is_read_as_the_command_line_does(tmp_path: Path) -> None:
    path = store.keep_upload("mine.csv", TRACE)
    assert store.trace_at(path).input_tokens.tolist() == read_trace(path).input_tokens.tolist()
    assert store.trace_at(path, 2.0).duration_s == 1.5
    assert len(store.trace_at(store.trace_file("chat.yaml"))) > 1000
