"""Fine-tuning with NeMo and Lightning: batches in a fixed order, checkpoints, resume, logging.

The batches of all epochs form one plan that follows from the seed alone, and a resumed run goes
on in that plan at the step where the checkpoint was written. With dropout seeded by step (in
``qa_model``) it ends with the weights of an undisturbed run.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from torch.utils.data import DataLoader
from tqdm import tqdm

from helpers.config import InputError, Settings
from helpers.features import Batch, Windows, gather, training_batches
from helpers.outputs import write_json
from helpers.prediction import Reader, dev_scores
from helpers.squad import Example

__all__ = ["Trained", "check_replaceable", "dev_scores", "fine_tune", "read_history"]
HISTORY = "history.csv"
PLAN = "plan.json"
_SAVES = 10  # resumable checkpoints in the course of a run
# Models that this process has begun to train, with the folders; a cell run twice would go on from
# the trained weights without a word.
_begun: WeakKeyDictionary = WeakKeyDictionary()


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
    ``InputError`` when no example has a span, or when another run is to be resumed.
    """
    folder = Path(folder)
    if not any(e.spans for e in examples):
        raise InputError(
            "nothing to train on: no example has an answer span (is this a test file?)"
        )
    begun = _begun.setdefault(reader.model, set())
    if folder.resolve() in begun:
        raise InputError(
            f"{folder}: this model was trained into it already, wholly or in part; load the "
            "checkpoint again before training (in a notebook: run the cell that loads it)"
        )
    windows = reader.windows([e for e in examples if e.spans], training=True)
    changed = _changes(folder / PLAN, reader, windows)
    if resume and changed:
        raise InputError(
            f"{folder}: cannot resume, {', '.join(changed)} changed since; "
            "restore it or train anew without --resume"
        )
    check_replaceable(folder)
    if (not resume if resume is not None else changed) and folder.exists():
        shutil.rmtree(folder)
    write_json(folder / PLAN, _plan_of(reader, windows))
    begun.add(folder.resolve())
    try:
        steps, before, history = _fit(reader, windows, folder, progress)
    except InputError:  # the loss is lost, and so are the checkpoints
        shutil.rmtree(folder)
        raise
    reader.model.eval()
    names = ("learning_rate", "seed")
    reader.origin["fine_tuned"] = {
        "steps": steps, "windows": len(windows), **{n: getattr(reader.settings, n) for n in names}
    }  # fmt: skip
    if progress and before == steps:
        print(f"{folder}: was trained before with these settings; loaded now", file=sys.stderr)
    return Trained(steps, before, len(windows), history[-1][3], history)


def check_replaceable(folder: Path) -> None:
    """Raise ``InputError`` when ``folder`` holds something but is not a training's folder."""
    if folder.exists() and not (folder / PLAN).is_file():
        if not folder.is_dir():
            raise InputError(f"{folder}: is a file; a folder has to go there")
        if any(folder.iterdir()):
            raise InputError(
                f"{folder}: holds files but is no training's folder (no {PLAN}); "
                "move it away or choose another output"
            )


def read_history(path: str | Path) -> list[tuple[int, float, float, float]]:
    """The rows of a ``history.csv``: step, loss, learning rate, seconds so far."""
    with Path(path).open(newline="") as file:
        return [(int(row[0]), *map(float, row[1:])) for row in list(csv.reader(file))[1:]]


def _plan_of(reader: Reader, windows: Windows) -> dict:
    """What decides the outcome of a training: settings, data and the weights it starts from."""
    names = ("seed", "epochs", "batch_size", "learning_rate", "warmup_fraction", "weight_decay",
             "dropout")  # fmt: skip
    data, start = hashlib.sha256(), hashlib.sha256()
    for array in (windows.ids, windows.bounds, windows.start, windows.end):
        data.update(array.tobytes())
    for parameter in reader.model.parameters():
        start.update(parameter.detach().double().sum().numpy().tobytes())
    plan = {name: getattr(reader.settings, name) for name in names}
    return {**plan, "data": data.hexdigest(), "checkpoint": start.hexdigest()}


def _changes(path: Path, reader: Reader, windows: Windows) -> list[str]:
    """Which parts of the plan in ``path`` are others now; none when there is no such file."""
    if not path.exists():
        return []
    old, new = json.loads(path.read_text(encoding="utf-8")), _plan_of(reader, windows)
    return [name for name in new if new[name] != old.get(name)]


def _fit(reader: Reader, windows: Windows, folder: Path, progress: bool):
    settings = reader.settings
    # wandb must neither ask for a login nor print a banner; NeMo's imports take seconds.
    os.environ["WANDB_MODE"] = settings.wandb_mode
    os.environ.setdefault("WANDB_SILENT", "true")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import lightning.pytorch as pl
    import wandb

    from helpers import qa_model  # before NeMo itself: it keeps the imports quiet

    wandb.setup()  # reads both variables now; Lightning's logger provokes a warning before that
    qa_model.quiet_nemo()
    from nemo.utils.exp_manager import exp_manager

    trainer = pl.Trainer(
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
    )
    plan = _Plan(windows.lengths, settings, trainer)
    optim = {
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "warmup_steps": math.floor(settings.warmup_fraction * len(plan)),
        "max_steps": len(plan),
    }
    model = qa_model.build(reader.model, reader.tokenizer, folder, optim, settings.seed)
    model.set_trainer(trainer)
    recorder = _recorder(pl)(folder / HISTORY, len(plan), progress)
    trainer.callbacks.append(recorder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on data loader workers, which we do not need
        exp_manager(trainer, _experiment(settings, folder, len(plan)))
        loader = DataLoader(_Rows(windows), batch_size=None, sampler=plan)
        try:
            trainer.fit(model, loader)
        except SystemExit as error:  # Lightning turns Ctrl-C into exit(1)
            raise KeyboardInterrupt(f"training stopped; resume it from {folder}") from error
    if trainer.global_step < len(plan):
        raise KeyboardInterrupt(f"training stopped at step {trainer.global_step} of {len(plan)}")
    return len(plan), recorder.before, recorder.rows


def _experiment(settings: Settings, folder: Path, steps: int):
    """NeMo's experiment manager: where to log, what to keep; it resumes what it finds."""
    from omegaconf import OmegaConf

    return OmegaConf.create(
        {
            "explicit_log_dir": str(folder / "nemo"),  # it moves older files aside on resume
            "resume_if_exists": True,
            "resume_ignore_no_checkpoint": True,
            "resume_past_end": True,
            "create_tensorboard_logger": False,
            "create_wandb_logger": settings.wandb_mode != "disabled",
            "wandb_logger_kwargs": {
                "project": "biomegatron-bioasq-kit",
                "name": f"{settings.profile}-{settings.run}-seed{settings.seed}",
                "save_dir": str(folder),
                "offline": settings.wandb_mode == "offline",
            },
            "create_checkpoint_callback": True,
            "checkpoint_callback_params": {
                "monitor": "train_loss",  # NeMo wants a name; with none kept it decides nothing
                "save_top_k": 0,
                "save_last": True,
                "every_n_train_steps": max(1, steps // _SAVES),
                "every_n_epochs": None,
                "save_nemo_on_train_end": False,
            },
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


def _recorder(pl):
    """The callback class, made here because Lightning is imported late."""

    class Recorder(pl.Callback):
        """Writes one line a step to history.csv and shows a bar with loss and time left."""

        def __init__(self, path: Path, steps: int, progress: bool):
            self.path, self.steps, self.progress = path, steps, progress
            self.before = steps  # Lightning starts no training when all of them were taken
            self.rows = read_history(path) if path.exists() else []

        def on_train_start(self, trainer, module):
            done = self.before = trainer.global_step
            self.rows = [row for row in self.rows if row[0] <= done]
            self.started = time.monotonic() - (self.rows[-1][3] if self.rows else 0.0)
            self.file = self.path.open("w", newline="", buffering=1)
            header = ("step", "loss", "learning_rate", "seconds")
            csv.writer(self.file).writerows([header, *self.rows])
            # Plain tqdm: the automatic one freezes at 0% in a notebook saved by papermill.
            self.bar = tqdm(
                total=self.steps, initial=done, desc="training", unit="step",
                disable=not self.progress or trainer.global_rank > 0, mininterval=2,
            )  # fmt: skip

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            loss, seconds = float(outputs["loss"]), time.monotonic() - self.started
            if not math.isfinite(loss):
                raise InputError(
                    f"training: the loss is {loss} at step {trainer.global_step}; "
                    f"set a lower learning_rate than {trainer.lightning_module.cfg.optim.lr}"
                )
            row = (trainer.global_step, round(loss, 6), rate, round(seconds, 3))
            self.rows.append(row)
            csv.writer(self.file).writerow(row)
            recent = [row[1] for row in self.rows[-20:]]
            self.bar.set_postfix(loss=f"{sum(recent) / len(recent):.2f}", refresh=False)
            self.bar.update()

        def teardown(self, trainer, module, stage):
            if hasattr(self, "bar"):
                self.bar.close()
                self.file.close()

    return Recorder
