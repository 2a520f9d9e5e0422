"""Check and measure the kit on a GPU: correctness, speed, memory and the model card's recipe.

    PYTHONPATH=src python benchmarks/gpu.py [--parts check,sync,speed] [--seconds 200]

check: compare logits, losses and gradients for every attention path and precision, and the losses
    of Lightning's loop, with those on the CPU in float32.
sync: list where a training step and a prediction make the CPU wait for the GPU.
speed: measure the time and memory of training and prediction, padded and unpadded, and compare them
    with transformers.
recipe: run step B of the model card's recipe and predict the five test batches, if time allows.
seeds: train and score the profile bioasq-cpu in float32 and bf16 with as many seeds as the time
    allows (up to 10), if --model and --bioasq-dir are given.
nemo: compare training with NeMo's model and without NeMo, if NeMo is installed.
compile: measure the speedup from torch.compile.

The models have random weights, except in the part seeds. Without --bioasq-dir, the texts are random
words, and their lengths are distributed as in BioASQ 7b. After each part, the script writes
gpu.json and gpu.log to the output folder. At the end, it also writes gpu.png if matplotlib is
installed. The exit status is 1 if a check or a part failed. The script needs torch 2.11 or later,
transformers, tokenizers, safetensors and Lightning. On a CPU, use small sizes, such as --layers 2
--hidden 64 --rows 24 --words 500 --tokens 512.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import lightning
import numpy as np
import torch
import transformers
from gpu_check import check, sync
from gpu_common import Run, free, is_cuda
from gpu_recipe import nemo, recipe
from gpu_seeds import seeds
from gpu_speed import compiled, speed

# The function of each part, and its share of the time.
PARTS = {"check": (check, 4), "sync": (sync, 1), "speed": (speed, 9), "recipe": (recipe, 8),
         "seeds": (seeds, 8), "nemo": (nemo, 2), "compile": (compiled, 5)}  # fmt: skip


def plot(found: dict, path: Path) -> bool:
    """Plot the tokens per second of the part "speed"; return False if this is impossible."""
    rows = found["parts"].get("speed", {}).get("rows")
    if not rows or importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    titles = list(dict.fromkeys((r["mode"], r["context"], r["batch"]) for r in rows))
    figure, axes = plt.subplots(len(titles), 1, figsize=(8, 2.2 * len(titles)), squeeze=False)
    for axis, title in zip(axes[:, 0], titles, strict=True):
        chosen = [r for r in rows if (r["mode"], r["context"], r["batch"]) == title][::-1]
        axis.barh([r["method"] for r in chosen], [r["tokens_per_second"] for r in chosen])
        axis.set_title("{}, {}s, {} windows".format(*title), fontsize=9)
        axis.set_xlabel("tokens per second (not counting padding)")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", default=",".join(PARTS), help="parts to run, separated by commas (default: all)")
    add("--seconds", type=float, default=200, help="total time for all parts (default: 200)")
    add("--device", default="cuda", help="device (default: cuda)")
    add("--output", type=Path, default=Path("runs/gpu"), help="folder for the results")
    add("--layers", type=int, default=24, help="layers of the large model (default: 24)")
    add("--hidden", type=int, default=1024, help="hidden size, a multiple of 64 (default: 1024)")
    add("--rows", type=int, default=4231, help="rows of synthetic training data (default: 4231)")
    add("--words", type=int, default=30_000, help="distinct words in these rows (default: 30000)")
    add("--tokens", type=int, default=16384, help="tokens of the large batch (default: 16384)")
    add("--bioasq-dir", default="", help="folder with your BioASQ files, for recipe and seeds")
    add("--model", type=Path, help="folder of a small encoder, such as minilm, for seeds")
    add("--vocab", type=Path, help="vocab.txt for --bioasq-dir (default: trained on the texts)")
    options = parser.parse_args(argv)
    options.parts = options.parts.split(",")
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"--parts: {part!r} is not one of {', '.join(PARTS)}")
    if options.hidden < 64 or options.hidden % 64:
        parser.error(f"--hidden: {options.hidden} is not a multiple of 64")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device: PyTorch finds no CUDA GPU; use --device cpu with small sizes")
    return options


def facts(run: Run) -> dict:
    """Describe the machine and the packages."""
    found = {"device": str(run.device), "cpu_cores": os.cpu_count(),
             "platform": platform.platform(), "python": platform.python_version(),
             "torch": torch.__version__,
             "transformers": transformers.__version__, "lightning": lightning.__version__,
             "numpy": np.__version__, "cuda": torch.version.cuda}  # fmt: skip
    if is_cuda(device := run.device):
        properties = torch.cuda.get_device_properties(device)
        capability = f"{properties.major}.{properties.minor}"
        found |= {"gpu": properties.name, "capability": capability,
                  "gpu_memory_gb": properties.total_memory / 1e9}  # fmt: skip
    return found


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    device = torch.device("cuda:0" if options.device == "cuda" else options.device)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "gpu.log").unlink(missing_ok=True)
    run = Run(options, device)
    names = ("layers", "hidden", "rows", "words", "tokens")
    sizes = {name: getattr(options, name) for name in names}
    run.found = {"facts": facts(run), "options": sizes | {"seconds": options.seconds}, "parts": {}}
    run.say(", ".join(f"{name} {value}" for name, value in run.found["facts"].items()))
    started = time.monotonic()
    for number, part in enumerate(options.parts):
        left = options.seconds - (time.monotonic() - started)
        share = PARTS[part][1] / sum(PARTS[name][1] for name in options.parts[number:])
        run.deadline = time.monotonic() + left * share
        run.say(f"\n== {part} (up to {max(0.0, left * share):.0f} s)")
        begun = time.monotonic()
        try:
            result = PARTS[part][0](run)
        except Exception as error:  # the other parts may still work
            run.failed += 1
            result = {"error": f"{type(error).__name__}: {error}"}
            run.say(traceback.format_exc())
        result["part_seconds"] = time.monotonic() - begun
        run.found["parts"][part] = result
        run.found["failed"] = run.failed
        run.write()
        free(device)
    if plot(run.found, options.output / "gpu.png"):
        run.say(f"plot: {options.output / 'gpu.png'}")
    run.say(f"\n{run.failed} failures; {time.monotonic() - started:.0f} s; see {options.output}")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
