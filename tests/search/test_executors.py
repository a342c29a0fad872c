"""Executors on this machine: the results of one process, in order, whatever happens to the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import evaluations
import pytest

from twin.base import InputError
from twin.search.executors import Lost, open_executor


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_results_come_in_order_and_done_hears_of_each(tmp_path: Path, jobs: int) -> None:
    given, heard = evaluations.shared(tmp_path), {}
    with open_executor("local", evaluations.product, given, jobs=jobs) as executor:
        results = executor.map(range(12), heard.__setitem__)
        again = executor.map([7])
    assert results == [evaluations.product(given, item) for item in range(12)]
    assert heard == dict(enumerate(results))
    assert again == results[7:8]


def test_workers_are_other_processes_with_one_thread_and_get_what_is_shared_once(tmp_path: Path) -> None:
    with open_executor("local", evaluations.who, evaluations.shared(tmp_path), jobs=2) as executor:
        found = executor.map(range(12))
        assert executor.map([]) == []
    assert len({pid for pid, _, _ in found}) == 2
    assert os.getpid() not in {pid for pid, _, _ in found}
    assert len(set(found)) == 2, "a worker unpacks what is shared once"
    assert {threads for *_, threads in found} == {1}
    assert all(evaluations.gone(pid) for pid, _, _ in found)


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_an_evaluation_raises_is_raised_as_itself_the_first_in_order(tmp_path: Path, jobs: int) -> None:
    with open_executor("local", evaluations.refuses, evaluations.shared(tmp_path), jobs=jobs) as executor:
        with pytest.raises(InputError) as raised:
            executor.map([0, 1, 2, 5, 3] if jobs == 1 else [0, 1, 3, 5, 2])
        assert executor.map([0, 1, 2]) == [0, 1, 2], "and it can be used again"
    first = 5 if jobs == 1 else 3
    assert (raised.value.what, raised.value.where, raised.value.allowed) == (f"{first} is nonsense", "here", ["1"])


def test_a_worker_that_dies_costs_its_evaluation_a_second_try(tmp_path: Path) -> None:
    with open_executor("local", evaluations.dies_once, evaluations.shared(tmp_path), jobs=2) as executor:
        assert executor.map(range(8)) == [item * item for item in range(8)]
    assert evaluations.tries(tmp_path, 4) == 2


def test_an_evaluation_that_always_kills_its_worker_is_lost_alone(tmp_path: Path) -> None:
    heard: dict[int, int] = {}
    with open_executor("local", evaluations.dies_always, evaluations.shared(tmp_path), jobs=2) as executor:
        results = executor.map(range(8), heard.__setitem__)
        assert executor.map([9, 10]) == [81, 100]
    assert isinstance(results[4], Lost)
    assert results[4].item == 4
    assert "died, 3 times" in results[4].reason
    assert [r for at, r in enumerate(results) if at != 4] == [item * item for item in range(8) if item != 4]
    assert 4 not in heard
    assert len(heard) == 7
    assert evaluations.tries(tmp_path, 4) == 3


def test_a_worker_killed_from_outside_changes_nothing(tmp_path: Path) -> None:
    def kill() -> None:
        os.kill(int(evaluations.wait_for(tmp_path / "pid-0")), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with open_executor("local", evaluations.pid_then_wait, evaluations.shared(tmp_path), jobs=2) as executor:
        assert executor.map(range(6)) == [item * item for item in range(6)]
    killer.join()
    assert evaluations.tries(tmp_path, 0) == 2


INTERRUPTED = """
import sys
sys.path.insert(0, {tests!r})
import evaluations, pathlib
from twin.search.executors import open_executor
with open_executor("local", evaluations.waits, evaluations.shared(pathlib.Path({folder!r})), jobs=2) as executor:
    try:
        executor.map([0, 1])
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_or_worse_leaves_no_process(tmp_path: Path, how: signal.Signals) -> None:
    code = INTERRUPTED.format(tests=str(Path(evaluations.__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    pids = [int(evaluations.wait_for(tmp_path / f"pid-{item}")) for item in (0, 1)]
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does: workers too
    else:
        process.kill()
    out, err = process.communicate(timeout=10)
    assert all(evaluations.gone(pid) for pid in pids)
    if how == signal.SIGINT:
        assert out == "interrupted\n"
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"name": "lokal", "jobs": 1}, "unknown executor 'lokal'; did you mean 'local'?"),
        ({"name": "local", "jobs": 0}, "at least 1"),
        ({"name": "local", "jobs": 2, "address": "127.0.0.1:1"}, "needs the executor 'ray'"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, asked: dict[str, object], said: str) -> None:
    given = evaluations.shared(tmp_path)
    with (
        pytest.raises(InputError, match=said.replace("?", r"\?")),
        open_executor(function=evaluations.product, shared=given, **asked),
    ):
        pass
