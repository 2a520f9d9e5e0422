"""A report on a checkpoint to share with others: what its files hold and what the model can do.

NVIDIA's files of 2021 come without a published list of names, a version tag or the form of GELU
that they were trained with. Whoever opens them first can send this page, which contains files,
hashes, names and scores but no path of the machine. If a part cannot be determined, the page says
why and continues with the next: a file that the kit cannot load is the one worth reporting.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from helpers import __version__
from helpers.config import InputError, Settings
from helpers.data.spans import find_spans
from helpers.data.squad import Example, read_squad
from helpers.io import sha256, write_text
from helpers.model import checkpoints, megatron, row_order
from helpers.model.decoding import Reader, compute_logits, squad_em_and_f1
from helpers.model.encoder import GELUS, SpanModel
from helpers.model.row_order import markdown_table
from helpers.model.weights import read_weights

_LONGEST = 4000  # characters shown of a configuration
_LAYER = re.compile(r"(?<=layers\.)\d+|(?<=layer\.)\d+")  # the number of a layer in a name


def write_report(
    name: str, path: Path, output: str | Path, settings: Settings, squad_dev: str = ""
) -> Path:
    """Write the report on the checkpoint at ``path`` as Markdown; returns ``output``.

    ``squad_dev`` is a SQuAD file to measure EM and F1 on, which is the best evidence on the GELU;
    it takes about a second per question for 345M parameters on two cores. Raises ``InputError``
    when ``output`` cannot be written or ``squad_dev`` cannot be read.
    """
    examples = read_squad(squad_dev) if squad_dev else []
    lines = [
        f"# Report on {Path(name).name}",
        "",
        f"BioMegatron BioASQ kit {__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {platform.system()} {platform.machine()}.",
    ]
    readers: list[Reader] = []

    def load() -> list[str]:
        readers.append(checkpoints.load(path, settings))
        return checkpoints.model_table(readers[0], not readers[0].fresh_head)

    def add(title: str, part: Callable[..., list[str]], *given) -> None:
        try:
            body = part(*given)
        except InputError as error:
            body = ["Not determined: " + str(error).replace(str(path), path.name)]
        lines.extend(["", f"## {title}", "", *body])

    add("Files", _files, path)
    add("Settings", _settings, path)
    add("Stored weights", _stored, path)
    add("Model as this kit builds it", load)
    for reader in readers:
        add("Order of the query-key-value rows", _order, reader)
        add("GELU", gelu_lines, reader)
        if examples:
            title = f"SQuAD, {len(examples)} rows of {Path(squad_dev).name}"
            add(title, _squad, reader, examples)
    if not readers:
        lines += ["", "The model could not be loaded, so nothing was measured."]
    return write_text(output, "\n".join(lines) + "\n")


def _files(path: Path) -> list[str]:
    names = {path: path.name}
    if path.is_dir():
        names = {p: p.relative_to(path).as_posix() for p in sorted(path.rglob("*")) if p.is_file()}
    rows = [
        (f"`{name}`", f"{file.stat().st_size:,}", f"`{sha256(file)}`")
        for file, name in names.items()
        if not name.startswith(".")  # the cache's own, such as the lock
    ]
    return markdown_table(("file", "bytes", "SHA-256"), rows)


def _settings(path: Path) -> list[str]:
    lines = []
    for file in sorted(path.rglob("*config.json")) if path.is_dir() else ():
        text = file.read_text(encoding="utf-8", errors="replace").strip()
        lines += ["", f"`{file.name}`:", "", "```json", text[:_LONGEST], "```"]
    return lines[1:] or ["There is no config.json outside an archive."]


def _stored(path: Path) -> list[str]:
    if megatron.is_megatron(path):
        tensors, arguments = megatron.stored(path)
    elif path.suffix == ".nemo":
        raise InputError(f"{path}: written by this kit, which does not list its own files' names")
    else:
        tensors, arguments = read_weights(path), {}
    rows = [(f"`{name}`", *kind) for name, *kind in stored_weights(tensors)]
    lines = markdown_table(("weight", "type", "shape"), rows)
    if arguments:
        rows = [(f"`{name}`", f"`{value}`") for name, value in sorted(arguments.items())]
        lines += ["", "Megatron-LM saved these arguments with the weights:", ""]
        lines += markdown_table(("argument", "value"), rows)
    return lines


def stored_weights(tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, str, str]]:
    """(name, data type, shape) of each tensor, in the order of ``tensors``.

    Names that differ only in the number of a layer share a row, with the numbers as a range.
    """
    rows: dict[tuple[str, str, str], list[int]] = {}
    for name, value in tensors.items():
        kind = str(value.dtype).removeprefix("torch."), str(tuple(value.shape))
        rows.setdefault((_LAYER.sub("#", name), *kind), []).extend(map(int, _LAYER.findall(name)))
    found = []
    for (name, dtype, shape), numbers in rows.items():
        shown = ", ".join(map(str, sorted(numbers)))
        if numbers and len(numbers) == max(numbers) - min(numbers) + 1 > 1:  # without a gap
            shown = f"{min(numbers)}-{max(numbers)}"
        found.append((name.replace("#", f"{{{shown}}}"), dtype, shape))
    return found


def _order(reader: Reader) -> list[str]:
    found = reader.origin.get("qkv")
    if found:
        return row_order.order_lines(found)
    return ["Query, key and value are three separate matrices, so there was nothing to decide."]


def gelu_lines(reader: Reader) -> list[str]:
    """``gelu_evidence`` as a table in Markdown, with what follows from it and what does not."""
    if reader.fresh_head:
        return ["No span head in these files, so the two forms cannot be compared."]
    found = gelu_evidence(reader)
    keys = {"f1": "F1", "loss": "loss", "better_by": "lower than the other by",
            "error": "standard error"}  # fmt: skip
    rows = [(gelu, *(f"{row[key]:.4f}" for key in keys)) for gelu, row in found.items()]
    best = max(found, key=lambda gelu: found[gelu]["better_by"])
    verdict = "The difference is within two standard errors: these questions do not decide."
    if found[best]["better_by"] > 2 * found[best]["error"]:
        verdict = f"The files fit the {best} form better, by more than two standard errors."
    return [
        f"The model was read with the {reader.model.config.gelu} form.",
        "",
        *markdown_table(("GELU", *keys.values()), rows),
        "",
        f"{verdict} We measured on the {len(row_order.questions())} questions of the row order.",
    ]


def gelu_evidence(reader: Reader) -> dict[str, dict[str, float]]:
    """For each GELU: F1 on the questions of ``row_order`` and the mean loss of their gold spans.

    The loss is the mean over questions of minus the log-probability of the gold start and end,
    natural logarithm; ``better_by`` is how much lower it is than with the other GELU, and
    ``error`` the standard error of that difference over questions.
    """
    losses = {gelu: _losses(_with_gelu(reader, gelu)) for gelu in GELUS}
    found = {}
    for gelu, other in zip(GELUS, reversed(GELUS), strict=True):
        gain = losses[other] - losses[gelu]
        found[gelu] = {
            "f1": row_order.answer_score(_with_gelu(reader, gelu)),
            "loss": float(losses[gelu].mean()),
            "better_by": float(gain.mean()),
            "error": float(gain.std(ddof=1) / np.sqrt(len(gain))),
        }
    return found


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


def _squad(reader: Reader, examples: list[Example]) -> list[str]:
    if reader.fresh_head:
        return ["No span head in these files, so nothing can be measured."]
    rows = []
    for gelu in GELUS:
        score = squad_em_and_f1(_with_gelu(reader, gelu), examples)
        low, high = score["f1_interval"]
        percents = (f"{100 * value:.2f}" for value in (score["em"], score["f1"]))
        rows.append((gelu, *percents, f"{100 * low:.1f} to {100 * high:.1f}"))
    return markdown_table(("GELU", "EM (%)", "F1 (%)", "95% interval of F1"), rows)
