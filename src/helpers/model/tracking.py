"""Experiment tracking with Weights & Biases (wandb): start runs without prompts, read logs.

An offline run is a file in the training folder. It needs no account, and ``wandb sync`` can upload
it later. wandb and pandas take a second to import, so each function imports only those that it
needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.config import InputError, Settings
from helpers.fetch.download import offline

if TYPE_CHECKING:
    import pandas as pd

_PROJECT = "biomegatron-bioasq-kit"  # project name in wandb
_STEP = "trainer/global_step"  # Lightning's name for the x-axis


def prepare(settings: Settings) -> None:
    """Keep wandb from printing and prompting; raise ``InputError`` if it needs an API key."""
    if settings.wandb_mode == "online" and offline():
        raise InputError("wandb_mode=online: HELPERS_OFFLINE is set; set wandb_mode=offline")
    os.environ["WANDB_MODE"] = settings.wandb_mode
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
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


def make_logger(settings: Settings, folder: Path, config: Mapping):
    """Return Lightning's logger for ``log_to``, or ``None`` if ``wandb_mode`` is ``disabled``.

    config: the values that wandb shows beside the curves of the run.
    """
    if settings.log_to == "jsonl":
        return _json_lines(folder / "log.jsonl")
    if settings.log_to == "tensorboard":
        from lightning.pytorch.loggers import TensorBoardLogger

        return TensorBoardLogger(folder, name="tensorboard", version="")
    if settings.wandb_mode == "disabled":
        return None
    from lightning.pytorch.loggers import WandbLogger

    name = f"{settings.profile}-{settings.run}-seed{settings.seed}"
    offline = settings.wandb_mode == "offline"
    return WandbLogger(name, folder, offline=offline, project=_PROJECT, config=dict(config))


def _json_lines(path: Path):
    """Return a logger that appends one JSON object per call to a file."""
    from lightning.pytorch.loggers import Logger

    class JsonLines(Logger):
        name, version = path.name, ""

        def log_metrics(self, metrics, step=None):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **metrics}) + "\n")

        def log_hyperparams(self, *args, **kwargs):
            """Log nothing: the manifest contains the settings."""

    return JsonLines()


def read_log(folder: str | Path) -> pd.DataFrame:
    """Read everything that wandb logged in a training folder, one row per optimizer step.

    The columns are the logged values (``train_loss``, ``learning_rate``, ``dev_loss``, …). If the
    training was resumed, the folder has one file per part, and later parts take precedence. Raise
    ``InputError`` if there is no file or if wandb cannot read it.
    """
    import pandas as pd

    files = sorted(Path(folder).glob("wandb/*run-*/run-*.wandb"))
    if not files:
        raise InputError(f"{folder}: has no wandb log (did you train with wandb_mode=disabled?)")
    rows: dict[int, dict] = {}
    for file in files:
        done = subprocess.run(  # wandb's own reader; offline, it reports nothing to wandb
            [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)],
            capture_output=True, text=True, env={**os.environ, "WANDB_MODE": "offline"},
        )  # fmt: skip
        if done.returncode:
            raise InputError(f"{file}: wandb cannot read it ({' '.join(done.stderr.split())})")
        for record in map(json.loads, done.stdout.splitlines()):
            found = record.get("history", {}).get("item", {})
            if _STEP in found:
                own = {k: v for k, v in found.items() if k != _STEP and not k.startswith("_")}
                rows.setdefault(found[_STEP], {}).update(own)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("step").sort_index()
