"""Jobs as tasks of a Ray cluster: the same as in processes, devices as resources, and a node that is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgespa.errors import ConfigError
from edgespa.workers import Job, cluster, open_workers

ray = pytest.importorskip("ray", reason="RAY ABSENT: pip install 'edgespa[ray]'; jobs on a cluster are not tested")

Jobs = Callable[..., Job]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def test_a_cluster_that_is_started_here(jobs: Jobs, tmp_path: Path) -> None:
    with open_workers(ray="local", devices=["board"]) as workers:
        assert workers.slots >= 1
        workers.submit(jobs("doubled", "n", number=21))
        workers.submit(jobs("failed", "own", how="own"))
        workers.submit(jobs("failed", "fault", how="fault"))
        for name in "ab":
            workers.submit(jobs("waited", name, "board", folder=str(tmp_path), label=name, seconds=0.3))
        with pytest.raises(ConfigError, match="no node of the cluster serves the device 'kitchen'") as unknown:
            workers.submit(jobs("doubled", device="kitchen", number=1))
        assert unknown.value.hint is not None
        assert "ray start --resources='{\"edgespa-device-kitchen\": 1}'" in unknown.value.hint
        found = {each.job.name: each for each in (workers.next() for _ in range(5))}
        with pytest.raises(LookupError, match="no job is running"):
            workers.next()
        assert found["n"].value["value"] == 42
        assert found["n"].value["threads"] == str(cluster.CORES)
        assert found["n"].where.startswith("node ")
        assert [text for _, text in found["n"].said] == ["this is 21"]
        own, fault = found["own"].failure, found["fault"].failure
        assert own is not None
        assert (own.message, own.hint, own.own) == ("it is not so", "make it so", True)
        assert fault is not None
        assert (fault.message, fault.own) == ("internal error: ZeroDivisionError: by nothing", False)
        times = sorted(
            (
                float((tmp_path / f"{name}.began.0").read_text().split()[0]),
                float((tmp_path / f"{name}.ended").read_text()),
            )
            for name in "ab"
        )
        assert times[1][0] >= times[0][1], "two were measured at once"
        # Ctrl-C: it is asked to end, and saves.
        workers.submit(jobs("waited", "long", folder=str(tmp_path), label="c", seconds=60))
        while not (tmp_path / "c.began.0").exists():
            time.sleep(0.05)
        (stopped,) = workers.stop()
        assert stopped.failure is not None
        assert stopped.failure.stopped
        assert (tmp_path / "c.saved").exists()
    assert not ray.is_initialized()


def test_another_version_on_a_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        def get_node_id(self) -> str:
            return "0123456789"

    monkeypatch.setattr(ray, "get_runtime_context", Context)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.1")
    where, answer = cluster._there("0.0.0", "edgespa.system.files:expanded", {})
    assert where == "node 01234567 at 10.0.0.1"
    assert "was asked for by 0.0.0" in answer["failure"]["message"]
    assert answer["value"] is None


def test_no_cluster_answers() -> None:
    with (
        pytest.raises(ConfigError, match="no Ray cluster answers at auto") as none,
        open_workers(ray="auto"),
    ):
        pass
    assert none.value.hint is not None
    assert "ray start --head" in none.value.hint


@pytest.fixture
def two_nodes(jobs: Jobs) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


def test_a_node_that_is_lost_loses_nothing(jobs: Jobs, two_nodes: Any, tmp_path: Path) -> None:
    second = two_nodes.add_node(num_cpus=1)
    two_nodes.wait_for_nodes()
    with open_workers(ray=two_nodes.address) as workers:
        assert workers.slots == 2
        names = [f"n{number}" for number in range(3)]
        for name in names:
            workers.submit(jobs("waited", name, folder=str(tmp_path), label=name, seconds=1.0))
        while len(list(tmp_path.glob("*.began.0"))) < 2:
            time.sleep(0.05)
        two_nodes.remove_node(second)
        found = [workers.next() for _ in names]
    assert sorted(each.value for each in found) == names
    assert all(each.failure is None for each in found)
    assert len({each.where for each in found}) == 1
    assert len(list(tmp_path.glob("*.began.1"))) == 1, "what ran on the lost node began once more"
