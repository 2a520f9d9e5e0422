"""Fine-tuning with NeMo and Lightning: batch order, checkpoints, resuming and logging.

The random seed alone determines the batches of all epochs, and a resumed run continues with the
batch after its checkpoint. Dropout is seeded per step (see ``qa_model``), so a resumed run ends
with the same weights as an uninterrupted one. Every file that a resumed run reads is written
completely or not at all, so you can kill a training run at any moment.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from helpers.config import InputError, Settings
from helpers.data.squad import Example
from helpers.io import free_memory, write_json
from helpers.model.decoding import Reader
from helpers.model.encoder import training_bytes
from helpers.model.features import Windows, gather, training_batches

PLAN = "plan.json"
LAST = "last.ckpt"
_PROJECT = "biomegatron-bioasq-kit"  # project name in wandb
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
    history: (step, loss, learning rate, elapsed seconds) per step.
    """

    steps: int
    before: int
    windows: int
    seconds: float
    history: list[tuple[int, float, float, float]]


def fine_tune(
    reader: Reader,
    examples: Sequence[Example],
    folder: str | Path,
    *,
    resume: bool | None = False,
    progress: bool = True,
) -> Trained:
    """Fine-tune the reader's model in place on the spans of the examples; log to ``folder``.

    ``resume=True`` continues the run in ``folder``, which must have the same settings, seed, data
    and starting weights; ``False`` removes that run; ``None`` continues it if these match and
    otherwise removes it. Raise ``InputError`` if no example has a span, if the run to resume
    differs or has a damaged file, if there is not enough disk space or memory, or if the loss is
    not finite. Raise ``Stopped`` on Ctrl-C or SIGTERM. After any of these, or if the process is
    killed, the same call continues the run.
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
    try:
        _prepare_wandb(settings)
        trainer = _trainer()
        windows = reader.windows(examples, training=True)
        batches = _Batches(windows.lengths, settings, trainer)
        _check_memory(reader, batches, windows.lengths)
        plan = _plan(reader, windows, trainer)
        _prepare_folder(folder, plan, resume)
        reader.trained_into.add(folder.resolve())
        before, history = _fit(reader, windows, batches, folder, progress)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C and SIGTERM into SystemExit
        raise Stopped(
            f"training stopped; to continue, load the checkpoint again and train into {folder} "
            "(in a notebook, run the cell that loads the checkpoint, then this one)"
        ) from None
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {error.strerror or error}; fix this (for example, free "
            "some disk space) and repeat the same call"
        ) from error
    except RuntimeError as error:  # torch raises it on GPUs and CPUs
        if "out of memory" not in str(error) and "t allocate memory" not in str(error):
            raise
        raise InputError(
            f"batch_size: {settings.batch_size} windows need more memory than is free; lower it"
        ) from error
    reader.model.eval()
    _note_origin(reader, plan, len(batches), len(windows))
    if progress and before == len(batches):
        print(f"{folder}: already trained with these settings; loaded the result", file=sys.stderr)
    return Trained(len(batches), before, len(windows), history[-1][3], history)


class _Batches:
    """The batches of all epochs for this process, starting at the trainer's current step.

    When Lightning resumes, it restores its step counter but restarts the sampler.
    """

    def __init__(self, lengths: np.ndarray, settings: Settings, trainer):
        self.trainer = trainer
        size, seed = settings.batch_size, settings.seed
        epochs = (training_batches(lengths, size, seed, epoch) for epoch in range(settings.epochs))
        batches = [batch for epoch in epochs for batch in epoch]
        # Processes take turns; we drop any remainder so that all take the same number of steps.
        world, rank = trainer.world_size, trainer.global_rank
        self.rows = batches[rank : len(batches) - len(batches) % world : world]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.rows[self.trainer.global_step :]


def _fit(reader: Reader, windows: Windows, batches: _Batches, folder: Path, progress: bool):
    """Train or continue training; return the number of earlier steps and the history."""
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    from helpers.model import qa_model

    settings, trainer, steps, last = reader.settings, batches.trainer, len(batches), folder / LAST
    optim = {
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "warmup_steps": math.floor(settings.warmup_fraction * steps),
        "max_steps": steps,
    }
    reader.model.set_dropout(settings.dropout)
    reader.model.train()  # a loaded model is in evaluation mode, and Lightning does not change that
    model = qa_model.build(reader.model, reader.tokenizer, folder, optim=optim, seed=settings.seed)
    model.set_trainer(trainer)
    recorder = qa_model.Recorder(folder / "history.csv", last, steps, progress)
    trainer.callbacks.append(recorder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hides advice on data loader workers
            if settings.wandb_mode != "disabled":
                name = f"{settings.profile}-{settings.run}-seed{settings.seed}"
                offline = settings.wandb_mode == "offline"
                trainer.logger = WandbLogger(name, folder, offline=offline, project=_PROJECT)
            collate = partial(gather, windows)
            loader = DataLoader(range(len(windows)), batch_sampler=batches, collate_fn=collate)
            trainer.fit(model, loader, ckpt_path=str(last) if last.exists() else None)
    except qa_model.LossNotFinite:  # the weights in the checkpoint may also be useless
        _clear(folder)
        shutil.rmtree(folder)
        raise
    finally:
        recorder.close()
        wandb.finish()  # otherwise wandb logs the next training run as part of this one
    if trainer.global_step < steps:
        raise KeyboardInterrupt
    return recorder.before, recorder.rows


def _trainer():
    """Create a Lightning trainer without its own progress bar, checkpoints or messages."""
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import lightning.pytorch as pl
    from lightning.pytorch.trainer import call

    from helpers.model import qa_model  # takes several seconds because it imports NeMo

    qa_model.quiet_nemo()
    call.exit = sys.exit  # on Ctrl-C, Lightning calls exit(1), which a Jupyter kernel lacks
    not_wanted = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
                  "use_distributed_sampler")  # fmt: skip
    return pl.Trainer(
        max_epochs=1,  # ``_Batches`` holds the batches of all epochs
        log_every_n_steps=1,
        plugins=[qa_model.PlainCheckpoints()],
        **dict.fromkeys(not_wanted, False),
    )


def _prepare_wandb(settings: Settings) -> None:
    """Keep wandb from printing and prompting; raise ``InputError`` if it needs an API key."""
    os.environ["WANDB_MODE"] = settings.wandb_mode
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    # We set up wandb before Lightning's logger would, to avoid a warning. Without an explicit mode,
    # wandb would keep the mode from an earlier training run in this process.
    host = wandb.setup(wandb.Settings(mode=settings.wandb_mode)).settings.base_url
    if settings.wandb_mode != "online":
        return
    from wandb.sdk.lib import wbauth  # no public function looks for a key without prompting

    try:
        found = wbauth.authenticate_session(
            host=host, source="fine_tune", prompt=False, update_session=False
        )
    except wandb.errors.AuthenticationError as error:
        raise InputError(f"wandb_mode=online: {error}; fix it or set wandb_mode=offline") from None
    if not found:
        raise InputError(
            f"wandb_mode=online: no API key for {host}; set WANDB_API_KEY, run wandb login or "
            "set wandb_mode=offline"
        )


def _check_memory(reader: Reader, batches: _Batches, lengths: np.ndarray) -> None:
    """Raise ``InputError`` if a batch certainly needs more memory than is free.

    We check only on a CPU, where the kernel would kill the process. A GPU raises an error instead,
    which ``fine_tune`` reports.
    """
    if batches.trainer.strategy.root_device.type != "cpu":
        return
    free = free_memory(swap=True)
    dropout = reader.settings.dropout
    need = max(training_bytes(reader.model, lengths[rows], dropout) for rows in batches.rows)
    if need > free:
        raise InputError(
            f"batch_size: {reader.settings.batch_size} windows of up to {lengths.max()} tokens "
            f"need at least {need / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free; lower it"
        )


def _plan(reader: Reader, windows: Windows, trainer) -> dict:
    """Return what determines the result: settings, data, starting weights and devices."""
    data, start = hashlib.sha256(), hashlib.sha256()
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
        "precision": trainer.precision,
        "devices": trainer.world_size,
    }


def _prepare_folder(folder: Path, plan: dict, resume: bool | None) -> None:
    """Keep or remove the contents of ``folder`` (or raise an error), then write the plan."""
    check_replaceable(folder)
    path = folder / PLAN
    changed = []
    if resume is not False and path.exists():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            changed = [name for name in plan if plan[name] != old.get(name)]
        except (ValueError, AttributeError, RecursionError):
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

    This order makes it harmless to kill the process halfway. Otherwise, we would reject a folder
    without a plan, and a checkpoint without a history would look damaged.
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
