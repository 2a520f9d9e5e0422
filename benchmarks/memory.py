"""Compare the predicted memory of training and prediction with the measured peak of a process.

    python benchmarks/memory.py [--json memory.json] [--quick]

Each case runs in a separate process. After a warm-up on a tiny model, which loads PyTorch's
libraries, the process builds the model. It then takes three training steps in Lightning's order
(forward pass, clearing the gradients, backward pass, optimizer) or predicts three times. The
measured memory is the peak resident memory of the process (VmHWM, Linux only) minus its resident
memory after the warm-up. Weights are random, and the vocabulary has 30,522 tokens.
"""

import argparse
import json
import subprocess
import sys
from itertools import product
from pathlib import Path

# layers, hidden size, heads, and the number of windows of each length
SIZES = {
    "4x128": (4, 128, 2, {70: 200, 200: 60, 384: 24}),
    "6x384": (6, 384, 12, {70: 48, 200: 16, 384: 8}),
    "12x768": (12, 768, 12, {70: 24, 200: 8, 384: 4}),
    "24x1024": (24, 1024, 16, {70: 4}),
}
COLUMNS = ("model", "task", "precision", "dropout", "checkpointing", "windows")


def measure(case: dict) -> dict:
    """Measure one case in this process; return ``measured`` and ``predicted`` bytes."""
    import psutil
    import torch

    from helpers.model.encoder import EncoderConfig
    from helpers.model.memory import prediction_memory, training_memory

    torch.set_num_threads(1)
    layers, hidden, heads, _ = SIZES[case["model"]]
    config = EncoderConfig(
        vocab_size=30522, hidden=hidden, layers=layers, heads=heads, feed_forward=4 * hidden,
        norm_first=layers == 24, dropout=case["dropout"],
    )  # fmt: skip
    tiny = EncoderConfig(
        vocab_size=9, hidden=32, layers=1, heads=2, feed_forward=64, dropout=case["dropout"]
    )
    _run(tiny, [4, 4], case)
    before = psutil.Process().memory_info().rss
    lengths = [case["length"]] * case["count"]
    _run(config, lengths, case)
    measured = _peak() - before
    if case["task"] == "predict":
        memory = prediction_memory(config, lengths, precision=case["precision"])
    else:
        memory = training_memory(
            config, lengths, precision=case["precision"], dropout=case["dropout"],
            activation_checkpointing=case["checkpointing"],
        )  # fmt: skip
    return {"measured": measured, "predicted": memory.total, "parts": vars(memory)}


def _run(config, lengths: list[int], case: dict) -> None:
    import torch

    from helpers.model.compute import Compute
    from helpers.model.encoder import SpanModel
    from helpers.model.features import Batch

    compute = Compute(precision=case["precision"])
    net = SpanModel(config).train(case["task"] == "train")
    net.encoder.recompute = case["checkpointing"]
    ids = torch.zeros(sum(lengths), dtype=torch.long)
    positions = torch.cat([torch.arange(n) for n in lengths])
    ends = torch.ones(len(lengths), dtype=torch.long)
    batch = Batch.pack(ids, ids, positions, tuple(lengths), ends, ends)
    if case["task"] == "predict":
        with compute.prediction(net):
            for _ in range(3):
                net(batch)
        return
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    for _ in range(3):
        with compute.autocast():
            loss = net(batch).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _peak() -> int:
    """Return the peak memory of this process in bytes.

    We do not use ``ru_maxrss``, because it starts at the size of the parent process.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark reads /proc, so it runs only on Linux")


def cases(quick: bool) -> list[dict]:
    """Return all cases, or, if ``quick``, only those of one window length per model."""
    found = []
    for number, (model, (*_, windows)) in enumerate(SIZES.items()):
        lengths = list(windows)
        chosen = [lengths[number % len(lengths)]] if quick else lengths
        train = product(["train"], ["32", "bf16"], [0.0, 0.1], [False, True], chosen)
        predict = product(["predict"], ["32", "bf16"], [0.0], [False], chosen)
        for task, precision, dropout, checkpointing, length in [*train, *predict]:
            found.append(
                {
                    "model": model, "task": task, "precision": precision, "dropout": dropout,
                    "checkpointing": checkpointing, "length": length, "count": windows[length],
                }
            )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    parser.add_argument("--quick", action="store_true", help="only one window length per model")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        return print(json.dumps(measure(json.loads(options.case))))
    from helpers.io import write_json
    from helpers.model.compute import bf16_instructions

    print("| " + " | ".join((*COLUMNS, "measured (MB)", "predicted (MB)", "error (%)")) + " |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    results = []
    for case in cases(options.quick):
        if case["precision"] == "bf16" and not bf16_instructions():
            continue
        command = [sys.executable, __file__, "--case", json.dumps(case)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result = {**case, **json.loads(done.stdout.splitlines()[-1])}
        results.append(result)
        error = 100 * (result["predicted"] / result["measured"] - 1)
        windows = f"{case['count']} × {case['length']}"
        cells = [*(result[name] for name in COLUMNS[:-1]), windows]
        sizes = (f"{result[name] / 1e6:.0f}" for name in ("measured", "predicted"))
        print("| " + " | ".join(map(str, [*cells, *sizes, f"{error:+.0f}"])) + " |", flush=True)
        if options.json:
            write_json(options.json, results)


if __name__ == "__main__":
    main()
