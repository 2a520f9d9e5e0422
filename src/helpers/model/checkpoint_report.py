"""A shareable report on a checkpoint: what its files contain and what the model can do.

NVIDIA published its 2021 files without listing their weight names, tagging their version or stating
which form of GELU was used in training. If you are the first to open them, you can send this report
to others. It lists files, hashes, weight names and scores, but no paths on your machine. If a
section cannot be completed, the report says why and continues with the next section, because
checkpoints that the kit cannot load are the ones most worth reporting.
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

_LONGEST = 4000  # maximum number of characters to show from a configuration file
_LAYER = re.compile(r"(?<=layers\.)\d+|(?<=layer\.)\d+")  # the layer number in a weight name


def write_report(
    name: str, path: Path, output: str | Path, settings: Settings, squad_dev: str = ""
) -> Path:
    """Write a Markdown report on the checkpoint at ``path`` to ``output``, and return ``output``.

    ``squad_dev`` is a SQuAD file for measuring EM and F1, which are the best evidence of the form
    of GELU. For a model with 345M parameters, this takes about one second per question on two CPU
    cores. Raise ``InputError`` if ``output`` cannot be written or ``squad_dev`` cannot be read.
    """
    examples = read_squad(squad_dev) if squad_dev else []
    lines = [
        f"# Report on {_code(Path(name).name)}",
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
    add("Model as built by this kit", load)
    for reader in readers:
        add("Order of the query-key-value rows", _order, reader)
        add("GELU", gelu_lines, reader)
        if examples:
            title = f"SQuAD scores on {len(examples)} rows of {Path(squad_dev).name}"
            add(title, _squad, reader, examples)
    if not readers:
        lines += ["", "The model could not be loaded, so nothing was measured."]
    return write_text(output, "\n".join(lines) + "\n")


def _code(text: object) -> str:
    """Format text as inline code in Markdown, so that HTML in it has no effect."""
    return "`" + re.sub(r"[`|\r\n]", "�", str(text)) + "`"


def _files(path: Path) -> list[str]:
    names = {path: path.name}
    if path.is_dir():
        names = {p: p.relative_to(path).as_posix() for p in sorted(path.rglob("*")) if p.is_file()}
    rows = [
        (_code(name), f"{file.stat().st_size:,}", _code(sha256(file)))
        for file, name in names.items()
        if not name.startswith(".")  # skip the cache's own files, such as its lock file
    ]
    return markdown_table(("file", "bytes", "SHA-256"), rows)


def _settings(path: Path) -> list[str]:
    lines = []
    for file in sorted(path.rglob("*config.json")) if path.is_dir() else ():
        text = file.read_text(encoding="utf-8", errors="replace").strip()
        fence = max(["``", *re.findall("`+", text)], key=len) + "`"  # longer than any in the text
        lines += ["", f"{_code(file.name)}:", "", f"{fence}json", text[:_LONGEST], fence]
    return lines[1:] or ["No config.json was found; archives are not searched."]


def _stored(path: Path) -> list[str]:
    if megatron.is_megatron(path):
        tensors, arguments = megatron.stored(path)
    elif path.suffix == ".nemo":
        raise InputError(f"{path}: this kit wrote the file, so its weight names are not listed")
    else:
        tensors, arguments = read_weights(path), {}
    rows = [(_code(name), *kind) for name, *kind in stored_weights(tensors)]
    lines = markdown_table(("weight", "type", "shape"), rows)
    if arguments:
        rows = [(_code(name), _code(value)) for name, value in sorted(arguments.items())]
        lines += ["", "Megatron-LM saved these arguments with the weights:", ""]
        lines += markdown_table(("argument", "value"), rows)
    return lines


def stored_weights(tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, str, str]]:
    """Return (name, data type, shape) for each tensor, in the order of ``tensors``.

    Names that differ only in the layer number share a row, which lists the numbers or their range.
    """
    rows: dict[tuple[str, str, str], list[int]] = {}
    for name, value in tensors.items():
        kind = str(value.dtype).removeprefix("torch."), str(tuple(value.shape))
        rows.setdefault((_LAYER.sub("#", name), *kind), []).extend(map(int, _LAYER.findall(name)))
    found = []
    for (name, dtype, shape), numbers in rows.items():
        shown = ", ".join(map(str, sorted(numbers)))
        if numbers and len(numbers) == max(numbers) - min(numbers) + 1 > 1:  # there are no gaps
            shown = f"{min(numbers)}-{max(numbers)}"
        found.append((name.replace("#", f"{{{shown}}}"), dtype, shape))
    return found


def _order(reader: Reader) -> list[str]:
    found = reader.origin.get("qkv")
    if found:
        return row_order.order_lines(found)
    return ["Query, key and value are separate matrices, so there was no row order to determine."]


def gelu_lines(reader: Reader) -> list[str]:
    """Format ``gelu_evidence`` as a Markdown table, followed by a sentence about what it shows."""
    if reader.fresh_head:
        return ["These files contain no span head, so the two forms of GELU cannot be compared."]
    found = gelu_evidence(reader)
    keys = {"f1": "F1", "loss": "loss", "better_by": "loss advantage",
            "error": "standard error"}  # fmt: skip
    rows = [(gelu, *(f"{row[key]:.4f}" for key in keys)) for gelu, row in found.items()]
    best = max(found, key=lambda gelu: found[gelu]["better_by"])
    verdict = "The difference is within two standard errors, so the comparison is inconclusive."
    if found[best]["better_by"] > 2 * found[best]["error"]:
        verdict = f"The weights fit the {best} form better, by more than two standard errors."
    return [
        f"The kit loaded the model with the {reader.model.config.gelu} form of GELU.",
        "",
        *markdown_table(("GELU", *keys.values()), rows),
        "",
        f"{verdict} We used the {len(row_order.questions())} questions that test the row order.",
    ]


def gelu_evidence(reader: Reader) -> dict[str, dict[str, float]]:
    """For each form of GELU, compute F1 on the ``row_order`` questions and the mean gold-span loss.

    The loss of a question is the negative log-probability (natural logarithm) of its gold start and
    end. ``better_by`` is how much lower the mean loss is than with the other form, and ``error`` is
    the standard error of that difference across questions.
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
    """Return a reader with the given form of GELU and the same weights, without copying them."""
    with torch.device("meta"):
        model = SpanModel(replace(reader.model.config, gelu=gelu))
    model.load_state_dict(reader.model.state_dict(), assign=True)
    return replace(reader, model=model.eval())


def _losses(reader: Reader) -> np.ndarray:
    """Return the negative log-probability of each question's gold span, float ``[questions]``."""
    examples = [
        replace(example, spans=tuple(find_spans(example.context, [answer])[:1]))
        for example, answer in row_order.questions()
    ]
    windows = row_order.plain(reader).windows(examples, training=True)
    logits = torch.from_numpy(
        compute_logits(reader.model, windows, compute=reader.compute)
    ).double()
    losses = np.zeros(len(examples))
    for n, pair in enumerate(windows.pair):
        scores = logits[windows.bounds[n] : windows.bounds[n + 1]].log_softmax(0)
        losses[pair] -= float(scores[windows.start[n], 0] + scores[windows.end[n], 1])
    return losses


def _squad(reader: Reader, examples: list[Example]) -> list[str]:
    if reader.fresh_head:
        return ["These files contain no span head, so nothing can be measured."]
    rows = []
    for gelu in GELUS:
        score = squad_em_and_f1(_with_gelu(reader, gelu), examples)
        low, high = score["f1_interval"]
        percents = (f"{100 * value:.2f}" for value in (score["em"], score["f1"]))
        rows.append((gelu, *percents, f"{100 * low:.1f} to {100 * high:.1f}"))
    return markdown_table(("GELU", "EM (%)", "F1 (%)", "95% confidence interval of F1"), rows)
