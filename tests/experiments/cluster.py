"""Two machines of a Ray cluster, simulated on this one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STORE = 80 * 2**20
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray then keeps to 127.0.0.1
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
}


@contextmanager
def two_machines() -> Iterator[Any]:
    """A head that works too, and a second machine, with one processor each; all is stopped at the end."""
    held = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ |= ENVIRONMENT
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster()
    try:
        add_machine(cluster, include_dashboard=False)
        add_machine(cluster)
        yield cluster
    finally:
        cluster.shutdown()
        for name, value in held.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def add_machine(cluster: Any, **options: Any) -> Any:
    """One more machine with one processor."""
    return cluster.add_node(num_cpus=1, object_store_memory=STORE, **options)
