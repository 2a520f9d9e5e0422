"""Run a sweep: start the runs that are ready, copy results that runs share, and report progress.

Only the run folders determine which runs are finished. Therefore, the same command continues a
sweep that was stopped or whose machine failed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from helpers.config import InputError
from helpers.sweeps import notebooks, plan
from helpers.sweeps.engine import Share
from helpers.sweeps.plan import CONVERSION, Planned, Sweep

_LOOK_SECONDS = 2  # time between two checks of the runs' progress


@dataclass
class Outcome:
    """How one run ended. ``state`` is "finished" or "failed"."""

    label: str
    state: str
    seconds: float = 0.0
    reason: str = ""


@dataclass
class _Progress:
    """The waiting runs, the runs in progress, and how far they have come."""

    sweep: Sweep
    executor: Executor
    share: Share
    count: int
    say: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)
    waiting: dict[str, Planned] = field(default_factory=dict)
    running: dict[Future, tuple[Planned, str]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)  # notebooks reported so far, per run


def run_sweep(
    sweep: Sweep, executor: Executor, share: Share, count: int, *,
    retry: bool = False, say: Callable[[str], None] = print,
) -> list[Outcome]:  # fmt: skip
    """Run all unfinished runs of a sweep; return how each run of the sweep ended.

    A run that failed before is only repeated if ``retry`` is true. If a run fails, the others
    continue. ``say`` is called with one line of text at a time.
    """
    progress = _Progress(sweep, executor, share, count, say)
    for run in sweep.runs:
        state = run.state(sweep.until)
        if state == "finished" or (state == "failed" and not retry):
            reason = run.failure() if state == "failed" else ""
            seconds = 0.0 if reason else sum(notebooks.seconds(run.settings).values())
            progress.outcomes[run.label] = Outcome(run.label, state, seconds, reason)
        else:
            run.forget_failure()
            progress.waiting[run.label] = run
    kept = len(progress.outcomes)
    say(f"{sweep.name}: {len(sweep.runs)} runs, {kept} of them done earlier; {count} at a time")
    _start_ready(progress)
    while progress.running:
        done, _ = wait(progress.running, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
        _report_notebooks(progress)
        for future in done:
            _finish(progress, future)
        _start_ready(progress)
    return [progress.outcomes[run.label] for run in sweep.runs]


def _start_ready(progress: _Progress) -> None:
    """Start the waiting runs that no longer depend on another run."""
    runs = {run.label: run for run in progress.sweep.runs}
    for label, run in list(progress.waiting.items()):
        donors = plan.donors(progress.sweep)[label]
        if any(_may_still_give(progress, runs[donor], until) for donor, until in donors):
            continue
        del progress.waiting[label]
        for donor, until in donors:
            if run.take_over(runs[donor], until):
                _line(progress, f"{label}: takes over {plan.PARTS[until]} of {donor}")
        progress.seen[label] = len(notebooks.seconds(run.settings))
        gives = any((label, CONVERSION) in of for of in plan.donors(progress.sweep).values())
        _submit(progress, run, CONVERSION if gives else progress.sweep.until)


def _may_still_give(progress: _Progress, donor: Planned, until: str) -> bool:
    """Return whether the donor may still finish the notebook ``until``."""
    reached = notebooks.seconds(donor.settings)  # called often, so it reads no large files
    return donor.label not in progress.outcomes and not any(n[:2] == until for n in reached)


def _submit(progress: _Progress, run: Planned, until: str) -> None:
    if progress.sweep.until:
        until = min(until, progress.sweep.until)
    arguments = (dict(run.parameters), until, progress.sweep.name, str(run.log), progress.share)
    progress.running[progress.executor.submit(execute, *arguments)] = (run, until)


def execute(parameters: Mapping, until: str, group: str, log: str, share: Share) -> str:
    """Execute the notebooks of one run in a worker; return "" or why the run failed.

    A run whose worker died continues here with the notebook that was interrupted.
    """
    share.choose_gpu()
    os.environ["WANDB_RUN_GROUP"] = group
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with (
        open(log, "a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file),
        share.bounded() as exceeded,
    ):  # fmt: skip
        try:
            notebooks.run(parameters, until=until)
        except InputError as error:
            return "".join(exceeded) or str(error)
        except Exception as error:  # a failed notebook, or a kernel that died
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[-500:]}"
            return "".join(exceeded) or reason
    return ""


def _finish(progress: _Progress, future: Future) -> None:
    run, until = progress.running.pop(future)
    try:
        reason = future.result()
    except Exception as error:  # the engine gave up, for example after several workers died
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[-500:]}"
    if not reason and until != progress.sweep.until:
        _submit(progress, run, progress.sweep.until)
        return
    outcome = Outcome(run.label, "failed" if reason else "finished", reason=reason)
    if reason:
        run.note_failure(reason)
    else:
        outcome.seconds = sum(notebooks.seconds(run.settings).values())
    progress.outcomes[run.label] = outcome
    _say_count(progress, f"{run.label}: {outcome.state}" + (f" ({reason})" if reason else ""))


def _say_count(progress: _Progress, what: str) -> None:
    states = [outcome.state for outcome in progress.outcomes.values()]
    left = len(progress.sweep.runs) - len(states)
    times = [outcome.seconds for outcome in progress.outcomes.values() if outcome.seconds]
    about = ""
    if left and times:
        minutes = sum(times) / len(times) * left / progress.count / 60
        about = f", about {max(1, round(minutes))} min left"
    done = f"{len(states)} of {len(progress.sweep.runs)} done, {states.count('failed')} failed"
    _line(progress, f"{what}; {done}{about}")


def _report_notebooks(progress: _Progress) -> None:
    """Report each notebook that a run has finished since the last check."""
    for run, _ in progress.running.values():
        times = notebooks.seconds(run.settings)
        first = progress.seen[run.label]
        for name in sorted(times)[first:]:
            _line(progress, f"{run.label}: {name} ({times[name]:.0f} s)")
        progress.seen[run.label] = max(first, len(times))


def _line(progress: _Progress, text: str) -> None:
    passed = int(time.monotonic() - progress.started)
    progress.say(f"{passed // 60:4d}:{passed % 60:02d}  {text}")
