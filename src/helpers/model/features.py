"""Turn questions and contexts into windows of tokens, and windows into batches without padding.

We split a context that does not fit into one window into several overlapping windows (Devlin et
al. 2019, §4.2; ``doc_stride`` in Google's ``run_squad.py``). ``Windows`` stores all windows one
after another in flat arrays, and ``gather`` copies those of one batch. No array ever contains
padding, because BioASQ pairs average 69 tokens, and padding them to 384 would waste four fifths of
the computation. The module ``encoder`` explains how attention keeps the windows of a batch apart.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from tokenizers import BertWordPieceTokenizer, Encoding, Tokenizer
from tokenizers.models import WordPiece
from torch.nn import functional as F

from helpers.config import InputError
from helpers.data.spans import WORD, Span
from helpers.data.squad import Example

SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]")
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
        names = ("ids", "token_types", "positions", "chars", "token", "can_start")
        return Windows(
            **{name: getattr(self, name)[tokens] for name in names},
            bounds=self.bounds[low : high + 1] - self.bounds[low],
            **{name: getattr(self, name)[low:high] for name in ("pair", "start", "end")},
            detokenizers=(),
        )

    def tokens_of(self, rows: Sequence[int]) -> np.ndarray:
        """Return the indices of the tokens of some windows, in the given order: int64."""
        return np.concatenate([np.arange(self.bounds[r], self.bounds[r + 1]) for r in rows])


@dataclass(frozen=True)
class Batch:
    """The windows for one forward pass, without padding; ``pack`` makes one.

    ids, token_types, positions: int64 ``[total_tokens]``; start, end: int64 ``[windows]``.
    bounds: int32 ``[windows + 1]``, cumulative lengths, as variable-length kernels expect them.
    mask: bool ``[windows, longest]``, true where a row padded to the longest window has a token.
    slots: int64 ``[total_tokens]``, the index of each token in the flattened mask.
    share: the share of a training batch's windows that are in this part of it.
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
        """Make a batch of windows with these ``lengths``; everything that layers need is computed
        here, on the CPU, because a layer that asks a GPU for a number waits for all of its work."""
        sizes = torch.tensor(lengths)
        mask = torch.arange(max(lengths)) < sizes[:, None]
        bounds = F.pad(sizes.cumsum(0, dtype=torch.int32), (1, 0))
        slots = mask.flatten().nonzero().flatten()
        tensors = (ids, token_types, positions, start, end, bounds, mask, slots)
        return cls(*tensors, tuple(lengths), share)

    def to(self, device) -> Batch:
        """Return the same batch on another device."""
        tensors = {name: v for name, v in vars(self).items() if isinstance(v, torch.Tensor)}
        if torch.device(device).type == "cuda":  # only pinned memory is copied in the background
            tensors = {name: t.pin_memory() for name, t in tensors.items()}
        moved = {name: t.to(device, non_blocking=True) for name, t in tensors.items()}
        return replace(self, **moved)


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
    encoded = _encode(tokenizer, examples)
    cls, sep = tokenizer.encode("").ids
    windows = []  # (pair, columns, first and last tokens of the answer)
    for pair, example in enumerate(examples):
        before = [cls, *encoded[example.question].ids[:max_query], sep]
        room = max_length - len(before) - 1
        if room < 1:
            raise InputError(
                f"question {example.id}: {len(before) - 2} tokens leave no room for the context in "
                f"windows of {max_length} tokens; raise max_length or lower max_query"
            )
        context = encoded[example.context]
        answers = [_tokens_at(context, span) for span in example.spans] if training else [None]
        for cut in _cut(len(context), room, step):
            columns = _columns(before, context, sep, cut)
            windows += [(pair, columns, *_target(answer, cut, len(before))) for answer in answers]
    if not windows:
        raise InputError("no windows: there are no examples" + (" with an answer" * training))
    pairs, columns, starts, ends = zip(*windows, strict=True)
    contexts = set() if training else {example.context for example in examples}
    made = {text: Detokenizer(text, encoded[text], tokenizer) for text in contexts}
    return Windows(
        **{name: np.concatenate([window[name] for window in columns]) for name in columns[0]},
        bounds=np.cumsum([0, *(len(window["ids"]) for window in columns)]),
        pair=np.asarray(pairs),
        start=np.asarray(starts),
        end=np.asarray(ends),
        detokenizers=() if training else tuple(made[example.context] for example in examples),
    )


def _encode(tokenizer: Tokenizer, examples: Sequence[Example]) -> dict[str, Encoding]:
    """Tokenize each distinct text once; BioASQ repeats a question for each of its snippets."""
    texts = list(dict.fromkeys(text for e in examples for text in (e.question, e.context)))
    return dict(zip(texts, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True))


def _cut(tokens: int, room: int, step: int) -> list[Cut]:
    """Cut a context; return each window's bounds and the range of tokens for which it is best.

    A token's best window is the one in which the shorter of its left and right contexts is longest
    (``_check_is_max_context`` in Google's ``run_squad.py``). If windows tie, the first one is best.
    """
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


def _columns(before: list[int], context: Encoding, sep: int, cut: Cut) -> dict[str, np.ndarray]:
    """Return the token columns of ``Windows`` for a cut; ``before`` holds the preceding ids."""
    low, high, best_low, best_high = cut
    token = np.asarray([-1] * len(before) + [*range(low, high), -1])
    outside = [(0, 0)]
    return {
        "ids": np.asarray([*before, *context.ids[low:high], sep]),
        "token_types": np.repeat([0, 1], [len(before), high - low + 1]),
        "positions": np.arange(len(token)),
        "chars": np.asarray(outside * len(before) + context.offsets[low:high] + outside),
        "token": token,
        "can_start": (token >= best_low) & (token < best_high),
    }


def _tokens_at(context: Encoding, span: Span) -> tuple[int, int] | None:
    """Return the first and last tokens that overlap a span, or None if no token does."""
    start, end = np.asarray(context.offsets).reshape(-1, 2).T
    touched = np.flatnonzero((start < span.end) & (end > span.start)).tolist()
    return (touched[0], touched[-1]) if touched else None


def _target(answer: tuple[int, int] | None, cut: Cut, before: int) -> tuple[int, int]:
    """Return the answer's first and last tokens in a window; (0, 0) if part of it is missing."""
    low, high, *_ = cut
    if answer is None or answer[0] < low or answer[1] >= high:
        return 0, 0
    return answer[0] - low + before, answer[1] - low + before


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


class Detokenizer:
    """A converter from the tokens of one context to text, modeled on Google's ``get_final_text``.

    Google's code (``run_squad.py``) has no character offsets. It takes the words that an answer
    touches, normalizes them as the tokenizer does, searches the result for the answer's tokens and
    maps the position back to the words by counting the non-space characters. If that fails,
    it keeps whole words.
    """

    def __init__(self, context: str, encoding: Encoding, tokenizer: Tokenizer):
        self.context = context
        words = WORD.findall(context)
        self.has_single_spaces = " ".join(words) == context
        self.before = [0, *accumulate(map(len, words))]  # characters before each word, no spaces
        self.starts = [match.start() for match in WORD.finditer(context)]
        offsets, tokens = encoding.offsets, encoding.tokens
        self.word = [bisect_right(self.starts, low) - 1 for low, _ in offsets]  # per token
        self.unknown = [number for number, token in enumerate(tokens) if token == "[UNK]"]
        for number in self.unknown:
            low, high = offsets[number]
            tokens[number] = tokenizer.normalizer.normalize_str(context[low:high]).strip()
        normalized = ""
        self.at: list[tuple[int, int]] = []  # each token's range in ``normalized``
        for token in tokens:
            piece = token.removeprefix("##")
            normalized += piece if token.startswith("##") else f" {piece}"
            self.at.append((len(normalized) - len(piece), len(normalized)))
        self.normalized = normalized

    def decode(self, first: int, last: int) -> tuple[int, int, str]:
        """Return (start character, end character, text) for tokens ``first`` to ``last``.

        The text has a single space between words, whatever separates them in the context.
        """
        first_word, last_word = self.word[first], self.word[last]
        low = self.at[bisect_left(self.word, first_word)][0]
        high = self.at[bisect_right(self.word, last_word) - 1][1]
        start, end = self.before[first_word], self.before[last_word + 1]
        known = not any(first <= number <= last for number in self.unknown)
        if known and end - start == high - low - self.normalized.count(" ", low, high):
            answer = self.normalized[self.at[first][0] : self.at[last][1]]
            found = self.normalized.find(answer, low, high)  # the first match, as in Google's code
            start += found - low - self.normalized.count(" ", low, found)
            end = start + len(answer) - answer.count(" ")
        start, end = self._with_spaces(start), self._with_spaces(end - 1) + 1
        if self.has_single_spaces:  # much faster
            return start, end, self.context[start:end]
        return start, end, span_text(self.context, start, end)

    def _with_spaces(self, number: int) -> int:
        """Convert a character position that ignores spaces to an index in the context."""
        word = bisect_right(self.before, number) - 1
        return self.starts[word] + number - self.before[word]


def span_text(context: str, start: int, end: int) -> str:
    """Return a part of a context with a single space between words."""
    return " ".join(WORD.findall(context[start:end]))


def read_vocab(path: str | Path, special: Sequence[str] = SPECIAL) -> list[str]:
    """Read the tokens of BERT's ``vocab.txt``, which lists them in the order of their ids.

    Raise ``InputError`` if the file is missing, is not UTF-8 or lacks a ``special`` token.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such vocabulary; expected BERT's vocab.txt with one token per line"
        )
    try:
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start}); fetch the file again") from None
    _check_special(path, special, tokens)
    return tokens


def _check_special(path: Path, special: Sequence[str], tokens) -> None:
    missing = sorted(str(token) for token in set(special) - set(tokens))
    if missing:
        raise InputError(f"{path}: not a BERT vocabulary because it lacks {', '.join(missing)}")


def check_vocab_size(path: Path, tokens: int, rows: int) -> None:
    """Raise ``InputError`` unless the embeddings have one row per token, apart from padding rows.

    Padding rounds the number of rows up to a multiple of a power of two from 8 to 1024.
    """
    if rows not in (tokens, *(-(-tokens // 2**n) * 2**n for n in range(3, 11))):
        raise InputError(
            f"{path}: the vocabulary has {tokens} tokens, but the model embeds {rows}; it belongs "
            "to a different model"
        )


def is_cased(tokens: Sequence[str]) -> bool:
    """Return whether more than 1% of the tokens contain capitals, ignoring special tokens."""
    capitals = sum(token != token.lower() for token in tokens if not token.startswith("["))
    return 100 * capitals > len(tokens)


def make_tokenizer(tokens: Sequence[str]) -> Tokenizer:
    """Build a BERT WordPiece tokenizer that lowercases only if the vocabulary has no capitals."""
    ids = {token: number for number, token in enumerate(tokens)}
    bert = BertWordPieceTokenizer(ids, lowercase=not is_cased(tokens))
    return Tokenizer.from_str(bert.to_str())


def tokens_of(tokenizer: Tokenizer) -> list[str]:
    """Return all tokens, including added ones, in the order of their ids; "" for unused ids."""
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    return [by_id.get(number, "") for number in range(max(by_id) + 1)]


def read_tokenizer(folder: Path, rows: int) -> Tokenizer:
    """Read a transformers folder's tokenizer with ``AutoTokenizer``, which uses all of its files.

    We differ from transformers in one case. If no file states ``do_lower_case`` and the vocabulary
    has capitals, as in BioBERT's first release, we keep capitals, but transformers would turn
    them into ``[UNK]``. Raise ``InputError`` if the tokenizer is not BERT's WordPiece, if its
    vocabulary does not fit ``rows`` embeddings, or if the folder's two vocabularies disagree.
    """
    from transformers import AutoTokenizer, logging  # this import takes half a second

    files = [path for name in ("tokenizer.json", "vocab.txt") if (path := folder / name).is_file()]
    if not files:
        raise InputError(f"{folder}: contains neither tokenizer.json nor vocab.txt")
    try:
        logging.set_verbosity_error()
        options = folder / "tokenizer_config.json"
        stated = json.loads(options.read_text(encoding="utf-8")) if options.is_file() else {}
        load = partial(AutoTokenizer.from_pretrained, folder, local_files_only=True)
        theirs = load()
        if "do_lower_case" not in stated and is_cased(list(theirs.get_vocab())):
            theirs = load(do_lower_case=False)
        tokenizer = theirs.backend_tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        template = tokenizer.encode("", "")
    except Exception as error:  # transformers, tokenizers and json each raise different errors
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(
            f"{files[0]}: not a BERT tokenizer ({why[:120]}); fetch it again"
        ) from None
    if not isinstance(tokenizer.model, WordPiece) or template.type_ids != [0, 0, 1]:
        kind = type(tokenizer.model).__name__
        raise InputError(
            f"{files[0]}: a {kind} tokenizer; expected BERT's WordPiece with [CLS] and [SEP]"
        )
    special = (theirs.unk_token, theirs.cls_token, theirs.sep_token, theirs.pad_token)
    _check_special(files[0], special, tokenizer.get_vocab(with_added_tokens=False))
    check_vocab_size(files[0], max(tokenizer.get_vocab().values()) + 1, rows)
    if len(files) == 2:
        ids = {token: n for n, token in enumerate(read_vocab(folder / "vocab.txt", special))}
        for token in ids:
            if token and tokenizer.token_to_id(token) != ids[token]:  # "" marks an unused id
                raise InputError(
                    f"{folder}: {token!r} has id {ids[token]} in vocab.txt but "
                    f"{tokenizer.token_to_id(token)} in tokenizer.json; remove the incorrect file"
                )
    return tokenizer
