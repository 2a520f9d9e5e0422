"""Measure the time and memory for loading a checkpoint of BioMegatron's size by several methods.

    python benchmarks/load_checkpoint.py [--rounds 3] [--layers 24 --hidden 1024]

The weights are random, in the 2021 format: two float16 files in torch's old pickle format. Each
method runs in a separate process. Every round runs all methods, so that a change in the machine's
load affects all of them. Memory is the peak memory of the process (VmHWM, Linux only) minus the
peak after the imports, in GiB and as a multiple of the float32 weights. Speedups are relative to
the naive method, which builds the model and calls ``torch.load`` and ``load_state_dict``.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GIB = 2**30
METHODS = {
    "naive": "naive: build transformers' model, torch.load, load_state_dict",
    "pickles": "ours, from the two float16 pickle files with a known row order",
    "mapped": "ours, from the converted folder, memory-mapped",
    "transformers": "transformers: from_pretrained on the converted folder",
}


def make(folder: Path, layers: int, hidden: int) -> None:
    """Write ``megatron/`` (2021 format), ``naive.pt`` (transformers' names) and ``converted/``."""
    import torch

    from helpers.config import Settings
    from helpers.model import checkpoints
    from helpers.model.decoding import Reader
    from helpers.model.encoder import EncoderConfig, SpanModel
    from helpers.model.weights import weight_names

    config = EncoderConfig(
        layers=layers, hidden=hidden, heads=hidden // 64, feed_forward=4 * hidden
    )
    torch.manual_seed(0)
    model = SpanModel(config).half()
    state = model.state_dict()
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(30517))]
    write_megatron(folder / "megatron", config, state, vocab)
    names = list(weight_names(config))
    naive = {}
    for name in names:
        parts = state[name.ours].chunk(len(name.transformers))
        naive |= {key: part.clone() for key, part in zip(name.transformers, parts, strict=True)}
    torch.save(naive, folder / "naive.pt", _use_new_zipfile_serialization=False)
    reader = Reader(model.float(), vocab, Settings())
    checkpoints.save_transformers(reader, folder / "converted")


def write_megatron(folder: Path, config, state: dict, vocab: list[str]) -> None:
    """Write the weights of a ``SpanModel`` in the format of 2021, with the rows in order 0."""
    import torch

    from helpers.model.weights import weight_names

    folder.mkdir(parents=True)
    names = list(weight_names(config))
    for file, part in (("MegatronBERT.pt", "encoder."), ("TokenClassifier.pt", "head.")):
        tensors = {n.megatron: state[n.ours] for n in names if n.ours.startswith(part)}
        torch.save(tensors, folder / file, _use_new_zipfile_serialization=False)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"num-attention-heads": config.heads}))


def load(method: str, folder: Path) -> None:
    """Load with one method; print the time, the memory excluding imports, and a checksum."""
    import torch
    import transformers

    from helpers.config import Settings
    from helpers.model import checkpoints

    transformers.logging.set_verbosity_error()
    theirs = transformers.MegatronBertForQuestionAnswering
    before, started = _peak(), time.perf_counter()
    if method == "naive":
        config = transformers.AutoConfig.from_pretrained(folder / "converted")
        model = theirs(config)
        state = torch.load(folder / "naive.pt", map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    elif method == "transformers":
        model = theirs.from_pretrained(folder / "converted")
    elif method == "pickles":
        model = checkpoints.load(folder / "megatron", Settings(qkv_order="0")).model
    else:
        model = checkpoints.load(folder / "converted", Settings()).model
    seconds, peak = time.perf_counter() - started, _peak() - before
    weights = sum(p.numel() for p in model.parameters()) * 4
    total = sum(p.double().sum().item() for p in model.parameters())
    result = {"seconds": seconds, "peak": peak, "weights": weights, "sum": total}
    print(json.dumps(result))


def _peak() -> int:
    """Return the peak memory of this process so far, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark reads /proc, so it runs only on Linux")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="number of rounds; the table gives medians (default: 3)",
    )
    parser.add_argument("--layers", type=int, default=24, help="number of layers (default: 24)")
    parser.add_argument("--hidden", type=int, default=1024, help="hidden size (default: 1024)")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method:
        return load(options.method, options.folder)
    with tempfile.TemporaryDirectory() as scratch:
        print("writing the files …", flush=True)
        make(Path(scratch), options.layers, options.hidden)
        runs: dict[str, list[dict]] = {method: [] for method in METHODS}
        for number in range(options.rounds):
            for method in METHODS:
                print(f"round {number + 1} of {options.rounds}: {method}", flush=True)
                command = [sys.executable, __file__, "--method", method, "--folder", scratch]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                runs[method].append(json.loads(done.stdout.splitlines()[-1]))
    sums = {round(run["sum"], 3) for found in runs.values() for run in found}
    if len(sums) != 1:
        raise SystemExit(f"the methods loaded different weights; their sums are {sums}")
    weights = runs["naive"][0]["weights"]
    print(f"\nfloat32 weights: {weights / GIB:.3f} GiB; medians of {options.rounds} rounds\n")
    print("| method | seconds | speedup over naive | peak memory (GiB) | peak memory / weights |")
    print("|---|---|---|---|---|")
    seconds = {
        method: statistics.median(run["seconds"] for run in runs[method]) for method in METHODS
    }
    for method, text in METHODS.items():
        peak = statistics.median(run["peak"] for run in runs[method])
        print(f"| {text} | {seconds[method]:.2f} | {seconds['naive'] / seconds[method]:.1f} "
              f"| {peak / GIB:.2f} | {peak / weights:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
