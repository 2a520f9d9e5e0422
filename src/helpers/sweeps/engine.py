"""Workers that compute the runs of a sweep, on this machine or on an existing Dask cluster.

A sweep only needs the interface of ``concurrent.futures.Executor``. Dask adds two things: it
restarts a task if its worker dies, and it can use the workers of a cluster.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

from helpers.config import InputError
from helpers.io import free_memory

_CONNECT_SECONDS = 20
_WATCH_SECONDS = 0.5
# By default, an idle scheduler and an idle worker use 14% of a core, because they wake up 50 times
# per second and a profiler samples the worker. A notebook that trains on all cores then waits for
# them. With these settings, they use 1.5% (measured on two cores).
_DASK = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
}


@dataclass(frozen=True)
class Share:
    """The resources that one worker may use.

    threads: number of CPU threads.
    memory: bytes that a worker's kernel and its processes may use together, 0 for no limit.
    gpus: the GPUs of this machine; each worker uses one of them.
    """

    threads: int
    memory: int = 0
    gpus: tuple[str, ...] = ()

    def choose_gpu(self) -> None:
        """Make only one GPU visible to this worker process and to the kernels that it starts."""
        if self.gpus:
            from distributed import get_worker

            # A worker that replaces a dead one has the same name, so it uses the same GPU.
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus[int(get_worker().name) % len(self.gpus)]

    @contextmanager
    def bounded(self) -> Iterator[list[str]]:
        """Kill the largest descendant process if all descendants together exceed ``memory``.

        Yields a list to which a message is added if that happens. The operating system's own
        limits would also count files that are only mapped into memory, such as weights.
        """
        said: list[str] = []
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_WATCH_SECONDS):
                sizes = {}
                for process in psutil.Process().children(recursive=True):
                    with suppress(psutil.Error):  # the process has just ended
                        sizes[process] = process.memory_info().rss
                if (used := sum(sizes.values())) > self.memory:
                    said.append(
                        f"used {used / 1e9:.1f} GB of memory, which is more than its share of "
                        f"{self.memory / 1e9:.1f} GB; run fewer at a time with --jobs, or set "
                        "accumulate=2"
                    )
                    with suppress(psutil.Error):
                        max(sizes, key=sizes.get).kill()
                    return

        thread = threading.Thread(target=watch, daemon=True)
        if self.memory:
            thread.start()
        try:
            yield said
        finally:
            over.set()
            if self.memory:
                thread.join()


@contextmanager
def workers(
    runs: int, memory: int, jobs: int = 0, scheduler: str = "", cores_each: int = 1
) -> Iterator[tuple[Executor, Share, int]]:
    """Yield an executor, the share of each worker, and the number of workers.

    runs: the number of runs; there are never more workers.
    memory: the bytes of free memory that each run needs.
    jobs: the number of workers; 0 derives it from the GPUs, or from the cores and free memory.
    scheduler: the address of a Dask scheduler, such as ``tcp://host:8786``, instead of workers on
        this machine. The cluster's workers need this clone with ``runs`` under the same path.
    cores_each: the minimum number of cores per worker if we choose the number of workers.

    Raises ``InputError`` if the scheduler does not answer or has no workers.
    """
    if scheduler:
        with _connect(scheduler) as (client, found):
            yield client.get_executor(), Share(0), found
        return
    import dask
    from distributed import Client, LocalCluster

    gpus = visible_gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    free = free_memory()
    count = max(1, min(runs, jobs or len(gpus) or min(cores // cores_each, free // memory)))
    share = Share(max(1, cores // count), free // count, gpus)
    threads = {name: str(share.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    before = dict(os.environ)  # Dask sets variables for its workers here but never unsets them
    with (
        _restored(before),
        dask.config.set(_DASK),
        LocalCluster(
            n_workers=count, threads_per_worker=1, memory_limit=0, env=threads, security=True,
            dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        yield client.get_executor(), share, count


@contextmanager
def _restored(environment: dict[str, str]) -> Iterator[None]:
    """Restore the environment variables after the block."""
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)


@contextmanager
def _connect(address: str):
    from distributed import Client

    try:
        client = Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise InputError(
            f"scheduler: {address} does not answer ({error}); start it with dask scheduler"
        ) from None
    with client:
        found = len(client.scheduler_info(n_workers=-1)["workers"])
        if not found:
            raise InputError(f"scheduler: {address} has no workers; start some with dask worker")
        yield client, found


def visible_gpus() -> tuple[str, ...]:
    """Return the numbers of this machine's NVIDIA GPUs, without importing torch."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(filter(None, chosen.split(",")))
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return tuple(listed.stdout.split())
    return ()
