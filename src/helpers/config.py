"""Every setting of a run in one frozen dataclass, and the profiles that fill it.

A profile is a set of values, nothing else: the same notebooks and the same code run in all of
them. ``from_parameters`` is the only door from a notebook, a command line or papermill, so a
misspelt name or a wrong type is caught there instead of being ignored.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the clone, if the kit was not installed
CONTEXTS = ("snippet", "appended", "abstract")
SNIPPETS = ("official", "golden")
MERGES = ("sum", "max")
MISSING = ("wrong", "dropped")
WANDB_MODES = ("offline", "online", "disabled")
QKV_ORDERS = ("", "0", "1.0", "2.0")  # see helpers.model.qkv


class InputError(ValueError):
    """Something the user gave us is wrong; the message names it and says what to do.

    Command lines print the message on one line and exit with status 2. In a notebook the same
    message appears without a page of stack.
    """

    def _render_traceback_(self) -> list[str]:  # IPython calls this instead of its own renderer
        return [f"InputError: {self}"]


@dataclass(frozen=True)
class Settings:
    """All settings of one run. Lengths are in tokens, rates are per optimizer step."""

    profile: str = "mini"
    run: str = "lab"  # name of the folder under runs_dir
    runs_dir: str = "runs"
    seed: int = 0
    model: str = "minilm"  # a registry name, a folder, or a .nemo file
    qkv_order: str = ""  # of a Megatron checkpoint's rows; empty: found out by trying
    bioasq_dir: str = ""  # empty: BioASQ-mini, which ships with the kit
    # What the model reads.
    context: str = "snippet"
    snippets: str = "official"  # of the test: "golden" reads the golden files', which are more
    max_length: int = 384
    step: int = 128  # from one window's start to the next (Google BERT's doc_stride)
    max_query: int = 64
    dev_fraction: float = 0.1  # of the training questions, held out for every choice
    allow_leak: bool = False  # train on test questions all the same
    # The SQuAD step before BioASQ, if any (see helpers.run.stages).
    squad_epochs: int = 0  # 0: no such step
    squad_file: str = ""  # SQuAD v1.1 questions to learn from: a file or a name in the registry
    squad_dev: str = ""  # such questions to judge it by; empty: the dev share of squad_file
    squad_batch_size: int = 16
    squad_learning_rate: float = 1e-4
    # How it learns.
    epochs: int = 3
    batch_size: int = 16  # windows
    learning_rate: float = 1e-4
    warmup_fraction: float = 0.1  # of all steps; linear to 0 afterwards
    weight_decay: float = 0.0
    dropout: float = 0.0
    wandb_mode: str = "offline"
    # How it answers.
    nbest: int = 20
    max_answer: int = 30
    merge: str = "sum"
    missing: str = "wrong"

    @property
    def run_dir(self) -> Path:
        """Folder that holds everything this run writes.

        JupyterLab starts a notebook in its own folder, papermill where it was called; both mean
        the project's folder.
        """
        here = Path.cwd()
        root = here.parent if here.name == "notebooks" else here
        return root / self.runs_dir / self.run


# Step B of NVIDIA's recipe (NeMo 0.11 biobert_qa.ipynb; dmis-lab/bioasq-biobert has the same
# numbers), with full abstracts for training and test; dropout is Megatron's.
_STEP_B = {
    "context": "abstract",
    "epochs": 5,
    "batch_size": 12,
    "learning_rate": 5e-6,
    "warmup_fraction": 0.0,
    "dropout": 0.1,
    "dev_fraction": 0.0,
}
# Learning rate and epochs were chosen on held-out training questions, never on a test batch;
# docs/results.md says how. With real data, the final training then takes all questions, as the
# published recipes do; that is also why it holds none out.
PROFILES: dict[str, dict] = {
    "mini": {"epochs": 2},
    "bioasq-cpu": {"epochs": 3, "dev_fraction": 0.0},
    "biomegatron": {"model": "BioMegatron345mUncasedSQuADv1", **_STEP_B},
    # The checkpoint's own making before that: step A, NeMo 0.11 question_answering_squad.py.
    "biomegatron-from-squad": {
        "model": "BioMegatron345mUncased",
        "squad_epochs": 2,
        "squad_file": "squad-train",
        "squad_dev": "squad-dev",
        "squad_batch_size": 24,
        "squad_learning_rate": 3e-5,
        **_STEP_B,
    },
    # The same two steps for the small model, with the SQuAD questions of a file the user names.
    "squad-then-bioasq-cpu": {"squad_epochs": 2, "epochs": 3, "dev_fraction": 0.0},
}

_CHOICES = {
    "context": CONTEXTS,
    "snippets": SNIPPETS,
    "merge": MERGES,
    "missing": MISSING,
    "wandb_mode": WANDB_MODES,
    "qkv_order": QKV_ORDERS,
    "profile": tuple(PROFILES),
}
_AT_LEAST = {
    "seed": 0, "squad_epochs": 0, "squad_batch_size": 1,
    "max_length": 16, "step": 1, "max_query": 1, "epochs": 1, "batch_size": 1,
    "nbest": 1, "max_answer": 1, "weight_decay": 0, "warmup_fraction": 0,
    "dropout": 0, "dev_fraction": 0,
}  # fmt: skip
_WORDS = {"int": "whole number", "float": "number", "bool": "truth value (true or false)"}
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_BELOW_ONE = ("warmup_fraction", "dropout", "dev_fraction")


def from_parameters(profile: str = "mini", overrides: str = "", **parameters) -> Settings:
    """Build the settings of a run from a profile and a few overrides.

    ``None`` stands for the profile's value; ``overrides`` holds more of them in one line, as in
    ``"epochs=4 learning_rate=2e-4"``, so that a notebook needs no cell for each. Raises
    ``InputError`` on an unknown profile or name, a wrong type, or a value out of range, naming the
    nearest valid one.
    """
    parameters |= dict(parse_override(text) for text in _split(overrides))
    profile = parameters.pop("profile", profile)
    if profile not in PROFILES:
        raise InputError(f"profile: {profile!r} is unknown; choose one of {', '.join(PROFILES)}")
    types = {f.name: f.type for f in dataclasses.fields(Settings)}
    values = {"profile": profile, **PROFILES[profile]}
    for name, value in parameters.items():
        if name not in types:
            raise _unknown(name, types)
        if value is not None:
            values[name] = _checked(name, types[name], value)
    run = values.get("run", Settings.run)
    if run in ("", ".", "..") or Path(run).name != run:
        raise InputError(f"run: {run!r} is not a plain folder name")
    return Settings(**values)


def parse_override(text: str) -> tuple[str, object]:
    """Turn ``name=value`` into a typed pair."""
    name, equals, raw = text.partition("=")
    types = {f.name: f.type for f in dataclasses.fields(Settings)}
    if not equals:
        raise InputError(f"{text!r}: write name=value, such as epochs=4")
    if name not in types:
        raise _unknown(name, types)
    convert = {"int": int, "float": float, "str": str, "bool": lambda word: _TRUTH[word.lower()]}
    try:
        return name, convert[types[name]](raw)
    except (ValueError, KeyError):
        raise InputError(f"{text!r}: {raw!r} is no {_WORDS[types[name]]}") from None


def _split(overrides: str) -> list[str]:
    """The words of ``overrides``; a value with blanks stands in quotes, as in a shell."""
    try:
        return shlex.split(overrides)
    except ValueError as error:
        raise InputError(f"overrides: {overrides!r} cannot be read ({error}); close it") from None


def _unknown(name: str, types: dict[str, str]) -> InputError:
    near = difflib.get_close_matches(name, types, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(types)}"
    return InputError(f"parameter {name!r} is unknown; {hint}")


def _checked(name: str, type_name: str, value: object) -> object:
    if isinstance(value, Path):
        value = str(value)
    if type_name == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    expected = {"int": int, "float": float, "str": str, "bool": bool}[type_name]
    if not isinstance(value, expected) or isinstance(value, bool) != (expected is bool):
        raise InputError(f"{name}: expected {type_name}, got {value!r} ({type(value).__name__})")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise InputError(f"{name}: {value!r} is not one of {', '.join(_CHOICES[name])}")
    if expected is float and not math.isfinite(value):
        raise InputError(f"{name}: {value!r} is not a finite number; choose one")
    if expected is int and value > 2**31 - 1:
        raise InputError(f"{name}: {value!r} is too large; stay below 2**31")
    if name in _AT_LEAST and not value >= _AT_LEAST[name]:
        raise InputError(f"{name}: {value!r} is below {_AT_LEAST[name]}, the least that works")
    if name.endswith("learning_rate") and not value > 0:
        raise InputError(f"{name}: {value!r} must be greater than 0, such as 1e-4")
    if name in _BELOW_ONE and not value < 1:
        raise InputError(f"{name}: {value!r} must be below 1")
    return value
