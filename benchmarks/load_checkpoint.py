"""Measure the time and memory for loading a checkpoint of BioMegatron's size with several methods.

    python benchmarks/load_checkpoint.py [--rounds 3] [--size 24x1024] [--output DIR]

The weights are random, in the 2021 format: two float16 files in torch's old pickle format. Each
method runs in a separate process. Every round runs all methods, so that a change in the machine's
load affects all of them. Memory is the peak memory of the process (VmHWM, Linux only) minus the
peak after the imports, in GiB. For comparison, a note states the size of the float32 weights.
Speedups are relative to the naive method, which builds the model and calls ``torch.load`` and
``load_state_dict``.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import common

from helpers.config import InputError

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
    reader = Reader(model.float(), vocab, Settings(device="cpu"))
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
    before, started = common.peak_memory(), time.perf_counter()
    if method == "naive":
        config = transformers.AutoConfig.from_pretrained(folder / "converted")
        model = theirs(config)
        state = torch.load(folder / "naive.pt", map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    elif method == "transformers":
        model = theirs.from_pretrained(folder / "converted")
    elif method == "pickles":
        model = checkpoints.load(folder / "megatron", Settings(qkv_order="0", device="cpu")).model
    else:
        model = checkpoints.load(folder / "converted", Settings(device="cpu")).model
    seconds, peak = time.perf_counter() - started, common.peak_memory() - before
    weights = sum(p.numel() for p in model.parameters()) * 4
    total = sum(p.double().sum().item() for p in model.parameters())
    result = {"seconds": seconds, "peak": peak, "weights": weights, "sum": total}
    print(json.dumps(result))


def run(parsed) -> None:
    if parsed.method:
        return load(parsed.method, parsed.folder)
    layers, hidden = parsed.size
    with tempfile.TemporaryDirectory() as scratch:
        print("writing the files …", file=sys.stderr, flush=True)
        make(Path(scratch), layers, hidden)
        runs: dict[str, list[dict]] = {method: [] for method in METHODS}
        for number in range(parsed.rounds):
            for method in METHODS:
                print(f"round {number + 1} of {parsed.rounds}: {method}", file=sys.stderr)
                command = [sys.executable, __file__, "--method", method, "--folder", scratch]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                runs[method].append(json.loads(done.stdout.splitlines()[-1]))
    sums = {round(run["sum"], 3) for found in runs.values() for run in found}
    if len(sums) != 1:
        raise InputError(f"the methods loaded different weights; their sums are {sums}")
    weights = runs["naive"][0]["weights"]
    rows = [
        {
            "name": text, "work": 1, "precision": "32",
            "seconds": [run["seconds"] for run in runs[method]],
            "memory_gib": statistics.median(run["peak"] for run in runs[method]) / GIB,
        }
        for method, text in METHODS.items()
    ]  # fmt: skip
    naive = METHODS["naive"]
    ours = {"two pickle files": METHODS["pickles"], "the converted folder": METHODS["mapped"]}
    common.report(
        parsed, unit="load", data="random weights", rows=rows,
        checks=["all methods loaded the same weights"],
        notes=[f"the float32 weights take {weights / GIB:.3f} GiB"],
        figures={f"speedup over naive, {name}": common.speedup(rows, naive, row)
                 for name, row in ours.items()},
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.options(__file__, __doc__, bioasq_dir=False)
    parser.add_argument("--size", type=common.size, default=(24, 1024), metavar="LxH",
                        help="layers and hidden size (default: 24x1024)")  # fmt: skip
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return common.call(run, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
