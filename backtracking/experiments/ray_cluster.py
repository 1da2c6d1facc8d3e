"""The connection to a Ray cluster, or to Ray started on this machine alone."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from backtracking.core.errors import InputError

OBJECTS = 256 * 2**20
"""Bytes that Ray keeps of units on their way, where it is started here."""


@dataclass(frozen=True)
class Staff:
    """The workers of a cluster; None is what the cluster makes of it."""

    workers: int | None = None
    threads: int | None = None
    """Processor threads of each."""
    gpus: int = 0
    """Of each."""


def sized(staff: Staff, cluster: Sequence[dict[str, float]], *, may_grow: bool) -> Staff:
    """The workers that a cluster is to have, with every number decided.

    Args:
        staff: What was asked for. Without a number of workers there is one per GPUs that one needs, or one per
            machine; without threads each has those of this process, or an equal share of the cluster if that is less.
        cluster: Resources of each machine.
        may_grow: Machines may join later, so that not all workers need room now.

    Raises:
        InputError: There is no room for one worker, or for all where machines cannot join.
    """
    processors, gpus = sum(each.get("CPU", 0) for each in cluster), sum(each.get("GPU", 0) for each in cluster)
    workers = staff.workers or max(1, int(gpus // staff.gpus) if staff.gpus else len(cluster))
    most = min(torch.get_num_threads(), int(max((each.get("CPU", 0) for each in cluster), default=0)))
    threads = staff.threads or max(1, min(most, int(processors // workers)))
    room = sum(_fitting(each, threads, staff.gpus) for each in cluster)
    if not room or (room < workers and not may_grow):
        raise InputError(
            f"there is room for {room} workers of {threads} processors and {staff.gpus} GPUs, and {workers} are asked "
            "for; ask for fewer, or add machines"
        )
    return Staff(workers, threads, staff.gpus)


def _fitting(machine: dict[str, float], threads: int, gpus: int) -> int:
    """How many workers have room on a machine."""
    by_processors = int(machine.get("CPU", 0) // threads)
    return min(by_processors, int(machine.get("GPU", 0) // gpus)) if gpus else by_processors


def connect(address: str | None) -> list[dict[str, float]]:
    """Connect to a cluster; the resources of each of its machines.

    Raises:
        InputError: There is no cluster at that address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    import ray

    options: dict[str, Any] = {"address": address}
    if address is not None and address != "auto":
        _require_open(address)
    if address is None:
        options = {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        options["object_store_memory"] = OBJECTS
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, namespace="backtracking", **options)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise InputError(
            f"no Ray cluster at {address or 'this machine'} ({in_one_line(error)}); start one with `ray start --head`, "
            "or leave --address out"
        ) from error
    finally:
        if before is not None:  # Ray's own handler would end the run without a word
            signal.signal(signal.SIGTERM, before)
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _require_open(address: str) -> None:
    """Refuse an address at which nothing listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(
            f"{address!r} is no address of a cluster; use auto, or host:port, as `ray start --head` prints it"
        )
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"nothing answers at {address} ({in_one_line(error)}); start a cluster with `ray start --head`, or leave "
            "--address out"
        ) from error


def is_alive(machine: str) -> bool:
    """Whether a machine of the cluster is there, as far as the cluster knows by now."""
    import ray

    return any(node["NodeID"] == machine and node["Alive"] for node in ray.nodes())


def in_one_line(error: BaseException) -> str:
    """What went wrong, short enough for a log."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400] if not isinstance(error, InputError) else text
