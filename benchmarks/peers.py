"""Baselines for the benchmarks: what users of transformers run today.

``run_qa`` is an example script in transformers. We reimplemented what it does: features, padding to
the maximum length, and the search for the best spans.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.nn import functional as F

from helpers.data.squad import Example
from helpers.model.checkpoints import save_transformers
from helpers.model.decoding import Reader
from helpers.model.encoder import pad
from helpers.model.features import Windows, gather

MAX_LENGTH, STRIDE = 384, 128  # the defaults of run_qa
NO_DATASETS = "the rows with datasets are omitted because this package is not installed"


# ---- the model


def bert(reader: Reader) -> transformers.BertForQuestionAnswering:
    """Return transformers' model with the reader's weights, without dropout (like ours)."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_transformers(reader, Path(scratch) / "model")
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return transformers.BertForQuestionAnswering.from_pretrained(folder, **no_dropout).eval()


def padded(windows: Windows, rows: Sequence[int], length: int = 0) -> dict[str, torch.Tensor]:
    """Pad a batch to its longest window, or to ``length``: int64 ``[windows, length]`` each."""
    batch = gather(windows, rows)
    tensors = {
        "input_ids": pad(batch.ids, batch, 0),
        "token_type_ids": pad(batch.token_types, batch, 0),
        "attention_mask": batch.mask.long(),
    }
    room = max(0, length - batch.mask.shape[1])
    return {name: F.pad(tensor, (0, room)) for name, tensor in tensors.items()}


def labels(windows: Windows, rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the first and last tokens of a batch's answers, with transformers' names as keys."""
    batch = gather(windows, rows)
    return {"start_positions": batch.start, "end_positions": batch.end}


@contextmanager
def attention(model: transformers.PreTrainedModel, name: str) -> Iterator[None]:
    """Use this attention ("eager" or "sdpa") in the block, with the same weights."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def logits(model, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits of a padded batch without the padding: ``[total_tokens, 2]``."""
    found = model(**batch)
    both = torch.stack([found.start_logits, found.end_logits], -1)
    return both[batch["attention_mask"].bool()]


def loss_without_padding(model, batch: Mapping[str, torch.Tensor], targets: Mapping):
    """Return the mean of the two cross-entropies over each window's own tokens.

    The model's own loss includes the padding in the softmax, so it depends on the padding.
    """
    found = model(**batch)
    outside = batch["attention_mask"] == 0
    losses = [
        F.cross_entropy(values.masked_fill(outside, float("-inf")), positions)
        for values, positions in zip(
            (found.start_logits, found.end_logits), targets.values(), strict=True
        )
    ]
    return sum(losses) / 2


# ---- features


def fast_tokenizer(folder: str | Path):
    """Return transformers' tokenizer for a checkpoint folder."""
    transformers.logging.set_verbosity_error()
    return transformers.AutoTokenizer.from_pretrained(folder)


def as_dataset_rows(examples: Sequence[Example]) -> list[dict]:
    """Return the examples as rows of the squad dataset, with unique row ids."""
    return [
        {
            "id": str(number),
            "question": e.question,
            "context": e.context,
            "answers": {
                "text": [span.text for span in e.spans],
                "answer_start": [span.start for span in e.spans],
            },
        }
        for number, e in enumerate(examples)
    ]


def columns(rows: Iterable[Mapping]) -> dict[str, list]:
    """Return rows as the columns that ``datasets.map`` passes to a function."""
    rows = list(rows)
    return {name: [row[name] for row in rows] for name in rows[0]}


def _encode(tokenizer, batch: Mapping[str, list], max_length: int, stride: int):
    """Tokenize as run_qa does, into overlapping windows padded to the maximum length."""
    return tokenizer(
        [question.lstrip() for question in batch["question"]],
        batch["context"],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length",
    )


def training_features(tokenizer, max_length: int = MAX_LENGTH, stride: int = STRIDE) -> Callable:
    """Return the function that run_qa maps over the training rows."""

    def prepare(batch: Mapping[str, list]) -> dict:
        encoded = _encode(tokenizer, batch, max_length, stride)
        source = encoded.pop("overflow_to_sample_mapping")
        mapping = encoded.pop("offset_mapping")
        starts, ends = [], []
        for window, offsets in enumerate(mapping):
            cls = encoded["input_ids"][window].index(tokenizer.cls_token_id)
            answers = batch["answers"][source[window]]
            first = last = cls
            if answers["answer_start"]:
                low = answers["answer_start"][0]
                high = low + len(answers["text"][0])
                first, last = _answer_tokens(offsets, encoded.sequence_ids(window), low, high, cls)
            starts.append(first)
            ends.append(last)
        return {**encoded, "start_positions": starts, "end_positions": ends}

    return prepare


def _answer_tokens(offsets, sequence, low: int, high: int, cls: int) -> tuple[int, int]:
    """Return the first and last token of ``low:high``, or (cls, cls) if it exceeds the window.

    run_qa walks through the tokens of the window one by one, from both ends.
    """
    first = 0
    while sequence[first] != 1:
        first += 1
    last = len(offsets) - 1
    while sequence[last] != 1:
        last -= 1
    if offsets[first][0] > low or offsets[last][1] < high:
        return cls, cls
    while first < len(offsets) and offsets[first][0] <= low:
        first += 1
    while offsets[last][1] >= high:
        last -= 1
    return first - 1, last + 1


def prediction_features(tokenizer, max_length: int = MAX_LENGTH, stride: int = STRIDE) -> Callable:
    """Return the function that run_qa maps over the rows to predict."""

    def prepare(batch: Mapping[str, list]) -> dict:
        encoded = _encode(tokenizer, batch, max_length, stride)
        source = encoded.pop("overflow_to_sample_mapping")
        encoded["example_id"] = [batch["id"][number] for number in source]
        for window, offsets in enumerate(encoded["offset_mapping"]):
            sequence = encoded.sequence_ids(window)
            encoded["offset_mapping"][window] = [
                offset if sequence[token] == 1 else None for token, offset in enumerate(offsets)
            ]
        return dict(encoded)

    return prepare


def saved_dataset(rows: Sequence[Mapping], folder: Path):
    """Save the rows as a dataset on disk, from which run_qa reads its rows, and return it.

    Raise ``ImportError`` if the package ``datasets`` is missing.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(list(rows)).save_to_disk(str(folder))
    return datasets.load_from_disk(str(folder))


def mapped(dataset, prepare: Callable):
    """Compute the features in batches of 1,000 rows and write them to disk, as run_qa does."""
    return dataset.map(
        prepare, batched=True, remove_columns=dataset.column_names, load_from_cache_file=False
    )


# ---- the search for the best spans


def postprocess(
    examples, features, logits: tuple[np.ndarray, np.ndarray], size: int = 20, longest: int = 30
) -> dict[str, list[dict]]:
    """Map each row id to its n-best list, computed as in run_qa's postprocessing.

    examples, features: datasets, or lists with the same rows.
    logits: the start and end logits, float32 ``[windows, length]`` each.
    """
    place = {name: number for number, name in enumerate(examples["id"])} if not isinstance(
        examples, list
    ) else {row["id"]: number for number, row in enumerate(examples)}  # fmt: skip
    windows = defaultdict(list)
    for number, feature in enumerate(features):
        windows[place[feature["example_id"]]].append(number)
    found = {}
    for number, example in enumerate(examples):
        spans = []
        for window in windows[number]:
            start, end = (values[window] for values in logits)
            offsets = features[window]["offset_mapping"]
            # run_qa reads the row again to look for a column that its features do not have.
            features[window].get("token_is_max_context")
            spans += _spans(start, end, offsets, size, longest)
        best = sorted(spans, key=lambda span: span["score"], reverse=True)[:size]
        found[example["id"]] = _with_texts(best, example["context"])
    return found


def _spans(start: np.ndarray, end: np.ndarray, offsets, size: int, longest: int) -> list[dict]:
    """Return all spans between the best starts and ends of a window (logits: ``[length]``)."""
    starts, ends = (np.argsort(values)[: -size - 1 : -1].tolist() for values in (start, end))
    spans = []
    for first in starts:
        for last in ends:
            if max(first, last) >= len(offsets) or not (offsets[first] and offsets[last]):
                continue
            if last < first or last - first + 1 > longest:
                continue
            spans.append({
                "offsets": (offsets[first][0], offsets[last][1]),
                "score": start[first] + end[last],
                "start_logit": start[first],
                "end_logit": end[last],
            })  # fmt: skip
    return spans


def _with_texts(spans: list[dict], context: str) -> list[dict]:
    """Replace offsets with texts and scores with probabilities; convert numbers to floats."""
    for span in spans:
        low, high = span.pop("offsets")
        span["text"] = context[low:high]
    if not spans or (len(spans) == 1 and not spans[0]["text"]):
        spans.insert(0, {"text": "empty", "start_logit": 0.0, "end_logit": 0.0, "score": 0.0})
    scores = np.array([span.pop("score") for span in spans])
    weights = np.exp(scores - scores.max())
    for span, probability in zip(spans, weights / weights.sum(), strict=True):
        span["probability"] = probability
    return [
        {k: float(v) if isinstance(v, np.floating) else v for k, v in span.items()}
        for span in spans
    ]
