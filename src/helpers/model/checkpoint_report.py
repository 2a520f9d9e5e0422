"""A report on a checkpoint to share with others: what its files hold and what the model can do.

NVIDIA's files of 2021 have no published list of keys, no version tag and no word on the GELU they
were trained with. Whoever opens them first can send this page, which names files, hashes, keys and
scores but no folder of the machine. A part that cannot be determined says why, and the others are
still written: a file that the kit cannot load is the one worth reporting.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from helpers import __version__
from helpers.config import InputError, Settings
from helpers.data.spans import find_spans
from helpers.data.squad import read_squad
from helpers.io import sha256, write_text
from helpers.model import checkpoints, megatron, row_order
from helpers.model.decoding import Reader, compute_logits, squad_em_and_f1
from helpers.model.encoder import GELU_NAMES, GELUS, SpanModel
from helpers.model.weights import read_weights

_LONGEST = 4000  # characters shown of a configuration
_NUMBER = "#"  # stands for the number of a layer
_LAYER = re.compile(r"(?<=layers\.)\d+|(?<=layer\.)\d+")


def write_report(
    name: str, path: Path, output: str | Path, settings: Settings, squad_dev: str = ""
) -> Path:
    """Write the report on the checkpoint at ``path`` as Markdown and return its place.

    ``squad_dev`` is a SQuAD file to measure EM and F1 on, which decides about the GELU best; it
    takes about a second per question for 345M parameters on two cores. Raises ``InputError`` when
    ``output`` cannot be written or ``squad_dev`` cannot be read.
    """
    examples = read_squad(squad_dev) if squad_dev else []
    readers: list[Reader] = []

    def load() -> list[str]:
        readers.append(checkpoints.load(path, settings))
        return _model(readers[0])

    def loaded(part: Callable[[Reader], list[str]]) -> Callable[[], list[str]]:
        return lambda: part(readers[0]) if readers else ["The model could not be loaded."]

    parts: list[tuple[str, Callable[[], list[str]]]] = [
        ("Files", lambda: _files(path)),
        ("Settings in the files", lambda: _settings(path)),
        ("Stored weights", lambda: _stored(path)),
        ("Model as this kit builds it", load),
        ("Order of the query-key-value rows", loaded(_order)),
        ("GELU", loaded(gelu_lines)),
    ]
    if examples:
        about = f"SQuAD, {len(examples)} rows of {Path(squad_dev).name}"
        parts.append((about, loaded(lambda reader: _squad(reader, examples))))
    lines = [
        f"# Report on {Path(name).name}",
        "",
        f"BioMegatron BioASQ kit {__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {platform.system()} {platform.machine()}.",
    ]
    for title, part in parts:
        try:
            body = part()
        except InputError as error:
            body = ["Not determined: " + str(error).replace(str(path), path.name)]
        lines += ["", f"## {title}", "", *body]
    return write_text(output, "\n".join(lines) + "\n")


def stored_weights(path: Path) -> list[tuple[str, str, str]]:
    """(name, data type, shape) of each tensor as the files store it, in the files' order.

    Names that differ only in the number of a layer share a row, with the numbers as a range.
    """
    if path.suffix == ".nemo" and not checkpoints.is_foreign(path):
        raise InputError(f"{path}: written by this kit, which lists no keys of its own files")
    found = megatron.stored(path) if checkpoints.is_foreign(path) else read_weights(path).items()
    rows: dict[tuple[str, str, str], list[int]] = {}
    for name, value in found:
        kind = str(value.dtype).removeprefix("torch."), str(tuple(value.shape))
        numbers = rows.setdefault((_LAYER.sub(_NUMBER, name), *kind), [])
        numbers += [int(number) for number in _LAYER.findall(name)]
    return [
        (name.replace(_NUMBER, f"{{{_ranges(numbers)}}}"), dtype, shape)
        for (name, dtype, shape), numbers in rows.items()
    ]


def gelu_evidence(reader: Reader) -> dict[str, dict[str, float]]:
    """For each GELU: F1 on the questions of ``row_order`` and the mean loss of their gold spans.

    The loss is the mean over questions of minus the log-probability of the gold start and end,
    natural logarithm; ``better_by`` is how much lower it is than with the other GELU, and
    ``error`` the standard error of that difference over questions.
    """
    losses = {gelu: _losses(_with_gelu(reader, gelu)) for gelu in GELUS}
    found = {}
    for gelu in GELUS:
        (other,) = set(GELUS) - {gelu}
        gain = losses[other] - losses[gelu]
        found[gelu] = {
            "f1": row_order.answer_score(_with_gelu(reader, gelu)),
            "loss": float(losses[gelu].mean()),
            "better_by": float(gain.mean()),
            "error": float(gain.std(ddof=1) / np.sqrt(len(gain))),
        }
    return found


def gelu_lines(reader: Reader) -> list[str]:
    """``gelu_evidence`` as a Markdown table, with what it says and what it does not."""
    if reader.fresh_head:
        return ["No span head in these files, so nothing can be tried."]
    found = gelu_evidence(reader)
    rows = [
        (gelu, *(f"{row[key]:.4f}" for key in ("f1", "loss", "better_by", "error")))
        for gelu, row in found.items()
    ]
    best = max(found, key=lambda gelu: found[gelu]["better_by"])
    clear = found[best]["better_by"] > 2 * found[best]["error"]
    verdict = (
        f"The files fit the {best} form better, by more than two standard errors."
        if clear
        else "The difference is within two standard errors: these questions do not decide."
    )
    heads = ("GELU", "F1", "loss", "lower than the other by", "standard error")
    return [
        f"The model was read with the {reader.model.config.gelu} form.",
        "",
        *_table(heads, rows),
        "",
        f"{verdict} Measured on the {len(row_order.questions())} questions of the row order.",
    ]


def _files(path: Path) -> list[str]:
    parts = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    names = {p: p.name if p == path else p.relative_to(path).as_posix() for p in parts}
    rows = [
        (f"`{name}`", f"{p.stat().st_size:,}", f"`{sha256(p)}`")
        for p, name in names.items()
        if not name.startswith(".")  # the cache's own, such as the lock
    ]
    return _table(("file", "bytes", "SHA-256"), rows)


def _settings(path: Path) -> list[str]:
    lines = []
    for file in sorted(path.rglob("*config.json")) if path.is_dir() else ():
        text = file.read_text(encoding="utf-8", errors="replace").strip()
        lines += [f"`{file.name}`:", "", "```json", text[:_LONGEST], "```", ""]
    lines = lines or ["No config.json outside an archive.", ""]
    if arguments := megatron.arguments(path) if checkpoints.is_foreign(path) else {}:
        rows = [(f"`{name}`", f"`{value}`") for name, value in sorted(arguments.items())]
        lines += ["Arguments of Megatron-LM, saved with the weights:", ""]
        lines += [*_table(("argument", "value"), rows), ""]
    return lines[:-1]


def _stored(path: Path) -> list[str]:
    rows = [(f"`{name}`", dtype, shape) for name, dtype, shape in stored_weights(path)]
    return _table(("weight", "type", "shape"), rows)


def _model(reader: Reader) -> list[str]:
    counted = reader.model.encoder if reader.fresh_head else reader.model
    facts = {**vars(reader.model.config), "vocabulary": len(reader.vocab)}
    del facts["dropout"]  # a setting of our training, not of the checkpoint
    names = [name for name, form in GELU_NAMES.items() if form == facts["gelu"]]
    facts["gelu"] += f" (in a config.json, `hidden_act`: {' or '.join(names)})"
    facts["parameters"] = sum(p.numel() for p in counted.parameters())
    facts["span head"] = "missing" if reader.fresh_head else "in the files"
    return _table(("field", "value"), [(name, str(value)) for name, value in facts.items()])


def _order(reader: Reader) -> list[str]:
    found = reader.origin.get("qkv")
    if not found:
        return ["Three separate matrices, so there was nothing to find out."]
    rows, heads = (
        [(name, f"{score:.4f}") for name, score in found.get(tried, {}).items()]
        for tried in ("scores", "heads")
    )
    return [
        f"Read in order {found['order']}, decided by {found['measure']}.",
        *(["", *_table(("order", "score"), rows)] if rows else []),
        *(["", *_table(("heads", "score"), heads)] if heads else []),
    ]


def _squad(reader: Reader, examples) -> list[str]:
    if reader.fresh_head:
        return ["No span head in these files, so nothing can be measured."]
    rows = []
    for gelu in GELUS:
        score = squad_em_and_f1(_with_gelu(reader, gelu), examples)
        low, high = score["f1_interval"]
        percents = (f"{100 * value:.2f}" for value in (score["em"], score["f1"]))
        rows.append((gelu, *percents, f"{100 * low:.1f} to {100 * high:.1f}"))
    return _table(("GELU", "EM (%)", "F1 (%)", "95% interval of F1"), rows)


def _with_gelu(reader: Reader, gelu: str) -> Reader:
    """The same weights in a model with the given GELU; they are shared, not copied."""
    with torch.device("meta"):
        model = SpanModel(replace(reader.model.config, gelu=gelu))
    model.load_state_dict(reader.model.state_dict(), assign=True)
    return replace(reader, model=model.eval())


def _losses(reader: Reader) -> np.ndarray:
    """Minus the log-probability of each question's gold start and end, float ``[questions]``."""
    examples = [
        replace(example, spans=tuple(find_spans(example.context, [answer])[:1]))
        for example, answer in row_order.questions()
    ]
    windows = row_order.plain(reader).windows(examples, training=True)
    logits = torch.from_numpy(compute_logits(reader.model, windows)).double()
    losses = np.zeros(len(examples))
    for n, pair in enumerate(windows.pair):
        scores = logits[windows.bounds[n] : windows.bounds[n + 1]].log_softmax(0)
        losses[pair] -= float(scores[windows.start[n], 0] + scores[windows.end[n], 1])
    return losses


def _ranges(numbers: Iterable[int]) -> str:
    """Sorted numbers in short: "0-23", or "0-4, 6" with a gap."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [heads, ("---",) * len(heads), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]
