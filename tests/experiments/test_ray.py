"""A cluster of two machines, simulated on this one: what dies costs time, and nothing else."""

import pytest

from backtracking.core.errors import InputError
from backtracking.experiments.executors import Driver, Failed
from backtracking.experiments.ray_executor import RayExecutor
from backtracking.experiments.remote_store import RemoteStore
from tests.experiments.cluster import add_machine, two_machines
from tests.experiments.ray_jobs import Misbehaving, completions_of, unit_of

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def cluster():
    with two_machines() as held:
        yield held


@pytest.fixture
def log():
    return []


@pytest.fixture
def driver(tiny, log):
    return Driver(tiny, lambda event, **values: log.append((event, values)), lambda: None)


@pytest.mark.timeout(250)
def test_lost_workers_and_machines_cost_time_and_a_unit_that_always_fails_leaves_the_rest(
    cluster, driver, log, tmp_path
):
    (tries := tmp_path / "tries").mkdir()
    executor = RayExecutor(address=cluster.address, workers=2, store=RemoteStore(str(tmp_path / "store")))
    job = Misbehaving(tries, failing=(2,), killing=(3,), seconds=0.2)
    units = [unit_of(number) for number in range(10)]
    done, failed = {}, []
    try:
        for outcome in executor.run(units, job, driver):
            if isinstance(outcome, Failed):
                failed.append(outcome)
                continue
            done[outcome.unit.number] = outcome.completions
            if len(done) == 5:  # a machine is taken away, and another one comes
                cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
                add_machine(cluster)
    finally:
        executor.close()
    assert done == {number: completions_of(unit_of(number)) for number in range(10) if number != 2}
    assert [(each.unit.number, each.attempts) for each in failed] == [(2, 3)]
    assert failed[0].reason == "ValueError: unit 2 cannot be done"
    assert len(list(tries.glob("2-*"))) == 3
    lost = [values for event, values in log if event == "worker lost"]
    assert "arms-00003" in [values["unit"] for values in lost]


@pytest.mark.slow
@pytest.mark.timeout(250)
def test_what_no_worker_can_do_is_said_at_once(cluster, driver, tmp_path):
    unfit = RayExecutor(address=cluster.address, workers=1)
    with pytest.raises(InputError, match="worker-1: a worker's weights are not the driver's"):
        list(unfit.run([unit_of(0)], Misbehaving(tmp_path, unfit=True), driver))
    unfit.close()
    wide = RayExecutor(address=cluster.address, workers=1, threads=7)
    with pytest.raises(InputError, match="room for 0 workers of 7 processors"):
        list(wide.run([unit_of(0)], Misbehaving(tmp_path), driver))
    wide.close()
