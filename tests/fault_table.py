"""The table of faults: what the tests try to break, what is promised, and what happened.

A test states its fault with ``@pytest.mark.fault(name)``, and its name is one of ``PROMISED``. Each
case of such a test is one try. A test that tries several times says so with the fixture
``record_property("tries", number)``. pytest prints the table at the end (see ``conftest``).
"""

from collections.abc import Iterable, Mapping

PROMISED = {
    # kills and failures
    "SIGKILL or SIGTERM of a whole run": "same command, same scores; no half-written file",
    "SIGKILL of training": "same call, same weights",
    "SIGKILL of one of three training processes": "same call, same weights",
    "SIGTERM of training": "one line; same call continues",
    "Ctrl-C while a checkpoint is written": "same call continues",
    "SIGKILL of make seeds": "same command continues",
    "SIGKILL of a sweep's worker": "costs only its notebook",
    "SIGKILL, SIGTERM or Ctrl-C of a sweep": "no process is left",
    "SIGKILL of a worker in prediction": "every question is answered once",
    "a failure while several files are written": "all or none are replaced",
    "two processes at once": "each waits or is refused; nothing is lost",
    "a run of a sweep that fails": "the others continue",
    "submissions that crash or never end": "the others are graded",
    # resources, networks and clocks
    "full or read-only disk": "one line",
    "memory limit of the process": "one line",
    "too little memory in training": "one line with the settings that help",
    "too little memory in prediction": "continues with smaller batches",
    "a worker that uses too much memory": "that run fails in one line; the others continue",
    "dead kernel or too many open files": "one line",
    "a clock that is set back": "no effect but one pause",
    "no network": "one line",
    "a download that breaks off": "continues where it stopped",
    "a server that stalls": "continues where it stopped",
    "a scheduler that does not answer": "one line",
    # hostile or damaged files, and wrong numbers
    "damaged input files, made at random": "accepted, or one line",
    "damaged input files that once failed": "accepted, or one line",
    ".nemo files with links, bombs or paths outside": "refused",
    "tar files with long attributes": "refused",
    "absurd sizes in a configuration": "refused before memory is used",
    "JSON nested too deeply": "one line",
    "NUL, control characters or half characters in names": "one line",
    "HTML, formulas or invisible characters in texts": "shown as text",
    "a gold answer of 50,000 letters": "compared in a fraction of a second",
    "archives with paths outside": "refused",
    "archives with links or devices": "refused",
    "archives that unpack to absurd sizes": "refused before they fill the disk",
    "damaged archives": "one line with a remedy",
    "archives with random names (hypothesis)": "nothing is written outside",
    "damaged files in the cache": "replaced",
    "other bytes than at the first download": "refused",
    "keys and passwords in the environment": "never shown, stored or sent elsewhere",
    "a server's answer without an end": "given up",
    "a file of a run that was changed": "noticed by the next notebook",
    "a package that changes the numbers": "noticed by pinned logits and scores",
    "damaged model folders, with lying headers among them": "one line with a remedy",
    "weights that are not finite": "one line with a remedy",
    "damaged .nemo files": "one line with a remedy",
    "checkpoints that contain code": "refused; no code runs",
    "damaged files of a training, a flipped bit among them": "one line with a remedy",
    "a loss that is not finite": "stops; the step and its batch are saved",
    "damaged logs": "one line with a remedy",
}
COLUMNS = ("fault", "tries", "promised", "happened")


def rows(stats: Mapping[str, Iterable]) -> list[tuple[str, int, str, str]]:
    """Return the rows for pytest's ``stats``, which map an outcome to the reports of its tests."""
    tries, failed = {}, {}
    for outcome in ("passed", "failed", "error"):
        for report in stats.get(outcome, ()):
            found = dict(report.user_properties)
            if name := found.get("fault"):
                tries[name] = tries.get(name, 0) + found.get("tries", 1)
                failed.setdefault(name, [])
                if outcome != "passed" and report.nodeid not in failed[name]:
                    failed[name].append(report.nodeid)
    return [
        (name, tries[name], promised,
         f"FAILED: {', '.join(failed[name])}" if failed[name] else "as promised")
        for name, promised in PROMISED.items() if name in tries
    ]  # fmt: skip


def lines(found: list[tuple]) -> list[str]:
    """Return a table in Markdown."""
    cells = [COLUMNS, ("---",) * len(COLUMNS), *found]
    return ["| " + " | ".join(map(str, row)) + " |" for row in cells]
