"""All settings of a run in one frozen dataclass, and the profiles that fill it.

A profile is only a set of values; all profiles run the same notebooks and the same code. Notebooks,
command lines, and papermill all pass their parameters to ``from_parameters``, which catches
misspelled names, wrong types, and out-of-range values.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]  # the root of the clone, unless the kit is installed
CONTEXTS = ("snippet", "appended", "abstract")
SNIPPETS = ("official", "golden")
MERGES = ("sum", "max")
MISSING = ("wrong", "dropped")
LOGS = ("wandb", "tensorboard", "jsonl")
WANDB_MODES = ("offline", "online", "disabled")
PRECISIONS = ("auto", "32", "tf32", "bf16", "16")  # see helpers.model.compute
QKV_ORDERS = ("", "0", "1.0", "2.0")  # see helpers.model.row_order


class InputError(ValueError):
    """A mistake in the user's input; the message names it and says how to correct it.

    Command lines print the message on one line and exit with status 2. Notebooks show the same line
    without a traceback.
    """

    def _render_traceback_(self) -> list[str]:  # IPython calls this instead of its own renderer
        return [f"InputError: {self}"]


def _setting(default: Any, **limits: Any) -> Any:
    """Define a setting with limits: ``at_least``, ``above``, ``below``, or ``choices``."""
    return dataclasses.field(default=default, metadata=limits)


@dataclass(frozen=True)
class Settings:
    """All settings of one run. Lengths are in tokens, and rates are per optimizer step."""

    profile: str = "mini"
    run: str = "lab"  # name of the folder under runs_dir
    runs_dir: str = "runs"
    seed: int = _setting(0, at_least=0)
    model: str = "minilm"  # a registry name, a folder, or a .nemo file
    qkv_order: str = _setting("", choices=QKV_ORDERS)  # Megatron row order; empty: try all orders
    bioasq_dir: str = ""  # empty: BioASQ-mini, which ships with the kit
    # Where and how to compute (see helpers.model.compute). These settings do not change the recipe.
    device: str = "auto"  # auto, cpu, cuda, cuda:N or mps
    precision: str = _setting("32", choices=PRECISIONS)
    devices: int = _setting(1, at_least=1)  # GPUs (or processes on a CPU) that share each batch
    accumulate: int = _setting(1, at_least=1)  # parts per device and batch, to save memory
    activation_checkpointing: bool = False  # saves memory but increases computation by a third
    compile: bool = False  # use torch.compile for feed-forward layers and norms
    # What the model reads.
    context: str = _setting("snippet", choices=CONTEXTS)
    snippets: str = _setting("official", choices=SNIPPETS)  # test snippets; golden files have more
    max_length: int = _setting(384, at_least=16)
    step: int = _setting(128, at_least=1)  # from one window start to the next (doc_stride)
    max_query: int = _setting(64, at_least=1)
    dev_fraction: float = _setting(0.1, at_least=0, below=1)  # of training questions, held out
    allow_leak: bool = False  # train even if test questions are in the training data
    # The optional SQuAD step before BioASQ (see helpers.run.stages).
    squad_epochs: int = _setting(0, at_least=0)  # 0: no SQuAD step
    squad_file: str = ""  # SQuAD v1.1 training questions: a file or a registry name
    squad_dev: str = ""  # SQuAD v1.1 dev questions; empty: dev_fraction of squad_file
    squad_batch_size: int = _setting(16, at_least=1)
    squad_learning_rate: float = _setting(1e-4, above=0)
    # How the model learns.
    epochs: int = _setting(3, at_least=1)
    batch_size: int = _setting(16, at_least=1)  # windows per optimizer step, on all devices
    learning_rate: float = _setting(1e-4, above=0)
    warmup_fraction: float = _setting(0.1, at_least=0, below=1)  # of all steps; then linear decay
    weight_decay: float = _setting(0.0, at_least=0)
    dropout: float = _setting(0.0, at_least=0, below=1)
    evaluate_every: float = _setting(0.25, at_least=0)  # epochs between dev evaluations; 0: none
    log_to: str = _setting("wandb", choices=LOGS)
    wandb_mode: str = _setting("offline", choices=WANDB_MODES)
    # How the model answers.
    nbest: int = _setting(20, at_least=1)
    max_answer: int = _setting(30, at_least=1)
    merge: str = _setting("sum", choices=MERGES)
    missing: str = _setting("wrong", choices=MISSING)

    @property
    def run_dir(self) -> Path:
        """Return the folder for everything that this run writes.

        JupyterLab starts a notebook in the notebook's folder, and papermill starts it in the
        current folder. In both cases, ``runs_dir`` is relative to the project's folder.
        """
        here = Path.cwd()
        root = here.parent if here.name == "notebooks" else here
        return root / self.runs_dir / self.run


# Step B of NVIDIA's recipe (NeMo 0.11 biobert_qa.ipynb; dmis-lab/bioasq-biobert uses the same
# values), but with full abstracts for training and testing and with Megatron's dropout.
_STEP_B = {
    "context": "abstract",
    "epochs": 5,
    "batch_size": 12,
    "learning_rate": 5e-6,
    "warmup_fraction": 0.0,
    "dropout": 0.1,
    "dev_fraction": 0.0,
}
# We chose these values on held-out training questions (docs/results.md explains how) or, for mini,
# on held-out facts (see the README of mini_data), never on test batches. With real data, the final
# training run uses all questions, as in the published recipes, so the dev fraction is 0.
PROFILES: dict[str, dict] = {
    "mini": {"epochs": 3, "batch_size": 8, "learning_rate": 2e-4},
    "bioasq-cpu": {"epochs": 3, "dev_fraction": 0.0},
    # A SQuAD step before BioASQ, with a SQuAD file that the user specifies.
    "squad-then-bioasq-cpu": {"squad_epochs": 2, "epochs": 3, "dev_fraction": 0.0},
    "biomegatron": {"model": "BioMegatron345mUncasedSQuADv1", **_STEP_B},
    # Step A, which produced the checkpoint above (NeMo 0.11 question_answering_squad.py).
    "biomegatron-from-squad": {
        "model": "BioMegatron345mUncased",
        "squad_epochs": 2,
        "squad_file": "squad-train",
        "squad_dev": "squad-dev",
        "squad_batch_size": 24,
        "squad_learning_rate": 3e-5,
        **_STEP_B,
    },
}

_UNUSABLE = re.compile("[\0-\x1f\x7f\ud800-\udfff]")  # not allowed in any setting
_FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
_TYPES = {"int": int, "float": float, "str": str, "bool": bool}
_WORDS = {"int": "whole number", "float": "number", "bool": "truth value (true or false)"}
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def from_parameters(profile: str = "mini", overrides: str = "", **parameters) -> Settings:
    """Build the settings of a run from a profile and optional overrides.

    ``None`` keeps the profile's value. ``overrides`` is a string of ``name=value`` pairs, such as
    ``"epochs=4 learning_rate=2e-4"``, in which a value with spaces needs quotes, as in a shell.
    Raises ``InputError`` for an unknown profile or name, a wrong type, or an out-of-range value.
    """
    try:
        words = shlex.split(overrides)
    except ValueError as error:
        raise InputError(f"overrides: {overrides!r} cannot be read ({error}); correct it") from None
    parameters |= dict(map(parse_override, words))
    profile = parameters.pop("profile", profile)
    if profile not in PROFILES:
        raise InputError(f"profile: {profile!r} is unknown; choose one of {', '.join(PROFILES)}")
    values = {"profile": profile, **PROFILES[profile]}
    for name, value in parameters.items():
        field = _field(name)
        if value is not None:
            values[name] = _checked(field, value)
    run = values.get("run", Settings.run)
    if run in ("", ".", "..") or Path(run).name != run:
        raise InputError(f"run: {run!r} is not a plain folder name")
    return Settings(**values)


def parse_override(text: str) -> tuple[str, object]:
    """Parse ``name=value`` into a name and a value of the right type."""
    name, equals, raw = text.partition("=")
    if not equals:
        raise InputError(f"{text!r}: write name=value, such as epochs=4")
    kind = _field(name).type
    try:
        return name, _TRUTH[raw.lower()] if kind == "bool" else _TYPES[kind](raw)
    except (ValueError, KeyError):
        comma = "; separate settings with spaces, not commas" if raw.endswith(",") else ""
        raise InputError(f"{text!r}: {raw!r} is not a {_WORDS[kind]}{comma}") from None


def _field(name: str) -> dataclasses.Field:
    if name in _FIELDS:
        return _FIELDS[name]
    near = difflib.get_close_matches(name, _FIELDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(_FIELDS)}"
    raise InputError(f"parameter {name!r} is unknown; {hint}")


def _checked(field: dataclasses.Field, value: object) -> object:
    """Convert a value to the field's type. Raises ``InputError`` for a wrong type or range."""
    name, kind, limits = field.name, _TYPES[field.type], field.metadata
    if isinstance(value, Path):
        value = str(value)
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        raise InputError(f"{name}: expected {field.type}, got {value!r} ({type(value).__name__})")
    if kind is str and _UNUSABLE.search(value):
        raise InputError(f"{name}: {value!r} contains a control character or an unpaired surrogate")
    if "choices" in limits and value not in limits["choices"]:
        raise InputError(f"{name}: {value!r} is not one of {', '.join(limits['choices'])}")
    if kind is float and not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, not {value!r}")
    if kind is int and value > 2**31 - 1:
        raise InputError(f"{name} must be below 2**31, not {value!r}")
    if "at_least" in limits and value < limits["at_least"]:
        raise InputError(f"{name} must be at least {limits['at_least']}, not {value!r}")
    if "above" in limits and value <= limits["above"]:
        raise InputError(f"{name} must be greater than {limits['above']}, not {value!r}")
    if "below" in limits and value >= limits["below"]:
        raise InputError(f"{name} must be below {limits['below']}, not {value!r}")
    return value
