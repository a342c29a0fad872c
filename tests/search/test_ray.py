"""The same evaluations on a real Ray cluster of several processes on this machine: the same results, come what may."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import evaluations
import pytest
from planning import asked, workload

from twin.base import InputError
from twin.plan.plan import make_plan
from twin.search.executors import Lost, open_executor

STORE_BYTES = 80 * 2**20


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """Every node must have the module that is evaluated, as it has twin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(evaluations.__file__).parent))
        yield


@pytest.fixture(scope="module")
def cluster(importable: None) -> Iterator[str]:
    """The address of a head and two nodes of one worker each, each node with processes of its own."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'twin[ray]')")
    from ray.cluster_utils import Cluster

    node = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=node | {"num_cpus": 0})
    try:
        for _ in range(2):
            started.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        yield str(started.address)
    finally:
        started.shutdown()


def test_results_are_those_of_one_process(cluster: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given, heard = evaluations.shared(tmp_path), {}
    with open_executor("ray", evaluations.product, given, jobs=1, address=cluster) as executor:
        results = executor.map(range(12), heard.__setitem__)
        assert executor.map([]) == []
    assert results == [evaluations.product(given, item) for item in range(12)]
    assert heard == dict(enumerate(results))
    assert capfd.readouterr().out == ""


def test_every_node_works_and_unpacks_what_is_shared_once(cluster: str, tmp_path: Path) -> None:
    with open_executor("ray", evaluations.who, evaluations.shared(tmp_path), jobs=1, address=cluster) as executor:
        found = executor.map(range(40))
    pids = {pid for pid, _, _ in found}
    assert len(pids) >= 2
    assert os.getpid() not in pids
    assert len(set(found)) == len(pids)
    assert {threads for *_, threads in found} == {1}


def test_a_worker_killed_midway_changes_nothing(cluster: str, tmp_path: Path) -> None:
    def kill() -> None:
        os.kill(int(evaluations.wait_for(tmp_path / "pid-0")), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    given = evaluations.shared(tmp_path)
    with open_executor("ray", evaluations.pid_then_wait, given, jobs=1, address=cluster) as executor:
        results = executor.map(range(6))
    killer.join()
    assert results == [item * item for item in range(6)]
    assert evaluations.tries(tmp_path, 0) == 2


def test_an_evaluation_that_always_kills_its_worker_is_lost_alone(cluster: str, tmp_path: Path) -> None:
    given = evaluations.shared(tmp_path)
    with open_executor("ray", evaluations.dies_always, given, jobs=1, address=cluster) as executor:
        results = executor.map(range(6))
    assert isinstance(results[4], Lost)
    assert "died, 3 times" in results[4].reason
    assert [r for at, r in enumerate(results) if at != 4] == [item * item for item in range(6) if item != 4]
    assert evaluations.tries(tmp_path, 4) == 3


def test_what_an_evaluation_raises_is_raised_as_itself_the_first_in_order(cluster: str, tmp_path: Path) -> None:
    given = evaluations.shared(tmp_path)
    with open_executor("ray", evaluations.refuses, given, jobs=1, address=cluster) as executor:
        with pytest.raises(InputError) as raised:
            executor.map([0, 1, 3, 5, 2])
        assert executor.map([0, 1, 2]) == [0, 1, 2], "and it can be used again"
    assert type(raised.value) is InputError
    assert (raised.value.what, raised.value.where, raised.value.allowed) == ("3 is nonsense", "here", ["1"])


def test_a_cluster_that_runs_already_is_only_left(cluster: str, tmp_path: Path) -> None:
    for _ in range(2):
        with open_executor(
            "ray", evaluations.product, evaluations.shared(tmp_path), jobs=1, address=cluster
        ) as executor:
            assert len(executor.map([1])) == 1
    import ray

    assert not ray.is_initialized()


def test_without_an_address_workers_are_started_and_ended(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'twin[ray]')")
    with open_executor("ray", evaluations.who, evaluations.shared(tmp_path), jobs=2) as executor:
        pids = {pid for pid, _, _ in executor.map(range(20))}
    assert len(pids) == 2
    assert all(evaluations.gone(pid) for pid in pids)


def test_an_address_where_nothing_listens_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'twin[ray]')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert refused(tmp_path, address) == f"no Ray cluster answers at {address}: Connection refused"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_something_else_listens_is_one_sentence(tmp_path: Path, scheme: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'twin[ray]')")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        start = time.monotonic()
        said = refused(tmp_path, f"{scheme}127.0.0.1:{mute.getsockname()[1]}")
    assert time.monotonic() - start < 15
    assert "is not a Ray cluster" in said or "cannot be joined" in said
    assert "\n" not in said


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:ssh", "ray://head", "head:70000"])
def test_what_is_no_address_is_one_sentence(tmp_path: Path, address: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'twin[ray]')")
    assert "is not the address of a Ray cluster (allowed: host:port, ray://host:port)" in refused(tmp_path, address)


def test_ray_that_is_not_installed_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'twin[ray]'" in refused(tmp_path, "127.0.0.1:6379")


def refused(folder: Path, address: str) -> str:
    """What the user is told."""
    with (
        pytest.raises(InputError) as raised,
        open_executor("ray", evaluations.product, evaluations.shared(folder), jobs=1, address=address),
    ):
        pass
    return str(raised.value)


def test_a_whole_plan_is_the_same_on_the_cluster_with_a_worker_killed_midway(cluster: str) -> None:
    request = asked(workload(num_requests=400), "l40s", "h100_sxm")
    killed: list[int] = []

    def kill() -> None:
        end = time.monotonic() + 60
        while not killed and time.monotonic() < end:
            killed.extend(pid for pid in working()[:1] if not os.kill(pid, signal.SIGKILL))
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    remote = make_plan(replace(request, executor="ray", ray_address=cluster))
    killer.join()
    assert killed
    assert json.dumps(remote) == json.dumps(make_plan(request))


def working() -> list[int]:
    """Workers of Ray in the middle of an evaluation: that is how they name themselves."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                title = (folder / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            if title.startswith(b"ray::") and b"IDLE" not in title:
                found.append(int(folder.name))
    return found
