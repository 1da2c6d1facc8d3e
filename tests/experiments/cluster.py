"""Two machines of a Ray cluster, simulated on this one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STORE = 80 * 2**20


@contextmanager
def two_machines() -> Iterator[Any]:
    """A head that works too, and a second machine, with one processor each; all is stopped at the end."""
    held = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster()
    try:
        add_machine(cluster, include_dashboard=False)
        add_machine(cluster)
        yield cluster
    finally:
        cluster.shutdown()
        if held is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = held


def add_machine(cluster: Any, **options: Any) -> Any:
    """One more machine with one processor."""
    return cluster.add_node(num_cpus=1, object_store_memory=STORE, **options)
