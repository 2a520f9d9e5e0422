"""Measure how the time and the memory of prediction grow with the number of windows.

    python benchmarks/cost_growth.py [--most 10000] [--bioasq-dir DIR] [--output DIR]

The sizes are 10, 100, 1,000 and so on up to --most. For each size, a separate process runs the
package's complete prediction: features, forward passes and n-best lists. We repeat the pairs in the
data and append a number to each context, so all texts are different. Memory is the peak memory of
the process minus its memory before the prediction, when the model and the examples are already
loaded. With MiniLM on two cores, 10,000 windows take about two minutes and 100,000 about twenty
minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice

import common
import numpy as np
import psutil

from helpers.data.squad import Example

SMALLEST = 10


def examples_of(pairs: Sequence[Example], count: int) -> list[Example]:
    """Return ``count`` pairs whose contexts all differ."""
    return [
        replace(pair, id=f"{number}_001", context=f"{pair.context} {number}")
        for number, pair in enumerate(islice(cycle(pairs), count))
    ]


def predict(parsed, count: int) -> dict:
    """Predict in this process; return the number of windows, the seconds and the memory in bytes.

    Before the measurement, a short prediction loads everything that is loaded only once.
    """
    reader = common.load_reader(parsed.size)
    pairs = sorted(common.read_data(parsed).test, key=lambda pair: len(pair.context))
    pairs = pairs[: len(pairs) * 9 // 10]  # nearly all of these have one window
    pairs = common.sample(pairs, len(pairs))
    reader.predict(pairs[:2], progress=False)
    examples = examples_of(pairs, count)
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    found = reader.predict(examples, progress=False)
    seconds = time.perf_counter() - started
    assert len(found) == count and all(found)
    return {"windows": count, "seconds": seconds, "memory": common.peak_memory() - before}


def in_own_process(argv: Sequence[str], count: int) -> dict:
    command = [sys.executable, __file__, *argv, "--only", str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def plot(found: dict, rows: Sequence[dict]):
    """Plot time and memory against the number of windows, with a line for proportional time."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    from helpers.views.figures import new_figure

    windows = np.array([row["work"] for row in rows])
    seconds = np.array([statistics.median(row["seconds"]) for row in rows])
    memory = np.array([row["memory_gib"] for row in rows])
    figure, (left, right) = new_figure(9.5, 3.8, "time", "peak memory of prediction")
    left.loglog(windows, seconds, "o-", color="black", label="measured")
    left.loglog(windows, seconds[-1] * windows / windows[-1], "--", color="gray",
                label="proportional to the number of windows")  # fmt: skip
    left.set_ylabel("seconds")
    left.legend(loc="upper left", frameon=False)
    right.semilogx(windows, memory, "s-", color="black")
    right.set_ylabel("GiB, excluding the model and its input")
    right.set_ylim(bottom=0)
    plain = FuncFormatter(lambda value, _: f"{value:,g}")
    for axis in (left.xaxis, left.yaxis, right.xaxis):
        axis.set_major_formatter(plain)
        axis.set_minor_locator(NullLocator())
    for axes in (left, right):
        axes.set_xlabel("number of windows")
    figure.suptitle(f"{found['data']}, {found['model']}, {found['machine']['cpu']}", fontsize=10)
    return figure


def run(parsed, argv: Sequence[str]) -> None:
    if parsed.only:
        print(json.dumps(predict(parsed, parsed.only)))
        return
    sizes = [SMALLEST]
    while sizes[-1] * 10 <= parsed.most:
        sizes.append(sizes[-1] * 10)
    rows = [{"name": f"{size:,} windows", "work": size, "precision": "32", "seconds": [],
             "memory_gib": 0.0} for size in sizes]  # fmt: skip
    for row in rows * parsed.rounds:
        one = in_own_process(argv, row["work"])
        print(f"{row['name']}: {one['seconds']:.1f} s, {one['memory'] / 2**20:.0f} MiB",
              file=sys.stderr, flush=True)  # fmt: skip
        row["seconds"].append(one["seconds"])
        row["memory_gib"] = max(row["memory_gib"], one["memory"] / 2**30)
    each = [statistics.median(row["seconds"]) / row["work"] for row in rows]
    notes = []
    if len(rows) > 1:
        added, grown = (rows[-1][name] - rows[-2][name] for name in ("work", "memory_gib"))
        notes.append(f"from {rows[-2]['name']} to {rows[-1]['name']}, the time per window changes "
                     f"by a factor of {each[-1] / each[-2]:.2f}, and the peak memory grows by "
                     f"{grown * 2**20 / added:.1f} KiB per window")  # fmt: skip
    found = common.report(parsed, unit="window", data=common.read_data(parsed), rows=rows,
                          figures={}, notes=notes)  # fmt: skip
    if parsed.output:
        plot(found, rows).savefig(parsed.output / f"{common.stem(parsed)}.png", dpi=140)


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = common.options(__file__, __doc__, rounds=1, model=True)
    parser.add_argument("--most", type=int, default=10_000, metavar="N",
                        help="largest number of windows (default: 10000)")  # fmt: skip
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    return common.call(lambda parsed: run(parsed, argv), parser, argv)


if __name__ == "__main__":
    sys.exit(main())
