"""Code that the benchmarks share. As a command, it writes a page with all results:

    python benchmarks/common.py --table DIR [--to docs/results/benchmarks.md]

DIR is the folder that the benchmarks wrote their JSON files to (``--output DIR``).
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from textwrap import fill

import numpy as np
import torch

from helpers.config import InputError, Settings, from_parameters
from helpers.data.bioasq import read_json
from helpers.data.layout import ready_tests
from helpers.data.mini import DATA
from helpers.data.squad import Example, read_squad
from helpers.fetch.fetch import fetch
from helpers.io import write_json, write_text
from helpers.model import checkpoints
from helpers.model.compute import Compute, bf16_instructions
from helpers.model.decoding import Reader
from helpers.model.encoder import EncoderConfig, SpanModel
from helpers.model.features import Windows
from helpers.run import provenance
from helpers.run.stages import convert_run, find_run_files

# The lowest acceptable figures for CPUs with (AVX-512, AVX2), measured in float32 with a model of
# 6 x 384 on the snippets of BioASQ 7b. Floors below 1 are shares of the matmul peak, and the others
# are speedups.
FLOORS: dict[tuple[str, str], tuple[float, float]] = {
    ("training_step", "speedup over run_qa"): (8.0, 6.5),
    ("training_step", "speedup over transformers at its best"): (2.0, 2.0),
    ("training_step", "share of the matmul peak"): (0.72, 0.68),
    ("training_step", "speedup of bf16 over float32"): (2.0, 2.0),
    ("prediction", "speedup over run_qa"): (10.0, 8.0),
    ("prediction", "speedup over transformers at its best"): (2.0, 2.0),
    ("prediction", "share of the matmul peak"): (0.80, 0.76),
    ("prediction", "speedup of bf16 over float32"): (2.5, 2.5),
    ("features", "speedup over datasets.map, training"): (4.5, 4.5),
    ("features", "speedup over datasets.map, prediction"): (4.5, 4.5),
    ("nbest", "speedup over run_qa"): (8.0, 8.0),
}
_COLUMNS = {"AVX512": 0, "AVX2": 1}  # PyTorch's names for the instructions
ORDER = ("training_step", "prediction", "features", "nbest", "load_checkpoint",
         "conversion_speed", "cost_growth", "predict_shards", "sweep_overhead")  # fmt: skip
COMPUTE = {name: Compute("cpu", name) for name in ("32", "bf16")}
NO_BF16 = "bf16 is omitted because this CPU has no bf16 instructions"
DARK, LIGHT = "#1f3b57", "#d3dfe9"


# ---- options and data


def options(
    file: str,
    doc: str,
    *,
    rounds: int = 3,
    pairs: int = 0,
    model: bool = False,
    contexts: bool = False,
    bioasq_dir: bool = True,
) -> argparse.ArgumentParser:
    """Return a parser with the options that the benchmarks share.

    rounds, pairs: default values; if ``pairs`` is 0, the option --pairs is not added.
    model, contexts, bioasq_dir: whether to add the options --size, --context and --bioasq-dir.
    """
    parser = argparse.ArgumentParser(
        Path(file).name, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=_positive, default=rounds, metavar="N",
        help=f"number of rounds; each round runs all methods (default: {rounds})")  # fmt: skip
    if bioasq_dir:
        add("--bioasq-dir", metavar="DIR", default=os.environ.get("BIOASQ_DIR", ""), help="folder "
            "with your BioASQ files (default: $BIOASQ_DIR or BioASQ-mini)")  # fmt: skip
    add("--output", metavar="DIR", type=Path, help="write a JSON file and a plot to this folder")
    if pairs:
        add("--pairs", type=_positive, default=pairs, metavar="N",
            help=f"number of question-context pairs (default: {pairs})")  # fmt: skip
    if model:
        add("--size", type=size, metavar="LxH",
            help="layers and hidden size of a BERT with random weights, for example 24x1024 "
            "(default: MiniLM, 6x384)")  # fmt: skip
    if contexts:
        add("--context", choices=("snippet", "abstract"), default="snippet",
            help="what the model reads (default: snippet)")  # fmt: skip
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def size(text: str) -> tuple[int, int]:
    """Parse a size such as 24x1024 into the number of layers and the hidden size."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or int(found[2]) % 64 or not int(found[1]) or not int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 24x1024 (H: multiple of 64)")
    return int(found[1]), int(found[2])


def call(run: Callable, parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Parse the command line and run a benchmark; return 2 if the input is invalid, else 0."""
    parsed = parser.parse_args(argv)
    parsed.command = _command(parser, parsed)
    parsed.load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    try:
        run(parsed)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


def _command(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> str:
    """Return the command line for the report, without the paths of this machine."""
    words = [f"python benchmarks/{parser.prog}"]
    for action in parser._actions:
        value = getattr(parsed, action.dest, None)
        if action.dest == "bioasq_dir" and value:
            words.append("--bioasq-dir DIR")
        elif value not in (None, "", action.default) and action.dest not in ("output", "help"):
            shown = "x".join(map(str, value)) if isinstance(value, tuple) else value
            words.append(f"{action.option_strings[0]} {shown}")
    return " ".join(words)


@dataclass(frozen=True)
class Data:
    """Training rows (one span each) and pairs to predict. ``name`` is, for example, "BioASQ 7b"."""

    name: str
    context: str
    train: Sequence[Example]
    test: Sequence[Example]

    def describe(self) -> str:
        return f"{self.name}, {self.context}s"


def read_data(parsed: argparse.Namespace) -> Data:
    """Read the user's BioASQ files, or BioASQ-mini if there are none.

    Test files in SQuAD format with full abstracts are used unchanged. A folder with such files may
    have no training file with full abstracts, so the test pairs also serve as training rows. They
    have no spans, but a training step on them takes the same time.
    """
    context = getattr(parsed, "context", "snippet")
    folder = Path(parsed.bioasq_dir).expanduser() if parsed.bioasq_dir else DATA
    ready = ready_tests(folder, context) if context == "abstract" else []
    if ready:
        test = [row for path in ready for row in read_squad(path)]
        edition = re.search(r"\d+b", ready[0].name)
        return Data(f"BioASQ {edition[0]}" if edition else "BioASQ", context, test, test)
    settings = from_parameters("mini", bioasq_dir=parsed.bioasq_dir or None, context=context,
                               dev_fraction=0.0)  # fmt: skip
    converted = convert_run(find_run_files(settings), settings)
    test = [row for batch in converted.batches for row in batch.examples]
    edition = converted.files.batches[0].rstrip("0123456789").lower()
    name = "BioASQ-mini" if folder == DATA else f"BioASQ {edition}"
    return Data(name, context, converted.train, test)


def sample(rows: Sequence[Example], count: int) -> list[Example]:
    """Return up to ``count`` random rows, which are the same in every call."""
    chosen = np.random.default_rng(0).permutation(len(rows))[:count]
    return [rows[i] for i in chosen]


def load_reader(size: tuple[int, int] | None = None) -> Reader:
    """Load MiniLM with a random span head, or create a BERT with MiniLM's vocabulary."""
    settings = Settings(device="cpu")
    reader = checkpoints.load(fetch("minilm").folder, settings)
    if size:
        layers, hidden = size
        config = EncoderConfig(
            vocab_size=reader.model.config.vocab_size, layers=layers, hidden=hidden,
            heads=hidden // 64, feed_forward=4 * hidden, norm_first=False, epsilon=1e-12,
        )  # fmt: skip
        torch.manual_seed(0)
        model = SpanModel(config).eval()
        reader = Reader(model, reader.vocab, settings, True, tokenizer=reader.tokenizer)
    return reader


# ---- timing


@dataclass(frozen=True)
class Method:
    """One way to do the work of a benchmark.

    run: does all the work. work: the number of units in one run (windows, pairs or files).
    flops: floating-point operations on useful tokens in one run; 0 if they are not counted.
    precision: the precision of the matrix products, "32" or "bf16".
    """

    name: str
    run: Callable[[], object]
    work: int
    flops: float = 0.0
    precision: str = "32"


def forward_flops(config: EncoderConfig, lengths: np.ndarray) -> float:
    """Return the floating-point operations of a forward pass over windows of these lengths.

    We count the linear layers, the span head and the two products of attention. A training step
    takes three times as many, because the gradients of the inputs and of the weights each take one
    more product.
    """
    h, f, lengths = config.hidden, config.feed_forward, np.asarray(lengths, float)
    per_token = config.layers * (8 * h * h + 4 * h * f) + 4 * h
    return float(per_token * lengths.sum() + 4 * config.layers * h * (lengths**2).sum())


def random_batches(windows: Windows, count: int) -> list[list[int]]:
    """Return random batches of ``count`` rows, which are the same in every call."""
    order = np.random.default_rng(0).permutation(len(windows)).tolist()
    return [order[low : low + count] for low in range(0, len(order), count)]


def about_padding(windows: Windows, batches: Sequence[Sequence[int]], count: int) -> str:
    """Describe the cost of padding: to 384, in random batches of ``count``, and in ``batches``."""
    lengths = windows.lengths
    tokens = lengths.sum()

    def factor(batches: Sequence[Sequence[int]]) -> float:
        return sum(len(rows) * lengths[rows].max() for rows in batches) / tokens

    return (
        f"{len(windows)} windows of {tokens / len(windows):.0f} tokens on average; padding "
        f"multiplies the tokens by {384 * len(windows) / tokens:.2f} if it extends to 384, by "
        f"{factor(random_batches(windows, count)):.2f} in random batches, and by "
        f"{factor(batches):.2f} in batches of windows of similar length"
    )


def matmul_peak(precision: str = "32", seconds: float = 0.4) -> float:
    """Measure the rate of the fastest matrix product in operations per second.

    We try a large square product and the shape of a feed-forward layer, which is sometimes faster.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for m, k, n in ((1536, 1536, 1536), (4096, 384, 1536)):
        one, two = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
        torch.mm(one, two)
        until = time.perf_counter() + seconds / 2
        while (started := time.perf_counter()) < until:
            torch.mm(one, two)
            best = max(best, 2 * m * k * n / (time.perf_counter() - started))
    return best


def time_rounds(methods: Sequence[Method], rounds: int) -> list[dict]:
    """Time all methods once per round, so that a change in the machine's load affects all of them.

    Return one row per method with its ``name``, ``work`` and ``precision`` and the ``seconds`` of
    each round. If the method has ``flops``, the row also contains the rate (``gflops``) and the
    ``share`` of the matmul peak in each round. The peak is measured in the same round and in the
    precision of the method.
    """
    rows = [{"name": m.name, "work": m.work, "precision": m.precision, "seconds": []}
            for m in methods]  # fmt: skip
    kinds = {m.precision for m in methods if m.flops}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        peaks = {kind: matmul_peak(kind) for kind in kinds}
        for method, row in zip(methods, rows, strict=True):
            started = time.perf_counter()
            method.run()
            row["seconds"].append(time.perf_counter() - started)
            if method.flops:
                rate = method.flops / row["seconds"][-1]
                row.setdefault("gflops", []).append(rate / 1e9)
                row.setdefault("share", []).append(rate / peaks[method.precision])
    return rows


def speedup(rows: Sequence[Mapping], slow: str, fast: str) -> list[float]:
    """Return the speedup of a method over a slower one per round; [] if one of them is missing."""
    found = {row["name"]: row for row in rows}
    if not {slow, fast} <= set(found):
        return []
    return [
        s / found[slow]["work"] / (f / found[fast]["work"])
        for s, f in zip(found[slow]["seconds"], found[fast]["seconds"], strict=True)
    ]


def peak_memory() -> int:
    """Return the peak memory of this process so far, in bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    raise InputError("this benchmark reads its memory use from /proc, so it runs only on Linux")


# ---- reports


def report(
    parsed: argparse.Namespace,
    *,
    unit: str,
    data: Data | str,
    rows: Sequence[Mapping],
    figures: Mapping[str, Sequence[float]],
    checks: Sequence[str] = (),
    notes: Sequence[str] = (),
    model: str = "MiniLM, 6 x 384",
) -> dict:
    """Print the result of a benchmark; with ``--output``, also write its JSON file and plot.

    unit: what ``work`` counts, in the singular.
    figures: maps each name to its values per round. A figure whose name starts with "share" is a
    share, and all others are factors. Figures without values are omitted.
    checks: what we compared before the timing, and the differences.
    model: the model that ran without --size; "" if no model ran.
    """
    name = Path(parsed.command.split()[1]).stem
    shape = getattr(parsed, "size", None)
    found = {
        "benchmark": name,
        "command": parsed.command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "load": parsed.load,  # mean load of the machine over the minute before the start
        "data": data if isinstance(data, str) else data.describe(),
        "model": "{} x {}".format(*shape) if shape else model,
        "rounds": parsed.rounds,
        "unit": unit,
        "rows": list(rows),
        "figures": [],
        "checks": list(checks),
        "notes": list(notes),
    }
    stated = found["data"] == "BioASQ 7b, snippets" and not shape
    column = _COLUMNS.get(found["machine"]["instructions"]) if stated else None
    for title, values in ((title, list(values)) for title, values in figures.items() if values):
        middle = statistics.median(values)
        limits = FLOORS.get((name, title))
        floor = limits[column] if limits and column is not None else None
        found["figures"].append({
            "name": title, "values": values, "median": middle, "min": min(values),
            "max": max(values), "floor": floor, "reached": None if floor is None
            else round(middle, 3) >= floor,
        })  # fmt: skip
    if not stated and any(key[0] == name for key in FLOORS):
        found["notes"].append("no floors: they apply only to MiniLM on the snippets of BioASQ 7b")
    print(f"\n{in_words(found)}")
    if parsed.output:
        path = write_json(parsed.output / f"{stem(parsed)}.json", found)
        plot(found).savefig(path.with_suffix(".png"), dpi=140)
        print(f"\nwritten to {path} and {path.with_suffix('.png').name}")
    return found


def stem(parsed: argparse.Namespace) -> str:
    """Return the name of the result files, which includes the size and the context if given."""
    name, *words = parsed.command.split()[1:]
    given = dict(pairwise(words))
    return "-".join([Path(name).stem, *(given[w] for w in ("--size", "--context") if w in given)])


def machine() -> dict:
    """Describe the hardware, the number of threads and the package versions."""
    found = provenance.describe()
    names = ("torch", "transformers", "tokenizers", "numpy")
    return {
        **{name: found["hardware"][name] for name in ("cpu", "cores", "memory_bytes")},
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16": bool(bf16_instructions()),
        "threads": torch.get_num_threads(),
        "commit": found["kit"]["commit"],
        "packages": {name: found["packages"][name] for name in names},
    }


def in_words(found: Mapping) -> str:
    """Format a result as Markdown: command, machine, rows, and figures with their floors."""
    m, unit = found["machine"], found["unit"]
    model = f"; {found['model']}" if found["model"] else ""
    bf16 = "with bf16 instructions" if m["bf16"] else "without bf16 instructions"
    lines = [
        f"`{found['command']}`, {found['date']}, commit {(m['commit'] or 'unknown')[:7]}: "
        f"{m['cpu']}, {m['cores']} cores, {m['threads']} threads, {m['instructions']} {bf16}, load "
        f"{found['load']} at the start; torch {m['packages']['torch']}, transformers "
        f"{m['packages']['transformers']}; {found['data']}{model}; {_rounds(found['rounds'])}.",
        "",
    ]
    shares = any("share" in row for row in found["rows"])
    memory = any("memory_gib" in row for row in found["rows"])
    heads = [found["benchmark"], f"{unit}s per second", f"milliseconds per {unit}"]
    heads += ["GFLOP/s on useful tokens", "share of the matmul peak in this precision"] * shares
    heads += ["peak memory (GiB)"] * memory
    lines += [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in found["rows"]:
        each = [1000 * seconds / row["work"] for seconds in row["seconds"]]
        cells = [row["name"], _number(1000 / statistics.median(each)), _spread(each)]
        if shares:
            cells.append(f"{statistics.median(row['gflops']):.0f}" if "gflops" in row else "")
            cells.append(_spread(row["share"], "%") if "share" in row else "")
        if memory:
            cells.append(f"{row['memory_gib']:.2f}" if "memory_gib" in row else "")
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for figure in found["figures"]:
        kind = "%" if figure["name"].startswith("share") else "x"
        lines.append(f"- {figure['name']}: {_spread(figure['values'], kind)}{_against(figure)}")
    lines += [f"- checked before timing: {check}" for check in found["checks"]]
    lines += [f"- {note}" for note in found["notes"]]
    return "\n".join(lines)


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds, medians [lowest, highest]"


def _against(figure: Mapping) -> str:
    if figure["floor"] is None:
        return ""
    kind = "%" if figure["name"].startswith("share") else "x"
    floor, median = (_number(figure[name], kind) for name in ("floor", "median"))
    return (
        f"; floor {floor}, measured {median}: {'reached' if figure['reached'] else 'NOT reached'}"
    )


def _number(value: float, kind: str = "") -> str:
    if kind == "%":
        return f"{100 * value:.0f}%"
    return f"{value:.3g}" if value < 10 else f"{value:,.1f}"


def _spread(values: Sequence[float], kind: str = "") -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    text = _number(middle, kind)
    return f"{text} [{_number(low, kind)}, {_number(high, kind)}]" if len(values) > 1 else text


def plot(found: Mapping):
    """Plot the speed of each method, with a bar for the median and a mark for each round."""
    from helpers.views.figures import new_figure

    rows, unit, m = found["rows"], found["unit"], found["machine"]
    what = ", ".join(filter(None, (found["data"], found["model"], m["cpu"])))
    title = f"{found['benchmark']}: {what}, {m['threads']} threads"
    figure, axes = new_figure(10, 1.2 + 0.55 * len(rows), title)
    places = range(len(rows))
    rates = [[row["work"] / seconds for seconds in row["seconds"]] for row in rows]
    medians = [statistics.median(values) for values in rates]
    bars = axes.barh(places, medians, color=LIGHT, edgecolor=DARK)
    for bar, row, place, values in zip(bars, rows, places, rates, strict=True):
        bar.set_hatch("//" if "ours" in row["name"] else "")
        axes.plot(values, [place] * len(values), "|", color="black", markersize=9)
    axes.bar_label(bars, [_number(value) for value in medians], padding=8)
    axes.set_yticks(places, [fill(row["name"], 42) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(f"{unit}s per second (bar: median, marks: rounds)")
    return figure


def table(folder: Path, beside: Path) -> str:
    """Return a Markdown page of all results in a folder, with links relative to ``beside``."""
    paths = {path.stem: path for path in sorted(folder.glob("*.json"))}
    found = [
        paths[stem]
        for name in ORDER
        for stem in sorted(paths, key=len)
        if stem == name or stem.startswith(f"{name}-")
    ]
    if not found:
        raise InputError(f"{folder}: contains no results; run a benchmark with --output {folder}")
    parts = ["# Benchmarks", "",
             "`python benchmarks/common.py --table DIR` wrote this page from the JSON files of the "
             "benchmarks.", "Each round runs all methods one after another, so a change in load "
             "affects all of them.", "The floors are only for comparison. No command fails if a "
             "figure is below its floor."]  # fmt: skip
    for path in found:
        parts += ["", f"## {path.stem}", "", in_words(read_json(path))]
        if (image := path.with_suffix(".png")).is_file():
            link = Path(os.path.relpath(image, beside)).as_posix()
            parts += ["", f"![Speed of each method in {path.stem}]({link})"]
    return "\n".join(parts) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, metavar="DIR", required=True,
                        help="folder with the JSON files of the benchmarks")  # fmt: skip
    parser.add_argument("--to", type=Path, metavar="FILE",
                        help="write the page to this file (default: print it)")  # fmt: skip
    parsed = parser.parse_args(argv)
    try:
        text = table(parsed.table, parsed.to.parent if parsed.to else parsed.table)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"written to {write_text(parsed.to, text)}" if parsed.to else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
