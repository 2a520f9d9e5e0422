"""Real workers and real kernels: what becomes of them when a process is killed."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from helpers.config import InputError
from helpers.sweeps import engine

SWEEP = "name: s\nuntil: '00'\ngrid: {seed: [0, 1]}\n"
PATIENCE = 240  # seconds; on an idle machine, each step takes a tenth of this


@pytest.fixture(autouse=True)
def environment():
    """Restore the variables that Dask sets, which would slow down the tests that follow."""
    before = dict(os.environ)
    yield before
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def start(tmp_path):
    """Start a sweep of two runs of notebook 00 in its own process, one after the other."""
    (tmp_path / "s.yaml").write_text(SWEEP)
    started = []

    def run():
        command = [sys.executable, "-m", "helpers.batch", "sweep", "s.yaml", "--jobs", "1"]
        options = {"cwd": tmp_path, "stderr": subprocess.STDOUT, "start_new_session": True}
        with (tmp_path / "log.txt").open("ab") as log:
            started.append(subprocess.Popen(command, stdout=log, **options))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()


def kernel_of(process):
    """Wait for a kernel among the processes that a process started, and return it."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                if "ipykernel_launcher" in child.cmdline():
                    return child
            except psutil.Error:
                continue
        time.sleep(0.1)
    raise AssertionError("no kernel was started")


def wait_gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=30)
    return [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.fault("SIGKILL of a sweep's worker")
def test_the_loss_of_a_worker_costs_only_the_notebook_that_it_computed(start, tmp_path):
    process = start()
    kernel = kernel_of(process)
    worker = kernel.parent()
    assert worker.pid != process.pid
    worker.kill()
    assert wait_gone([kernel])  # it does not outlive the worker
    assert process.wait(PATIENCE) == 0
    runs = tmp_path / "runs" / "s"
    for label in ("seed-0", "seed-1"):
        assert (runs / label / "notebooks" / "00_start_here.ipynb").is_file()
        assert not (runs / label / "failure.txt").exists()
    assert (runs / "index.html").is_file()
    log = (tmp_path / "log.txt").read_text()
    assert "2 of 2 done, 0 failed" in log and "Traceback" not in log


@pytest.mark.fault("SIGKILL, SIGTERM or Ctrl-C of a sweep")
@pytest.mark.parametrize(
    "number",
    ["SIGKILL", *(pytest.param(n, marks=pytest.mark.long) for n in ("SIGINT", "SIGTERM"))],
)
def test_nothing_outlives_a_sweep_that_is_stopped(number, start, tmp_path):
    process = start()
    kernel_of(process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(getattr(signal, number))
    code = process.wait(PATIENCE)
    assert wait_gone(children)
    if number != "SIGKILL":
        assert code == 130
        log = (tmp_path / "log.txt").read_text()
        assert "run the same command again to continue" in log and "Traceback" not in log


def double(number):
    return 2 * number, os.environ.get("OMP_NUM_THREADS"), os.getpid()


def test_workers_are_processes_with_their_share_of_the_machine(monkeypatch, environment):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(engine, "visible_gpus", lambda: ())
    with engine.workers(3, memory=1, jobs=2) as (executor, share, count):
        found = [f.result() for f in [executor.submit(double, n) for n in range(4)]]
    assert [value for value, *_ in found] == [0, 2, 4, 6] and count == 2
    assert {threads for _, threads, _ in found} == {str(share.threads)}
    assert os.getpid() not in {pid for *_, pid in found}
    assert share.memory > 0 and share.threads >= 1
    assert "OMP_NUM_THREADS" not in os.environ  # a notebook that ran a sweep keeps its threads


def test_there_are_as_many_workers_as_runs_gpus_or_memory_allow(monkeypatch):
    import distributed

    asked = []

    class Cluster:
        def __init__(self, **options):
            asked.append(options["n_workers"])

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        get_executor = __enter__

    monkeypatch.setattr(distributed, "LocalCluster", Cluster)
    monkeypatch.setattr(distributed, "Client", lambda cluster: cluster)
    monkeypatch.setattr(engine.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(engine, "free_memory", lambda: 20_000)
    for gpus, runs, jobs, expected in [((), 9, 0, 5), ((), 3, 0, 3), ((), 9, 7, 7),
                                       (("0", "1"), 9, 0, 2)]:  # fmt: skip
        monkeypatch.setattr(engine, "visible_gpus", lambda gpus=gpus: gpus)
        with engine.workers(runs, memory=4000, jobs=jobs) as (_, share, count):
            assert count == expected == asked[-1]
        assert (share.memory, share.threads) == (20_000 // expected, max(1, 8 // expected))


@pytest.mark.fault("a worker that uses too much memory")
def test_a_process_that_uses_more_than_its_share_is_killed(monkeypatch):
    monkeypatch.setattr(engine, "_WATCH_SECONDS", 0.05)
    program = "import time; x = bytearray(400_000_000); time.sleep(60)"
    with (
        engine.Share(1, memory=200_000_000).bounded() as said,
        subprocess.Popen([sys.executable, "-c", program]) as child,
    ):
        assert child.wait(30) == -signal.SIGKILL
    assert len(said) == 1 and "more than its share of 0.2 GB" in said[0] and "--jobs" in said[0]
    with engine.Share(1, memory=10**12).bounded() as said:
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        time.sleep(0.2)
    assert said == []


def test_each_worker_has_a_gpu_of_its_own(monkeypatch):
    import distributed

    class Worker:
        name = 3

    monkeypatch.setattr(distributed, "get_worker", Worker)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert engine.visible_gpus() == ("0", "1")
    engine.Share(threads=1, gpus=("0", "1")).choose_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.fault("a scheduler that does not answer")
def test_a_scheduler_that_does_not_answer_is_one_line(monkeypatch):
    monkeypatch.setattr(engine, "_CONNECT_SECONDS", 0.5)
    with (
        pytest.raises(InputError, match="scheduler: tcp://127.0.0.1:9 does not answer"),
        engine.workers(1, memory=1, scheduler="tcp://127.0.0.1:9"),
    ):
        pass


def test_an_existing_dask_cluster_is_used_and_left_running():
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        with engine.workers(5, memory=1, scheduler=cluster.scheduler_address) as (run, share, n):
            assert run.submit(double, 4).result()[0] == 8
            assert (share, n) == (engine.Share(0), 1)
        with Client(cluster) as client:
            assert client.submit(double, 1).result()[0] == 2
        cluster.scale(0)
        until = time.monotonic() + 20
        while cluster.scheduler.workers and time.monotonic() < until:
            time.sleep(0.1)
        with (
            pytest.raises(InputError, match="has no workers"),
            engine.workers(1, memory=1, scheduler=cluster.scheduler_address),
        ):
            pass
