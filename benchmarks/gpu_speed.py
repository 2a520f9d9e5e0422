"""The parts "speed" and "compile" of the GPU benchmark."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gpu_data
import numpy as np
import torch
from gpu_common import Run, attention, free, is_cuda, precision_of, synchronize

from helpers.config import from_parameters
from helpers.io import out_of_memory
from helpers.model import step
from helpers.model.decoding import compute_logits
from helpers.model.encoder import EncoderConfig, SpanModel
from helpers.model.features import Windows, gather, prediction_batches, training_batches
from helpers.model.memory import training_memory

_MATRIX = {"cuda": 8192, "cpu": 256}  # rows and columns
_ROUNDS, _ROUND_SECONDS = 3, 0.3
_STATE = 4  # weights, gradients and Adam's two moments, in multiples of the weights
_COMPILE_SECONDS = 15  # minimum time for compilation, which cannot be stopped
_PAIRS = 1200  # number of training rows in the batches
_TOKENS_ON_GPU = 32_768  # tokens per batch in prediction, as in ``compute_logits``


@dataclass
class Method:
    """One way to take a step.

    run: called with the rows of a batch.
    memory: maps the lengths of a batch to the GB that the kit's calculator predicts for a GPU.
    """

    name: str
    run: Callable[[list[int]], object]
    precision: str
    model: torch.nn.Module
    memory: Callable[[np.ndarray], float] | None = None


def forward_flops(config: EncoderConfig, lengths: np.ndarray) -> float:
    """Return the floating-point operations of a forward pass over windows of these lengths.

    We count the linear layers, the span head and the two products of attention. A training step
    takes three times as many, because of the gradients of the inputs and of the weights.
    """
    h, f, lengths = config.hidden, config.feed_forward, np.asarray(lengths, float)
    per_token = config.layers * (8 * h * h + 4 * h * f) + 4 * h
    return float(per_token * lengths.sum() + 4 * config.layers * h * (lengths**2).sum())


def matmul_peak(run: Run, precision: str, rounds: int = 10) -> float:
    """Return the median rate of a large matrix product in operations per second."""
    size = _MATRIX[run.device.type]
    dtype = {"bf16": torch.bfloat16, "16": torch.float16}.get(precision, torch.float32)
    a, b = (torch.randn(size, size, device=run.device, dtype=dtype) for _ in range(2))
    seconds = []
    with precision_of(run.compute(precision)):
        for _ in range(rounds + 3):
            synchronize(run.device)
            started = time.perf_counter()
            a @ b
            synchronize(run.device)
            seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds[3:])


def speed(run: Run) -> dict:
    """Measure training and prediction for two contexts and two batch sizes."""
    fast = run.fast()
    peaks = _peaks(run, dict.fromkeys(["32", *run.precisions()]))
    ours, theirs = _models(run)
    run.say("transformers runs BERT with SDPA, because its Megatron-BERT has only eager attention")
    nets = (ours, theirs)
    optimizers = {id(net): step.make_optimizer(net.parameters(), 1e-6, 0.0) for net in nets}
    rows: list[dict] = []
    for context in ("abstract", "snippet"):
        windows, sizes = _windows(run, ours, context)
        for size, batches in sizes.items():
            methods = _training_methods(run, ours, theirs, optimizers, windows)
            title = {"mode": "training", "context": context, "batch": size}
            rows += _measure(run, methods, windows, batches, peaks, title)
        part = windows.part(0, min(len(windows), 8 * size))
        title = {"mode": "prediction", "context": context, "batch": len(part)}
        methods = _prediction_methods(run, ours, theirs, part)
        rows += _measure(run, methods, part, [list(range(len(part)))], peaks, title)
    return {"peaks": peaks, "fast": fast, "rows": rows, "complete": run.left() > 0}


def _peaks(run: Run, precisions) -> dict[str, float]:
    peaks = {precision: matmul_peak(run, precision) for precision in precisions}
    for precision, peak in peaks.items():
        run.say(f"peak of a matrix product, {precision}: {peak / 1e12:.1f} TFLOP/s")
    return peaks


def _windows(run: Run, net: SpanModel, context: str) -> tuple[Windows, dict[int, list[list[int]]]]:
    """Return windows, and up to eight full batches of 12 windows and of the large size."""
    data = run.texts(context)
    reader = data.reader(net, from_parameters(), run.compute(run.fast()))
    windows = reader.windows(data.train[:_PAIRS], training=True)
    sizes = {}
    for size in (12, max(13, round(run.options.tokens / windows.lengths.mean()))):
        plan = training_batches(windows.lengths, size, 0, 0)
        sizes[size] = [rows for rows in plan if len(rows) == size][:8] or plan[:1]
    return windows, sizes


def _models(run: Run) -> tuple[SpanModel, torch.nn.Module]:
    """Return our BERT and transformers' BERT with the same weights, and compare their logits."""
    config = run.config(norm_first=False, epsilon=1e-12)
    ours = gpu_data.random_model(config, str(run.device))
    theirs = gpu_data.transformers_bert(ours).eval()
    batch = gpu_data.random_batch((23, 40, 71, 71), config.vocab_size).to(run.device)
    with torch.inference_mode():
        output = theirs(**gpu_data.padded_inputs(batch))
        logits = torch.stack([output.start_logits, output.end_logits], -1)[batch.mask]
        error = float((logits - ours(batch)).norm() / logits.norm())
    text = f"transformers' BERT with the same weights: logits differ by {error:.1e} (limit 1e-04)"
    run.verdict(error <= 1e-4, text)
    return ours, theirs


def _training_methods(run, ours, theirs, optimizers, windows) -> list[Method]:
    fast = run.fast()
    unpadded = run.compute(fast).attention()

    def own(path: str | None, precision: str, recompute: bool = False):
        compute = run.compute(precision)

        def take(rows: list[int]) -> None:
            ours.train()
            ours.encoder.recompute = recompute
            with precision_of(compute), attention(path):
                batch = gather(windows, rows).to(run.device)
                step.take_step(ours, batch, optimizers[id(ours)], compute)

        return take

    def memory(path: str, precision: str, recompute: bool = False):
        def predict(lengths: np.ndarray) -> float:
            options = {"path": path, "activation_checkpointing": recompute}
            return training_memory(ours.config, lengths, precision=precision, **options).total / 1e9

        return predict

    def peer(rows: list[int]) -> None:
        torch.backends.cuda.enable_cudnn_sdp(True)  # PyTorch's default, which the kit turns off
        theirs.train()
        with run.compute(fast).autocast():
            batch = gather(windows, rows).to(run.device)
            loss = theirs(**gpu_data.padded_inputs(batch, targets=True)).loss
        optimizers[id(theirs)].zero_grad()
        loss.backward()
        optimizers[id(theirs)].step()

    methods = [
        Method(f"unpadded, {fast}", own(None, fast), fast, ours, memory(unpadded, fast)),
        Method(f"padded, {fast}", own("padded", fast), fast, ours, memory("padded", fast)),
        Method(f"unpadded, {fast}, checkpointing", own(None, fast, True), fast, ours,
               memory(unpadded, fast, True)),
        Method(f"transformers, {fast}", peer, fast, theirs),
    ]  # fmt: skip
    full = [precision for precision in ("tf32", "32") if precision in run.precisions()]
    return methods + [
        Method(f"padded, {p}", own("padded", p), p, ours, memory("padded", p)) for p in full
    ]


def _prediction_methods(run, ours, theirs, windows) -> list[Method]:
    fast = run.fast()

    def own(path: str | None, precision: str):
        def predict(rows: list[int]) -> None:
            with precision_of(run.compute(precision)) as compute, attention(path):
                compute_logits(ours, windows, compute=compute)

        return predict

    def peer(rows: list[int]) -> None:
        torch.backends.cuda.enable_cudnn_sdp(True)
        theirs.eval()
        done = []
        with torch.inference_mode(), run.compute(fast).autocast():
            for batch in prediction_batches(windows.lengths, _TOKENS_ON_GPU):
                inputs = gpu_data.padded_inputs(gather(windows, batch).to(run.device))
                output = theirs(**inputs)
                done += [output.start_logits.flatten(), output.end_logits.flatten()]
            torch.cat(done).float().cpu()

    return [
        Method(f"unpadded, {fast}", own(None, fast), fast, ours),
        Method(f"padded, {fast}", own("padded", fast), fast, ours),
        Method(f"transformers, {fast}", peer, fast, theirs),
        Method("padded, 32", own("padded", "32"), "32", ours),
    ]


def _measure(run: Run, methods, windows, batches, peaks, title: dict) -> list[dict]:
    """Time the methods in interleaved rounds; return one row per method."""
    ready = []
    for method in methods:
        if run.left() <= 0:
            run.say("{mode}, {context}s, {batch} windows: no time left".format(**title))
            break
        row = {**title, "method": method.name, "precision": method.precision, "seconds": []}
        try:
            count, row["memory_gb"] = _warm_up(run, method, windows, batches, title["mode"])
            if is_cuda(run.device) and method.memory:
                largest = max((windows.lengths[rows] for rows in batches), key=np.sum)
                row["predicted_gb"] = method.memory(largest)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            run.say(f"{method.name}: out of memory")
            free(run.device)
            continue
        ready.append((method, row, count))
    # All methods run on the same batches, because the token counts of small batches vary a lot.
    count = min((count for *_, count in ready), default=0)
    chosen = [batches[i % len(batches)] for i in range(count)]
    for number in range(_ROUNDS):
        for method, row, _ in ready:
            if number == 0 or run.left() > 0:
                row["seconds"].append(_seconds(run, method, chosen) / len(chosen))
    for _, row, _ in ready:
        _finish(run, row, [windows.lengths[rows] for rows in chosen], peaks)
    return [row for _, row, _ in ready]


def _warm_up(
    run: Run, method: Method, windows: Windows, batches, mode: str
) -> tuple[int, float | None]:
    """Return the number of steps per round and the peak memory of this method alone in GB."""
    largest = max(batches, key=lambda rows: windows.lengths[rows].sum())
    for _ in range(2):
        method.run(largest)
    synchronize(run.device)
    if is_cuda(run.device):
        torch.cuda.reset_peak_memory_stats(run.device)
        before = torch.cuda.memory_allocated(run.device)
    seconds, memory = _seconds(run, method, [largest]), None
    if is_cuda(run.device):
        # Both models and their optimizers are in memory, but we count only those of this method.
        own = sum(p.nbytes for p in method.model.parameters())
        own *= _STATE if mode == "training" else 1
        memory = (own + torch.cuda.max_memory_allocated(run.device) - before) / 1e9
    if mode == "prediction":
        return 1, memory
    return max(2, min(len(batches), math.ceil(_ROUND_SECONDS / seconds))), memory


def _seconds(run: Run, method: Method, chosen: Sequence[list[int]]) -> float:
    synchronize(run.device)
    started = time.perf_counter()
    for rows in chosen:
        method.run(rows)
    synchronize(run.device)
    return time.perf_counter() - started


def _finish(run: Run, row: dict, lengths: Sequence[np.ndarray], peaks: dict) -> None:
    """Add the medians to a row and print it. ``lengths``: window lengths per batch."""
    factor = 3 if row["mode"] == "training" else 1
    flops = factor * sum(forward_flops(run.config(), part) for part in lengths) / len(lengths)
    tokens = sum(int(part.sum()) for part in lengths) / len(lengths)
    middle = statistics.median(row["seconds"])
    row |= {"tokens": tokens, "flops": flops, "median_ms": 1e3 * middle,
            "tokens_per_second": tokens / middle,
            "share_of_peak": flops / middle / peaks[row["precision"]]}  # fmt: skip
    memory = "" if row["memory_gb"] is None else f", {row['memory_gb']:.1f} GB"
    memory += f" (predicted: {row['predicted_gb']:.1f})" if "predicted_gb" in row else ""
    run.say(
        f"{row['mode']}, {row['context']}s, {row['batch']} windows, {tokens:,.0f} tokens, "
        f"{row['method']}: {row['median_ms']:.1f} ms, {row['tokens_per_second']:,.0f} tokens/s, "
        f"{row['share_of_peak']:.0%} of the {row['precision']} peak{memory}"
    )


def compiled(run: Run) -> dict:
    """Compare a training step with and without torch.compile."""
    net = gpu_data.random_model(run.config(), str(run.device))
    windows, sizes = _windows(run, net, "abstract")
    optimizers = {id(net): step.make_optimizer(net.parameters(), 1e-6, 0.0)}
    peaks, rows, seconds = _peaks(run, [run.fast()]), [], {}
    for name in ("eager", "compiled"):
        started = time.perf_counter()
        if name == "compiled" and run.left() < _COMPILE_SECONDS:
            run.say("no time left to compile; use --parts compile")
            break
        if name == "compiled":
            net.compile_layers()
        for size, batches in sizes.items():
            method = _training_methods(run, net, net, optimizers, windows)[0]
            method.name += f", {name}"
            title = {"mode": "training", "context": "abstract", "batch": size}
            rows += _measure(run, [method], windows, batches, peaks, title)
        seconds[name] = time.perf_counter() - started
        run.say(f"{name}: {seconds[name]:.1f} s in total, including compilation")
    return {"rows": rows, "seconds": seconds}
