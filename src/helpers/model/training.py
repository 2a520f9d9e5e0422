"""Fine-tuning with NeMo and Lightning: batch order, checkpoints, resuming and logging.

The random seed alone determines the batches of all epochs, and a resumed run continues with the
batch after its checkpoint. Dropout is seeded per step (see ``step``), so a resumed run ends with
the same weights as an uninterrupted one. ``batch_size`` is the number of windows per optimizer
step. It does not depend on how many devices share a batch or into how many parts each device splits
its share, so the recipe does not change with the hardware (see ``features.split_batch``). Every
file that a resumed run reads is written completely or not at all, so you can kill a training run at
any moment.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import math
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm

from helpers.config import InputError, Settings
from helpers.data.squad import Example
from helpers.io import free_memory, out_of_memory, progress_stream, write_json
from helpers.model import decoding, processes, tracking
from helpers.model.compute import LIGHTNING
from helpers.model.decoding import Reader
from helpers.model.features import Windows, gather, split_batch, training_batches
from helpers.model.memory import training_memory

PLAN = "plan.json"
LAST = "last.ckpt"
DEV = "dev_history.json"
_LESS_MEMORY = "raise accumulate, then set activation_checkpointing=true, then lower max_length"
_DECISIVE = ("seed", "epochs", "batch_size", "learning_rate", "warmup_fraction", "weight_decay",
             "dropout")  # fmt: skip


class Stopped(KeyboardInterrupt):
    """A request to stop training; its one-line message says how to continue."""

    def _render_traceback_(self) -> list[str]:  # IPython calls this instead of its own renderer
        return [f"Stopped: {self}"]


@dataclass(frozen=True)
class Trained:
    """A summary of a training run; ``seconds`` covers all parts of a resumed run.

    steps: total number of steps.
    before: number of steps taken by earlier calls; equal to ``steps`` if none were left.
    windows: number of training windows per epoch.
    history: (step, loss, learning rate, elapsed seconds) per step. The time excludes evaluations.
    dev: the dev scores during training (see ``step.DevCurve``); may be empty.
    """

    steps: int
    before: int
    windows: int
    seconds: float
    history: list[tuple[int, float, float, float]]
    dev: list[dict]


def fine_tune(
    reader: Reader,
    examples: Sequence[Example],
    folder: str | Path,
    *,
    dev: Sequence[Example] = (),
    resume: bool | None = False,
    progress: bool = True,
) -> Trained:
    """Fine-tune the reader's model in place on the spans of the examples; log to ``folder``.

    We log the scores on ``dev`` before training, after every ``evaluate_every`` epochs and after
    the last step. Evaluating changes neither the weights nor the random state, so the result is the
    same without it. With a tenth of the questions held out, evaluating at the default interval
    takes about an eighth of the training time.

    ``resume=True`` continues the run in ``folder``, which must have the same settings, seed, data
    and starting weights; ``False`` removes that run; ``None`` continues it if these match and
    otherwise removes it. Raise ``InputError`` if no example has a span, if the run to resume
    differs or has a damaged file, if there is not enough disk space or memory, or if the loss is
    not finite. Raise ``Stopped`` on Ctrl-C or SIGTERM. To continue after an interruption (even a
    killed process or a full disk), load the checkpoint again and pass ``resume=None`` or ``True``.
    """
    folder, settings = Path(folder), reader.settings
    examples = [example for example in examples if example.spans]
    if not examples:
        raise InputError(
            "nothing to train on: no example has an answer span (is this a test file?)"
        )
    if folder.resolve() in reader.trained_into:
        raise InputError(
            f"{folder}: this model was already trained into this folder, at least in part; load "
            "the checkpoint again before training (in a notebook, run the cell that loads it)"
        )
    with _one_line_errors(folder, settings):
        tracking.prepare(settings)
        windows = reader.windows(examples, training=True)
        batches = plan_batches(windows.lengths, settings)
        _check_memory(reader, batches, windows.lengths)
        plan = _plan(reader, windows)
        _prepare_folder(folder, plan, resume)
        reader.trained_into.add(folder.resolve())
        run = _fit_together if reader.compute.devices > 1 else _fit
        before, history = run(reader, windows, batches, folder, dev, progress)
        from helpers.model import step  # Lightning takes several seconds to import

        curve = step.read_dev_history(folder / DEV) if dev else []
    reader.model.eval()
    # Otherwise, the gradients and Adam's averages, three times the size of the model, stay in
    # memory: Lightning's trainer and the model refer to each other.
    reader.model.zero_grad(set_to_none=True)
    gc.collect()
    _note_origin(reader, plan, len(batches), len(windows))
    if progress and before == len(batches):
        said = f"{folder}: already trained with these settings; loaded the result"
        print(said, file=progress_stream())
    return Trained(len(batches), before, len(windows), history[-1][3], history, curve)


def fit(
    reader: Reader, windows: Windows, folder: Path, progress: bool, dev: Sequence[Example] = ()
) -> tuple[int, list]:
    """Do this process's share of a training run that ``fine_tune`` has prepared in ``folder``."""
    with _one_line_errors(folder, reader.settings):
        tracking.prepare(reader.settings)
        batches = plan_batches(windows.lengths, reader.settings)
        return _fit(reader, windows, batches, folder, dev, progress)


@contextmanager
def _one_line_errors(folder: Path, settings: Settings) -> Iterator[None]:
    """Convert the errors that can stop a training run to ``Stopped`` or ``InputError``."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C and SIGTERM into SystemExit
        raise Stopped(
            f"training stopped; to continue, load the checkpoint again and train into {folder} "
            "(in a notebook, run the cell that loads the checkpoint, then this one)"
        ) from None
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {error.strerror or error}; fix this (for example, free "
            "some disk space) and resume the training"
        ) from error
    except RuntimeError as error:  # torch raises it on GPUs and CPUs
        if not out_of_memory(error):
            raise
        raise InputError(
            f"batch_size: {settings.batch_size} windows need more memory than is free; "
            f"{_LESS_MEMORY}"
        ) from error


def plan_batches(lengths: np.ndarray, settings: Settings) -> list[list[int]]:
    """Return the batches of all epochs."""
    size, seed = settings.batch_size, settings.seed
    epochs = (training_batches(lengths, size, seed, epoch) for epoch in range(settings.epochs))
    return [batch for epoch in epochs for batch in epoch]


def evaluation_steps(steps: int, settings: Settings) -> list[int]:
    """Return the steps, from 0 to the last, after which to compute dev scores; may be empty."""
    if not settings.evaluate_every:
        return []
    apart = settings.evaluate_every * steps / settings.epochs
    return sorted({round(n * apart) for n in range(math.ceil(steps / apart))} | {steps})


class _Parts(Sampler):
    """This process's parts of all batches, starting at the trainer's current step.

    When Lightning resumes, it restores its step counter but restarts the sampler.
    """

    def __init__(self, batches: list[list[int]], lengths: np.ndarray, trainer):
        self.trainer, self.per_step = trainer, trainer.accumulate_grad_batches
        parts = self.per_step * trainer.world_size
        first = self.per_step * trainer.global_rank
        self.parts = [  # (rows, share of the batch's windows)
            part
            for batch in batches
            for part in split_batch(batch, lengths, parts)[first : first + self.per_step]
        ]

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[int]:
        yield from range(self.trainer.global_step * self.per_step, len(self.parts))


def _fit(
    reader: Reader, windows: Windows, batches: list[list[int]], folder: Path,
    dev: Sequence[Example], progress: bool,
) -> tuple[int, list]:  # fmt: skip
    """Train or continue training; return the number of earlier steps and the history."""
    import wandb

    trainer = make_trainer(reader)

    from helpers.model import qa_model, step  # NeMo takes several seconds to import

    qa_model.quiet_nemo()
    settings, steps, last = reader.settings, len(batches), folder / LAST
    with tempfile.TemporaryDirectory() as scratch:  # ``build`` writes the tokenizer there
        model = qa_model.build(
            reader.model, reader.tokenizer, Path(scratch), optim=optim_of(settings, steps),
            seed=settings.seed,
        )  # fmt: skip
    model.set_trainer(trainer)
    curve, when = None, evaluation_steps(steps, settings) if dev else ()
    if when:
        alone = replace(reader, compute=replace(reader.compute, devices=1))
        curve = step.DevCurve(folder / DEV, when, lambda: decoding.dev_scores(alone, dev))
    recorder = step.Recorder(folder / "history.csv", last, steps, progress, curve)
    trainer.callbacks.append(recorder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hides advice on data loader workers
            if trainer.is_global_zero:
                shown = {name: getattr(settings, name) for name in _DECISIVE}
                trainer.logger = tracking.make_logger(settings, folder, shown)
            fit_batches(trainer, model, reader, windows, batches, last if last.exists() else None)
    except step.LossNotFinite as error:  # the weights in the checkpoint may also be useless
        _clear(folder)
        shutil.rmtree(folder)
        rows = windows.pair[batches[error.step - 1]].tolist()
        place = folder.with_name(f"{folder.name}-not-finite.json")
        about = {"step": error.step, "seed": settings.seed, "training_rows": sorted(set(rows))}
        write_json(place, about)  # training again reaches the same step with the same batch
        raise InputError(f"{error}; {place} lists the training rows of this step") from None
    finally:
        recorder.close()
        wandb.finish()  # otherwise wandb logs the next training run as part of this one
    if trainer.global_step < steps:
        raise KeyboardInterrupt
    return recorder.before, recorder.rows


def optim_of(settings: Settings, steps: int) -> dict:
    """Return the parameters of the optimizer and schedule for a run with this many steps."""
    return {
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "warmup_steps": math.floor(settings.warmup_fraction * steps),
        "max_steps": steps,
    }


def fit_batches(
    trainer, module, reader: Reader, windows: Windows, batches: list[list[int]],
    checkpoint: Path | None = None,
) -> None:  # fmt: skip
    """Train ``module``, which wraps the reader's model, with one step per batch of windows.

    module: NeMo's model (``qa_model``), or ``step.SpanModule``, which does not use NeMo.
    checkpoint: the file to continue from.
    """
    settings = reader.settings
    reader.model.set_dropout(settings.dropout)
    reader.model.encoder.recompute = settings.activation_checkpointing
    if settings.compile:
        reader.model.compile_layers()
    reader.model.train()  # a loaded model is in evaluation mode, and Lightning does not change that
    parts = _Parts(batches, windows.lengths, trainer)
    loader = DataLoader(
        parts.parts, sampler=parts, batch_size=None, collate_fn=lambda part: gather(windows, *part)
    )
    try:
        trainer.fit(module, loader, ckpt_path=checkpoint and str(checkpoint))
    finally:
        reader.model.to(reader.compute.device)  # Lightning moves the model to the CPU at the end


def _fit_together(
    reader: Reader, windows: Windows, batches: list[list[int]], folder: Path,
    dev: Sequence[Example], progress: bool,
) -> tuple[int, list]:  # fmt: skip
    """Train with several processes, one per device; return the same values as ``_fit``."""
    from helpers.model import step

    history, steps = folder / "history.csv", len(batches)
    with tqdm(
        total=steps, desc="training", unit="step", disable=not progress, mininterval=2,
        file=progress_stream(),
    ) as bar:  # fmt: skip

        def show() -> None:
            if history.exists():
                bar.update(max(0, history.read_bytes().count(b"\n") - 1 - bar.n))

        first, *_ = processes.run("train", reader, windows, folder, show, dev)
    state = step.PlainCheckpoints().load_checkpoint(folder / LAST)["state_dict"]
    reader.model.load_state_dict({name.removeprefix("net."): t for name, t in state.items()})
    reader.model.set_dropout(reader.settings.dropout)
    return first["before"], step.read_history(history)


def make_trainer(reader: Reader):
    """Create a Lightning trainer without its own progress bar, checkpoints or messages."""
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import lightning.pytorch as pl
    from lightning.pytorch.strategies import DDPStrategy
    from lightning.pytorch.trainer import call

    from helpers.model import step

    call.exit = sys.exit  # on Ctrl-C, Lightning calls exit(1), which a Jupyter kernel lacks
    not_wanted = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
                  "use_distributed_sampler")  # fmt: skip
    compute, (kind, _, number) = reader.compute, reader.compute.device.partition(":")
    devices = [int(number)] if kind == "cuda" and compute.devices == 1 else compute.devices
    return pl.Trainer(
        accelerator={"cuda": "gpu"}.get(kind, kind),
        devices=devices,
        strategy=DDPStrategy() if compute.devices > 1 else "auto",
        precision=LIGHTNING[compute.precision],
        accumulate_grad_batches=reader.settings.accumulate,
        max_epochs=1,  # ``_Parts`` contains the parts of all epochs
        log_every_n_steps=1,
        plugins=[step.PlainCheckpoints()],
        **dict.fromkeys(not_wanted, False),
    )


def _check_memory(reader: Reader, batches: list[list[int]], lengths: np.ndarray) -> None:
    """Raise ``InputError`` if a batch almost certainly needs more memory than is free.

    We check only on a CPU, where the operating system would kill the process. On a GPU, PyTorch
    raises an error instead, which ``fine_tune`` reports. The estimate can be 15% too high, so we
    allow for this margin.
    """
    settings, compute = reader.settings, reader.compute
    if compute.device != "cpu":
        return
    found = [
        training_memory(
            reader.model.config,
            lengths[rows],
            precision=compute.precision,
            dropout=settings.dropout,
            activation_checkpointing=settings.activation_checkpointing,
            accumulate=settings.accumulate * compute.devices,
        )
        for rows in batches
    ]
    most = max(found, key=lambda memory: memory.total)
    need = compute.devices * most.total - most.weights  # this process already has its weights
    free = free_memory(swap=True)
    if 0.85 * need > free:
        raise InputError(
            f"batch_size: {settings.batch_size} windows of up to {lengths.max()} tokens need about "
            f"{need / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free; {_LESS_MEMORY}"
        )


def _plan(reader: Reader, windows: Windows) -> dict:
    """Describe everything that determines the result: settings, data, starting weights, devices."""
    data, start, compute = hashlib.sha256(), hashlib.sha256(), reader.compute
    for array in (windows.ids, windows.bounds, windows.start, windows.end):
        data.update(np.ascontiguousarray(array))
    # Hash the whole configuration except dropout, which is one of the settings.
    start.update(repr(replace(reader.model.config, dropout=0.0)).encode())
    for name, tensor in reader.model.state_dict().items():
        start.update(name.encode())
        start.update(tensor.cpu().numpy().ravel())
    return {
        **{name: getattr(reader.settings, name) for name in _DECISIVE},
        "data": data.hexdigest(),
        "checkpoint": start.hexdigest(),
        "qkv_order": reader.origin.get("qkv", {}).get("order", ""),
        "precision": "tf32" if compute.precision == "tf32" else LIGHTNING[compute.precision],
        "device": compute.device.partition(":")[0],
        "devices": compute.devices,
        "accumulate": reader.settings.accumulate,
    }


def _prepare_folder(folder: Path, plan: dict, resume: bool | None) -> None:
    """Keep or remove the contents of ``folder`` (or raise an error), then write the plan."""
    check_replaceable(folder)
    path = folder / PLAN
    changed = []
    if resume is not False and path.exists():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            old = {"device": "cpu", "accumulate": 1} | old  # missing from older plans
            changed = [name for name in plan if plan[name] != old.get(name)]
        except (ValueError, TypeError, RecursionError):
            raise InputError(
                f"{path}: damaged (not a JSON object); delete {folder} and train from scratch"
            ) from None
    if resume and changed:
        raise InputError(
            f"{folder}: cannot resume because {', '.join(changed)} changed; "
            "undo the change or train from scratch without --resume"
        )
    if (resume is False or changed) and folder.exists():
        _clear(folder)
    write_json(path, plan)


def check_replaceable(folder: Path) -> None:
    """Raise ``InputError`` if ``folder`` contains anything other than a training run."""
    if folder.exists() and not (folder / PLAN).is_file():
        if not folder.is_dir():
            raise InputError(f"{folder}: this is a file; specify a folder")
        # A training run that was killed at the very start leaves a partial plan.
        if any(not path.name.startswith(f".{PLAN}.") for path in folder.iterdir()):
            raise InputError(
                f"{folder}: contains files but no training run (no {PLAN}); "
                "move it elsewhere or choose another output"
            )


def _clear(folder: Path) -> None:
    """Remove the checkpoint first, then everything else except the plan.

    If the process is killed halfway, the folder still has its plan (without one, we would reject
    it) and never has a checkpoint without a history (which would look damaged).
    """
    for path in sorted(folder.iterdir(), key=lambda path: path.name != LAST):
        if path.name != PLAN:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _note_origin(reader: Reader, plan: dict, steps: int, windows: int) -> None:
    """Record in the reader's origin how its model was fine-tuned, and from which weights."""
    names = ("learning_rate", "seed", "epochs", "batch_size", "dropout", "data", "checkpoint")
    note = {"steps": steps, "windows": windows, **{name: plan[name] for name in names}}
    if earlier := reader.origin.get("fine_tuned"):  # such as the SQuAD step
        note["after"] = earlier
    reader.origin["fine_tuned"] = note
