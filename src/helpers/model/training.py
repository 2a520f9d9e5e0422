"""Fine-tuning with NeMo and Lightning: batches in a fixed order, checkpoints, resume, logging.

The batches of all epochs form one plan that follows from the seed alone, and a resumed run goes
on in that plan at the step where the checkpoint was written. With dropout seeded by step (in
``qa_model``) it ends with the weights of an undisturbed run. Every file that a resumed run reads
is written whole or not at all, so a training may be killed at any moment.
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
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from torch.utils.data import DataLoader

from helpers.config import InputError, Settings
from helpers.data.squad import Example
from helpers.io import free_memory, write_json
from helpers.model.decoding import Reader
from helpers.model.encoder import training_bytes
from helpers.model.features import Batch, Windows, gather, training_batches

PLAN = "plan.json"
LAST = "last.ckpt"
# Models that this process has begun to train, with the folders; a cell run twice would go on from
# the trained weights without a word.
_begun: WeakKeyDictionary = WeakKeyDictionary()


class Stopped(KeyboardInterrupt):
    """Someone stopped the training; the message says how to go on, in a notebook on one line."""

    def _render_traceback_(self) -> list[str]:  # IPython calls this instead of its own renderer
        return [f"Stopped: {self}"]


@dataclass(frozen=True)
class Trained:
    """Steps, windows an epoch, seconds, and (step, loss, learning rate, seconds so far) a step.

    ``before`` of the steps were taken by earlier calls: all of them if the model was only loaded.
    Seconds of a resumed run are those of all its parts.
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
    """Fine-tune the reader's model in place on the examples' spans; log into ``folder``.

    One row per gold span (see ``features.make_windows``). With ``resume`` the newest checkpoint
    in ``folder`` is continued; settings, seed and data must be the same. Without it, what an
    earlier run left there is removed. None decides by whether they are the same. Raises
    ``InputError`` when no example has a span, another run is to be resumed, a file of the run to
    be resumed is damaged, the disk or the memory is too small, or the loss is not finite; and
    ``Stopped`` on Ctrl-C and SIGTERM. After any of these, or a kill, the same call goes on.
    """
    folder = Path(folder)
    if not any(e.spans for e in examples):
        raise InputError(
            "nothing to train on: no example has an answer span (is this a test file?)"
        )
    if folder.resolve() in _begun.get(reader.model, ()):
        raise InputError(
            f"{folder}: this model was trained into it already, wholly or in part; load the "
            "checkpoint again before training (in a notebook: run the cell that loads it)"
        )
    try:
        _prepare_wandb(reader.settings)
        trainer = _trainer()
        windows = reader.windows([e for e in examples if e.spans], training=True)
        batches = _Plan(windows.lengths, reader.settings, trainer)
        _check_memory(reader, batches, windows.lengths)
        plan = _prepare(folder, _plan_of(reader, windows, trainer), resume)
        _begun.setdefault(reader.model, set()).add(folder.resolve())
        before, history = _fit(reader, windows, folder, batches, progress)
    except KeyboardInterrupt:
        raise Stopped(
            f"training stopped; to go on, load the checkpoint again and train into {folder} again "
            "(in a notebook: run the cell that loads it, then this one)"
        ) from None
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {error.strerror or error}; mend that (a full disk: make "
            "room) and start again in the same way"
        ) from error
    reader.model.eval()
    _note_origin(reader, plan, len(batches), len(windows))
    if progress and before == len(batches):
        print(f"{folder}: was trained before with these settings; loaded now", file=sys.stderr)
    return Trained(len(batches), before, len(windows), history[-1][3], history)


def check_replaceable(folder: Path) -> None:
    """Raise ``InputError`` when ``folder`` holds something but is not a training's folder."""
    if folder.exists() and not (folder / PLAN).is_file():
        if not folder.is_dir():
            raise InputError(f"{folder}: is a file; a folder has to go there")
        # A training that was killed at its very beginning leaves half a plan.
        if any(not path.name.startswith(f".{PLAN}.") for path in folder.iterdir()):
            raise InputError(
                f"{folder}: holds files but is no training's folder (no {PLAN}); "
                "move it away or choose another output"
            )


def _prepare(folder: Path, plan: dict, resume: bool | None) -> dict:
    """Make ``folder`` ready for a training by ``plan``: what is there is kept, removed or refused.

    Returns the plan, which is also in the folder then.
    """
    check_replaceable(folder)
    old = _read_plan(folder / PLAN) if resume is not False and (folder / PLAN).exists() else plan
    changed = [name for name in plan if plan[name] != old.get(name)]
    if resume and changed:
        raise InputError(
            f"{folder}: cannot resume, {', '.join(changed)} changed since; "
            "restore it or train anew without --resume"
        )
    if (resume is False or changed) and folder.exists():
        _clear(folder)
    write_json(folder / PLAN, plan)
    return plan


def _clear(folder: Path) -> None:
    """Remove all but the plan, the checkpoint first, so that half of the work does no harm.

    A folder without a plan would be taken for another's, a checkpoint without history for damaged.
    """
    for path in sorted(folder.iterdir(), key=lambda path: path.name != LAST):
        if path.name != PLAN:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _read_plan(path: Path) -> dict:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(plan, dict):
            return plan
    except (ValueError, RecursionError):
        pass
    raise InputError(
        f"{path}: damaged, it is not a JSON object; delete {path.parent} and train anew"
    )


def _note_origin(reader: Reader, plan: dict, steps: int, windows: int) -> None:
    """Add to the reader's origin what it was fine-tuned on, and from which weights."""
    names = ("learning_rate", "seed", "epochs", "batch_size", "dropout", "data", "checkpoint")
    note = {"steps": steps, "windows": windows, **{name: plan[name] for name in names}}
    if earlier := reader.origin.get("fine_tuned"):  # such as the SQuAD step
        note["after"] = earlier
    reader.origin["fine_tuned"] = note


def _plan_of(reader: Reader, windows: Windows, trainer) -> dict:
    """What decides the outcome of a training: settings, data, starting weights and devices."""
    names = ("seed", "epochs", "batch_size", "learning_rate", "warmup_fraction", "weight_decay",
             "dropout")  # fmt: skip
    data, start = hashlib.sha256(), hashlib.sha256()
    for array in (windows.ids, windows.bounds, windows.start, windows.end):
        data.update(np.ascontiguousarray(array))
    # Of the configuration all but the dropout, which is among the settings.
    start.update(repr(replace(reader.model.config, dropout=0.0)).encode())
    for name, tensor in reader.model.state_dict().items():
        start.update(name.encode())
        start.update(tensor.cpu().numpy().ravel())
    return {
        **{name: getattr(reader.settings, name) for name in names},
        "data": data.hexdigest(),
        "checkpoint": start.hexdigest(),
        "qkv_order": reader.origin.get("qkv", {}).get("order", ""),
        "precision": trainer.precision,
        "devices": trainer.world_size,
    }


def _prepare_wandb(settings: Settings) -> None:
    """Keep wandb from asking for a login and from printing. ``InputError`` when it lacks a key."""
    os.environ["WANDB_MODE"] = settings.wandb_mode
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    # Lightning's logger provokes a warning before that. The mode is also that of an earlier
    # training in this process unless it is given.
    host = wandb.setup(wandb.Settings(mode=settings.wandb_mode)).settings.base_url
    if settings.wandb_mode == "online":
        from wandb.sdk.lib import wbauth  # no public function looks for a key without asking

        try:
            found = wbauth.authenticate_session(
                host=host, source="fine_tune", prompt=False, update_session=False
            )
        except wandb.errors.AuthenticationError as error:
            raise InputError(
                f"wandb_mode=online: {error}; set wandb_mode=offline, or mend it"
            ) from None
        if not found:
            raise InputError(
                f"wandb_mode=online: no API key for {host}; set WANDB_API_KEY or call wandb login, "
                "or set wandb_mode=offline"
            )


def _trainer():
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import lightning.pytorch as pl
    from lightning.pytorch.trainer import call

    from helpers.model import (
        qa_model,  # before NeMo itself: it keeps the imports quiet; takes seconds
    )

    qa_model.quiet_nemo()
    call.exit = sys.exit  # Lightning turns Ctrl-C into exit(1), which a Jupyter kernel lacks
    return pl.Trainer(
        max_epochs=1,  # the plan below holds all epochs
        accelerator="auto",
        devices="auto",
        precision="32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        plugins=[qa_model.PlainCheckpoints()],
    )


def _check_memory(reader: Reader, batches: _Plan, lengths: np.ndarray) -> None:
    """Raise ``InputError`` when some batch certainly needs more memory than there is.

    Only on a CPU, where the kernel would kill us; a GPU raises an error that ``_fit`` names.
    """
    free = free_memory(swap=True)
    if free is None or batches.trainer.strategy.root_device.type != "cpu":
        return
    dropout = reader.settings.dropout
    need = max(training_bytes(reader.model, lengths[rows], dropout) for rows in batches.batches)
    if need > free:
        raise InputError(
            f"batch_size: {reader.settings.batch_size} windows of up to {lengths.max()} tokens "
            f"need at least {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; lower it"
        )


def _fit(reader: Reader, windows: Windows, folder: Path, batches: _Plan, progress: bool):
    """Train, or go on; return the steps that had been taken before, and the history."""
    import wandb
    from nemo.utils.exp_manager import exp_manager

    from helpers.model import qa_model

    settings, trainer, steps = reader.settings, batches.trainer, len(batches)
    optim = {
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "warmup_steps": math.floor(settings.warmup_fraction * steps),
        "max_steps": steps,
    }
    reader.model.set_dropout(settings.dropout)
    reader.model.train()  # a loaded model answers without dropout, and Lightning leaves it so
    model = qa_model.build(reader.model, reader.tokenizer, folder, optim=optim, seed=settings.seed)
    model.set_trainer(trainer)
    last = folder / LAST
    recorder = qa_model.Recorder(folder / "history.csv", last, steps, progress)
    trainer.callbacks.append(recorder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on data loader workers, which we do not need
            exp_manager(trainer, _experiment(settings, folder))
            loader = DataLoader(_Rows(windows), batch_size=None, sampler=batches)
            trainer.fit(model, loader, ckpt_path=str(last) if last.exists() else None)
    except InputError:
        if recorder.lost:  # and so are the checkpoints
            _clear(folder)
            shutil.rmtree(folder)
        raise
    except SystemExit as error:  # what Lightning makes of Ctrl-C and of SIGTERM
        raise KeyboardInterrupt from error
    except RuntimeError as error:  # of torch, on a GPU and on a CPU
        if "out of memory" not in str(error) and "t allocate memory" not in str(error):
            raise
        raise InputError(
            f"batch_size: {settings.batch_size} windows need more memory than there is; lower it"
        ) from error
    finally:
        recorder.close()
        wandb.finish()  # else the next training of this process goes into this one's log
    if trainer.global_step < steps:
        raise KeyboardInterrupt
    return recorder.before, recorder.rows


def _experiment(settings: Settings, folder: Path):
    """NeMo's experiment manager logs; the checkpoints are ours (see ``qa_model.Recorder``).

    NeMo's own are marked as unfinished by a file beside them, and a first one that was never
    finished stops every later start.
    """
    from omegaconf import OmegaConf

    return OmegaConf.create(
        {
            "explicit_log_dir": str(folder / "nemo"),  # it moves older files aside on resume
            "create_tensorboard_logger": False,
            "create_wandb_logger": settings.wandb_mode != "disabled",
            "wandb_logger_kwargs": {
                "project": "biomegatron-bioasq-kit",
                "name": f"{settings.profile}-{settings.run}-seed{settings.seed}",
                "save_dir": str(folder),
                "offline": settings.wandb_mode == "offline",
            },
            "create_checkpoint_callback": False,
            "create_preemption_callback": False,
            "log_step_timing": False,
            "log_tflops_per_sec_per_gpu": False,
            "seconds_to_sleep": 0,
        }
    )


class _Rows:
    """A data set whose items are whole batches, asked for by their rows."""

    def __init__(self, windows: Windows):
        self.windows = windows

    def __getitem__(self, rows: list[int]) -> Batch:
        return gather(self.windows, rows)

    def __len__(self) -> int:
        return len(self.windows)


class _Plan:
    """Every batch of every epoch for this process, from the trainer's current step onwards."""

    def __init__(self, lengths, settings: Settings, trainer):
        self.trainer = trainer
        batches = [
            batch
            for epoch in range(settings.epochs)
            for batch in training_batches(lengths, settings.batch_size, settings.seed, epoch)
        ]
        # Several processes take turns; a remainder is left out so that all take as many steps.
        world, rank = trainer.world_size, trainer.global_rank
        self.batches = batches[rank : len(batches) - len(batches) % world : world]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        # Lightning restores its step counter on resume but starts a sampler from its beginning.
        yield from self.batches[self.trainer.global_step :]
