"""Turn questions and contexts into windows of tokens, and windows into batches without padding.

We split a context that does not fit into one window into several overlapping windows (Devlin et
al. 2019, §4.2; ``doc_stride`` in Google's ``run_squad.py``). ``Windows`` stores all windows one
after another in flat arrays, and ``gather`` copies those of one batch. No array ever contains
padding, because BioASQ pairs average 69 tokens, and padding them to 384 would waste four fifths of
the computation. The module ``encoder`` explains how attention keeps the windows of a batch apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from helpers.config import InputError
from helpers.data.spans import Span
from helpers.data.squad import Example
from helpers.model.texts import Detokenizer, Texts, ranges, tokenize

Cut = tuple[int, int, int, int]  # (low, high, best_low, best_high); see ``_cut``


@dataclass(frozen=True)
class Windows:
    """Windows of tokens in flat arrays; window ``i`` contains tokens ``bounds[i]:bounds[i + 1]``.

    ids, token_types, positions: int64 ``[total_tokens]``.
    chars: int64 ``[total_tokens, 2]``, the token's start and end offsets in its context.
    token: int64 ``[total_tokens]``, the token's index in its context, or -1 outside the context.
    can_start: bool ``[total_tokens]``, whether an answer may start at the token. Each context token
    can start an answer only in the window that gives it the most context on both sides. An answer
    may end at any context token.
    literal: bool ``[total_tokens]``, whether the tokens of this token's word match the characters
    of the word one to one. unique: bool ``[total_tokens]``, whether the token's text does not occur
    earlier in its word. If all tokens of an answer are literal and the first is unique, the answer
    has their offsets; otherwise, a detokenizer finds its offsets. In windows for training, literal
    and unique are always false.
    bounds: int64 ``[windows + 1]``; pair: int64 ``[windows]``, the index of the example.
    start, end: int64 ``[windows]``, the answer's first and last tokens within the window; both
    are 0 ([CLS]) if the window does not contain the whole answer.
    detokenizers: one per example, for turning tokens into text; empty in windows for training.
    """

    ids: np.ndarray
    token_types: np.ndarray
    positions: np.ndarray
    chars: np.ndarray
    token: np.ndarray
    can_start: np.ndarray
    literal: np.ndarray
    unique: np.ndarray
    bounds: np.ndarray
    pair: np.ndarray
    start: np.ndarray
    end: np.ndarray
    detokenizers: tuple[Detokenizer, ...]

    def __len__(self) -> int:
        return len(self.pair)

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens in each window, int64 ``[windows]``."""
        return np.diff(self.bounds)

    def part(self, low: int, high: int) -> Windows:
        """Return windows ``low:high`` without their detokenizers; examples keep their numbers."""
        tokens = slice(self.bounds[low], self.bounds[high])
        names = (
            "ids",
            "token_types",
            "positions",
            "chars",
            "token",
            "can_start",
            "literal",
            "unique",
        )
        return Windows(
            **{name: getattr(self, name)[tokens] for name in names},
            bounds=self.bounds[low : high + 1] - self.bounds[low],
            **{name: getattr(self, name)[low:high] for name in ("pair", "start", "end")},
            detokenizers=(),
        )

    def tokens_of(self, rows: Sequence[int]) -> np.ndarray:
        """Return the token indices of the given windows, in the given order: int64."""
        return ranges(self.bounds[rows], self.lengths[rows])


@dataclass(frozen=True)
class Batch:
    """The windows for one forward pass, without padding; ``pack`` creates a batch.

    ids, token_types, positions: int64 ``[total_tokens]``; start, end: int64 ``[windows]``.
    bounds: int32 ``[windows + 1]``, cumulative lengths, as variable-length kernels expect them.
    mask: bool ``[windows, longest]``, true where a row padded to the longest window has a token.
    slots: int64 ``[total_tokens]``, the index of each token in the flattened mask.
    share: the fraction of a training batch's windows that this part contains.
    """

    ids: torch.Tensor
    token_types: torch.Tensor
    positions: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor
    bounds: torch.Tensor
    mask: torch.Tensor
    slots: torch.Tensor
    lengths: tuple[int, ...]
    share: float = 1.0

    @classmethod
    def pack(cls, ids, token_types, positions, lengths, start, end, share=1.0) -> Batch:
        """Make a batch of windows with these ``lengths``.

        We compute everything that the layers need in advance on the CPU, because a layer that reads
        a number from a GPU has to wait for all of the GPU's work.
        """
        sizes = torch.tensor(lengths)
        mask = torch.arange(max(lengths)) < sizes[:, None]
        bounds = F.pad(sizes.cumsum(0, dtype=torch.int32), (1, 0))
        slots = mask.flatten().nonzero().flatten()
        tensors = (ids, token_types, positions, start, end, bounds, mask, slots)
        return cls(*tensors, tuple(lengths), share)

    def to(self, device) -> Batch:
        """Return the same batch on another device."""
        tensors = {name: v for name, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **{name: to_device(t, device) for name, t in tensors.items()})


def to_device(tensor: torch.Tensor, device) -> torch.Tensor:
    """Copy a tensor from the CPU to a device, without waiting for earlier work on a GPU."""
    if torch.device(device).type == "cuda":  # only pinned memory is copied in the background
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def make_windows(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    max_length: int = 384,
    step: int = 128,
    max_query: int = 64,
    training: bool = False,
) -> Windows:
    """Cut every example into windows ``[CLS] question [SEP] part of the context [SEP]``.

    ``step`` is the number of tokens from the start of one window to the start of the next. With
    ``training=True``, every gold span gets separate windows, as in the published training files,
    which repeat a pair for each occurrence of its answer. Raise ``InputError`` if a question
    leaves no room for the context.
    """
    texts = tokenize(tokenizer, examples, compare=not training)
    sizes = np.diff(texts.bounds)
    question, context = (
        np.asarray([texts.index[getattr(e, name)] for e in examples], np.int64)
        for name in ("question", "context")
    )
    asked = np.minimum(sizes[question], max_query)
    room = max_length - asked - 3
    for pair in np.flatnonzero(room < 1)[:1]:
        raise InputError(
            f"question {examples[pair].id}: {asked[pair]} tokens leave no room for the context in "
            f"windows of {max_length} tokens; raise max_length or lower max_query"
        )
    answers = [[(-1, -1)]] * len(examples)
    if training:
        chars = [texts.chars[texts.tokens(e.context)] for e in examples]
        answers = [
            [_tokens_at(c, s) for s in e.spans] for c, e in zip(chars, examples, strict=True)
        ]
    cuts = [_cut(*each, step) for each in zip(sizes[context].tolist(), room.tolist(), strict=True)]
    rows = [
        (i, *cut, *answer) for i in range(len(cuts)) for cut in cuts[i] for answer in answers[i]
    ]
    if not rows:
        raise InputError("no windows: there are no examples" + (" with an answer" * training))
    pair, low, high, best_low, best_high, first, last = np.asarray(rows).T
    before = asked[pair] + 2  # tokens: [CLS] question [SEP]
    whole = (first >= low) & (last < high)  # whether the window contains the whole answer
    cuts = low, high, best_low, best_high
    made = {} if training else {e.context: texts.detokenizer(e.context) for e in examples}
    return Windows(
        **_columns(texts, question[pair], asked[pair], context[pair], cuts),
        bounds=np.cumsum([0, *(before + high - low + 1)]),
        pair=pair,
        start=np.where(whole, first - low + before, 0),
        end=np.where(whole, last - low + before, 0),
        detokenizers=() if training else tuple(made[e.context] for e in examples),
    )


def read_ranges(windows: Windows) -> list[list[tuple[int, int]]]:
    """Return the parts of each example's context that its windows contain: (start, end) offsets."""
    ranges_of: list[list[tuple[int, int]]] = [[] for _ in windows.detokenizers]
    for pair, (low, high) in zip(windows.pair, pairwise(windows.bounds), strict=True):
        chars = windows.chars[low:high][windows.token[low:high] >= 0]
        if len(chars):
            ranges_of[pair].append((int(chars[0, 0]), int(chars[-1, 1])))
    return ranges_of


def _columns(
    texts: Texts, question: np.ndarray, asked: np.ndarray, context: np.ndarray, cuts: tuple
) -> dict[str, np.ndarray]:
    """Return the token columns of ``Windows``; every argument has one row per window.

    question, context: the indices of the texts. asked: the number of tokens in the question.
    cuts: the four columns of a ``Cut``. Every step handles all windows at once.
    """
    low, high, best_low, best_high = cuts
    cls, sep = texts.tokenizer.encode("").ids
    lengths = asked + high - low + 3
    heads = np.cumsum(lengths) - lengths
    inside = ranges(heads + asked + 2, high - low)  # where the tokens of the context go
    source = ranges(texts.bounds[context] + low, high - low)  # and where they come from

    def copied(values: np.ndarray, outside) -> np.ndarray:
        result = np.full((lengths.sum(), *values.shape[1:]), outside, values.dtype)
        result[inside] = values
        return result

    ids = copied(texts.ids[source], sep)
    ids[heads] = cls
    ids[ranges(heads + 1, asked)] = texts.ids[ranges(texts.bounds[question], asked)]
    positions = ranges(np.zeros_like(lengths), lengths)
    token = copied(ranges(low, high - low), -1)
    best_low, best_high = np.repeat(best_low, lengths), np.repeat(best_high, lengths)
    return {
        "ids": ids,
        "token_types": (positions >= np.repeat(asked + 2, lengths)).astype(np.int64),
        "positions": positions,
        "chars": copied(texts.chars[source], 0),
        "token": token,
        "can_start": (token >= best_low) & (token < best_high),
        "literal": copied(texts.literal[source], False),
        "unique": copied(texts.unique[source], False),
    }


def _tokens_at(chars: np.ndarray, span: Span) -> tuple[int, int]:
    """Return the first and last tokens that overlap a span, or (-1, -1) if no token does."""
    touched = np.flatnonzero((chars[:, 0] < span.end) & (chars[:, 1] > span.start))
    return (int(touched[0]), int(touched[-1])) if len(touched) else (-1, -1)


def _cut(tokens: int, room: int, step: int) -> list[Cut]:
    """Cut a context; return each window's bounds and the range of tokens for which it is best.

    A token's best window is the one in which the shorter of its left and right contexts is longest
    (``_check_is_max_context`` in Google's ``run_squad.py``). If windows tie, the first one is best.
    """
    if tokens <= room:  # most contexts
        return [(0, tokens, 0, tokens)]
    lows = [0]
    while lows[-1] + room < tokens:
        lows.append(lows[-1] + min(step, room))
    low = np.asarray(lows)
    high = np.minimum(low + room, tokens)
    at = np.arange(tokens)[:, None]
    smaller = np.minimum(at - low, high - 1 - at)  # [tokens, windows]; negative outside the window
    score = np.where(smaller < 0, -np.inf, smaller + 0.01 * (high - low))
    best = score.argmax(axis=1)  # never decreases from token to token
    first, last = (np.searchsorted(best, np.arange(len(low)), side) for side in ("left", "right"))
    return list(zip(*(a.tolist() for a in (low, high, first, last)), strict=True))


def gather(windows: Windows, rows: Sequence[int], share: float = 1.0) -> Batch:
    """Return a batch of the given windows, in the given order."""
    take = windows.tokens_of(rows)
    tokens = (windows.ids[take], windows.token_types[take], windows.positions[take])
    rows = np.asarray(rows)
    targets = (windows.start[rows], windows.end[rows])
    ids, types, positions, start, end = map(torch.from_numpy, (*tokens, *targets))
    return Batch.pack(ids, types, positions, windows.lengths[rows].tolist(), start, end, share)


def training_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """Return one epoch's batches of rows, shuffled, but with rows of similar length together.

    We shuffle the rows, divide them into pools of 16 batches, sort each pool by length, split it
    into batches and shuffle all batches. The same seed and epoch always give the same batches.
    Windows of equal length share an attention call.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    lengths = np.asarray(lengths)
    batches = []
    for low in range(0, len(order), batch_size * 16):
        pool = order[low : low + batch_size * 16]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size].tolist() for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def split_batch(
    rows: Sequence[int], lengths: Sequence[int], parts: int
) -> list[tuple[list[int], float]]:
    """Split a training batch into parts with nearly equal numbers of tokens.

    Return the rows of each part and their share of the batch's windows. Long windows go first, each
    to the part with the fewest tokens, and every part keeps the order of ``rows``. If there are
    fewer rows than parts, the first row fills the empty parts, with a share of 0: every process
    must compute something in every step, because the others wait for its gradients.
    """
    owner, tokens = {}, [0] * parts
    for row in sorted(rows, key=lambda row: -lengths[row]):
        owner[row] = part = tokens.index(min(tokens))
        tokens[part] += int(lengths[row])
    split = [[row for row in rows if owner[row] == part] for part in range(parts)]
    return [(own or list(rows[:1]), len(own) / len(rows)) for own in split]


def prediction_batches(lengths: Sequence[int], tokens: int = 4096) -> list[list[int]]:
    """Return batches of up to ``tokens`` tokens, longest windows first, so memory peaks early."""
    batches: list[list[int]] = []
    used = 0
    for row in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        if not batches or used + lengths[row] > tokens:
            batches.append([])
            used = 0
        batches[-1].append(row)
        used += lengths[row]
    return batches
