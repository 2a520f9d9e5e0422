"""Questions and contexts become windows of tokens, and windows become batches without padding.

A context longer than one window is read through several overlapping ones (BERT, Devlin et al.
2019, §4.2; Google's ``run_squad.py``, ``doc_stride``). All windows lie one behind the other in flat
arrays; a batch is a gather from them, so no token of padding is ever computed on. BioASQ pairs
average 69 tokens: padded to 384, four fifths of the work would be padding.

The text of an answer, cut from its context as Google BERT's SQuAD code cuts it.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from tokenizers import BertWordPieceTokenizer, Encoding, Tokenizer
from tokenizers.models import WordPiece

from helpers.config import InputError
from helpers.data.spans import WORD
from helpers.data.squad import Example


class Spelling:
    """One context and its tokens, from which an answer's text is cut as Google's code does it.

    That code knows words between blanks and lower-cased tokens, no offsets: it takes the words
    that an answer touches, spells them as the tokenizer does before WordPiece, looks for the
    answer's tokens in them and carries the place found over to the words, character by character
    (``get_final_text`` in ``run_squad.py``). Where that fails, the words stay whole.
    """

    def __init__(self, context: str, encoding: Encoding, tokenizer: Tokenizer):
        self.context = context
        words = WORD.findall(context)
        self.has_single_blanks = " ".join(words) == context
        self.before = [0, *accumulate(map(len, words))]  # characters up to a word, without blanks
        self.starts = [match.start() for match in WORD.finditer(context)]
        offsets, tokens = encoding.offsets, encoding.tokens
        self.word = [bisect_right(self.starts, low) - 1 for low, _ in offsets]  # of a token
        self.unknown = [number for number, token in enumerate(tokens) if token == "[UNK]"]
        for number in self.unknown:
            low, high = offsets[number]
            tokens[number] = tokenizer.normalizer.normalize_str(context[low:high]).strip()
        self.spelled = " ".join(tokens).replace(" ##", "")
        self.at: list[tuple[int, int]] = []  # a token's characters in ``spelled``
        end = -1
        for token in tokens:
            start, size = (end, -2) if token.startswith("##") else (end + 1, 0)
            end = start + size + len(token)
            self.at.append((start, end))

    def cut(self, first: int, last: int) -> tuple[int, int, str]:
        """Characters and text of the answer from token ``first`` to token ``last``.

        The text has one blank between two words whatever stands between them in the context.
        """
        here, there = self.word[first], self.word[last]
        low = self.at[bisect_left(self.word, here)][0]
        high = self.at[bisect_right(self.word, there) - 1][1]
        start, end = self.before[here], self.before[there + 1]
        known = not any(first <= number <= last for number in self.unknown)
        if known and end - start == high - low - self.spelled.count(" ", low, high):
            answer = self.spelled[self.at[first][0] : self.at[last][1]]
            found = self.spelled.find(answer, low, high)  # the first such place, as in Google's
            start += found - low - self.spelled.count(" ", low, found)
            end = start + len(answer) - answer.count(" ")
        start, end = self._character(start), self._character(end - 1) + 1
        text = self.context[start:end]
        return start, end, text if self.has_single_blanks else " ".join(WORD.findall(text))

    def _character(self, number: int) -> int:
        """Place in the context of a character counted without blanks."""
        word = bisect_right(self.before, number) - 1
        return self.starts[word] + number - self.before[word]


SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]")
# Embeddings have as many rows as the vocabulary has tokens, or are padded to a multiple of these.
_PADDED_TO = tuple(2**n for n in range(3, 11))


@dataclass(frozen=True)
class Windows:
    """Windows of tokens, flat: window ``i`` owns tokens ``bounds[i]:bounds[i + 1]``.

    ids, token_types, positions: int64 ``[total_tokens]``.
    chars: int64 ``[total_tokens, 2]``, the token's characters in its context.
    token: int64 ``[total_tokens]``, the token's number in its context, -1 outside of it.
    can_start: bool ``[total_tokens]``, where an answer may begin: each context token in the one
    window that shows most text around it. An answer may end on any context token.
    bounds: int64 ``[n + 1]``; pair: int64 ``[n]``, index of the window's example.
    start, end: int64 ``[n]``, the answer's tokens in the window, 0 ([CLS]) when it lies outside.
    spellings: one per example, to cut answers from; empty when made for training.
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
    spellings: tuple[Spelling, ...]

    def __len__(self) -> int:
        return len(self.pair)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per window, int64 ``[n]``."""
        return np.diff(self.bounds)


@dataclass(frozen=True)
class Batch:
    """Windows for one forward pass, unpadded. Tensors are int64 ``[total_tokens]`` or ``[n]``."""

    ids: torch.Tensor
    token_types: torch.Tensor
    positions: torch.Tensor
    lengths: tuple[int, ...]
    start: torch.Tensor
    end: torch.Tensor

    def to(self, device) -> Batch:
        """The same batch on another device."""
        tensors = (self.ids, self.token_types, self.positions, self.start, self.end)
        ids, types, positions, start, end = (t.to(device, non_blocking=True) for t in tensors)
        return Batch(ids, types, positions, self.lengths, start, end)


def read_vocab(path: str | Path, special: Sequence[str] = SPECIAL) -> list[str]:
    """The tokens of BERT's ``vocab.txt``, one per line, in the order of their ids.

    Raises ``InputError`` when the file is missing or lacks one of the ``special`` tokens.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such vocabulary; expected BERT's vocab.txt, one token a line")
    try:
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start}); fetch it again") from None
    _check_special(path, special, tokens)
    return tokens


def is_cased(tokens: Sequence[str]) -> bool:
    """Whether more than one token in 100 has capitals; special tokens do not count."""
    capitals = sum(token != token.lower() for token in tokens if not token.startswith("["))
    return 100 * capitals > len(tokens)


def make_tokenizer(tokens: Sequence[str]) -> Tokenizer:
    """BERT's WordPiece tokenizer; it lower-cases unless the vocabulary has capitals (BioBERT's)."""
    ids = {token: number for number, token in enumerate(tokens)}
    bert = BertWordPieceTokenizer(ids, lowercase=not is_cased(tokens))
    return Tokenizer.from_str(bert.to_str())


def read_tokenizer(folder: Path, rows: int) -> Tokenizer:
    """The tokenizer of a transformers folder, built by ``AutoTokenizer`` from all of its files.

    There is one difference: if no file states ``do_lower_case`` and the vocabulary has capitals,
    as in BioBERT's first release, they are kept; transformers would turn them into ``[UNK]``.
    Raises ``InputError`` when the tokenizer is not BERT's WordPiece, when its vocabulary does not
    fit ``rows`` of embeddings, or when the folder's two vocabularies disagree.
    """
    from transformers import AutoTokenizer, logging  # takes half a second

    names = [name for name in ("tokenizer.json", "vocab.txt") if (folder / name).is_file()]
    if not names:
        raise InputError(f"{folder}: neither tokenizer.json nor vocab.txt in this folder")
    place = folder / names[0]
    try:
        logging.set_verbosity_error()
        options = folder / "tokenizer_config.json"
        stated = json.loads(options.read_text(encoding="utf-8")) if options.is_file() else {}
        theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if "do_lower_case" not in stated and is_cased(list(theirs.get_vocab())):
            theirs = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, do_lower_case=False
            )
        tokenizer = theirs.backend_tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        template = tokenizer.encode("", "")
    except Exception as error:  # transformers, tokenizers and json each raise their own
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(f"{place}: not a BERT tokenizer ({why[:120]}); fetch it again") from None
    if not isinstance(tokenizer.model, WordPiece) or template.type_ids != [0, 0, 1]:
        kind = type(tokenizer.model).__name__
        raise InputError(f"{place}: a {kind} tokenizer; expected BERT's WordPiece, [CLS] and [SEP]")
    special = (theirs.unk_token, theirs.cls_token, theirs.sep_token, theirs.pad_token)
    _check_special(place, special, tokenizer.get_vocab(with_added_tokens=False))
    check_vocab_size(place, max(tokenizer.get_vocab().values()) + 1, rows)
    if len(names) == 2:
        _compare(folder, tokenizer, read_vocab(folder / "vocab.txt", special))
    return tokenizer


def _compare(folder: Path, tokenizer: Tokenizer, tokens: list[str]) -> None:
    for token, number in {token: n for n, token in enumerate(tokens)}.items():  # the last counts
        if token and tokenizer.token_to_id(token) != number:  # "": an id that is not in use
            raise InputError(
                f"{folder}: {token!r} is token {number} in vocab.txt and "
                f"{tokenizer.token_to_id(token)} in tokenizer.json; remove the wrong file"
            )


def tokens_of(tokenizer: Tokenizer) -> list[str]:
    """All tokens in the order of their ids, added ones too; "" where an id is not in use."""
    ids = tokenizer.get_vocab()
    tokens = [""] * (max(ids.values()) + 1)
    for token, number in ids.items():
        tokens[number] = token
    return tokens


def check_vocab_size(path: Path, tokens: int, rows: int) -> None:
    """Raise ``InputError`` unless the embeddings have a row per token, or padding on top."""
    if rows not in (tokens, *(-(-tokens // size) * size for size in _PADDED_TO)):
        raise InputError(
            f"{path}: the vocabulary has {tokens} tokens, the model embeds {rows}; it belongs to "
            "another model"
        )


def _check_special(path: Path, special: Sequence[str], tokens) -> None:
    missing = sorted(str(token) for token in set(special) - set(tokens))
    if missing:
        raise InputError(f"{path}: not a BERT vocabulary, it lacks {', '.join(missing)}")


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

    ``step`` counts tokens from one window's start to the next. With ``training`` an example gives
    one row per gold span, as in the published BioASQ training files, where the same pair stands
    once for each occurrence of the answer; otherwise it gives one row. ``pair`` keeps the
    example's index in both cases. Raises ``InputError`` when a question leaves no room for text.
    """
    encode = _encoder(tokenizer, [e.question for e in examples], [e.context for e in examples])
    cls, sep = tokenizer.encode("").ids
    parts: dict[str, list] = {
        k: [] for k in ("ids", "types", "positions", "chars", "token", "best")
    }
    pairs, starts, ends = [], [], []
    spelled: dict[str, Spelling] = {}
    for index, example in enumerate(examples):
        query = encode[example.question].ids[:max_query]
        text = encode[example.context]
        room = max_length - len(query) - 3
        if room < 1:
            raise InputError(
                f"question {example.id}: {len(query)} tokens leave no room in windows of "
                f"{max_length}; raise max_length or lower max_query"
            )
        tokens, chars = np.asarray(text.ids, np.int64), np.asarray(text.offsets, np.int64)
        chars = chars.reshape(-1, 2)
        if not training and example.context not in spelled:
            spelled[example.context] = Spelling(example.context, text, tokenizer)
        spans = [_token_span(chars, s.start, s.end) for s in example.spans] if training else [None]
        offset = len(query) + 2
        for low, high, best_low, best_high in _cut(len(tokens), room, step):
            length = high - low + offset + 1
            here = slice(low, high)
            best = np.zeros(high - low, bool)
            best[best_low - low : best_high - low] = True
            ids = np.concatenate([[cls], query, [sep], tokens[here], [sep]]).astype(np.int64)
            types = np.repeat([0, 1], [offset, length - offset])
            pad = ((offset, 1),)
            row = (
                ids,
                types,
                np.arange(length),
                np.pad(chars[here], (*pad, (0, 0))),
                np.pad(np.arange(low, high), pad, constant_values=-1),
                np.pad(best, pad),
            )
            for span in spans:
                for store, values in zip(parts.values(), row, strict=True):
                    store.append(values)
                inside = span is not None and low <= span[0] and span[1] < high
                starts.append(span[0] - low + offset if inside else 0)
                ends.append(span[1] - low + offset if inside else 0)
                pairs.append(index)
    if not pairs:
        raise InputError("no windows: there are no examples" + (" with an answer" * training))
    flat = {name: np.concatenate(values) for name, values in parts.items()}
    bounds = np.concatenate([[0], np.cumsum([len(v) for v in parts["ids"]])])
    return Windows(
        ids=flat["ids"],
        token_types=flat["types"],
        positions=flat["positions"],
        chars=flat["chars"],
        token=flat["token"],
        can_start=flat["best"],
        bounds=bounds,
        pair=np.asarray(pairs),
        start=np.asarray(starts),
        end=np.asarray(ends),
        spellings=() if training else tuple(spelled[e.context] for e in examples),
    )


def gather(windows: Windows, rows: Sequence[int]) -> Batch:
    """The batch of the given windows, in the given order."""
    spans = [(windows.bounds[r], windows.bounds[r + 1]) for r in rows]
    take = np.concatenate([np.arange(a, b) for a, b in spans])
    rows = np.asarray(rows)
    return Batch(
        ids=torch.from_numpy(windows.ids[take]),
        token_types=torch.from_numpy(windows.token_types[take]),
        positions=torch.from_numpy(windows.positions[take]),
        lengths=tuple(int(b - a) for a, b in spans),
        start=torch.from_numpy(windows.start[rows]),
        end=torch.from_numpy(windows.end[rows]),
    )


def training_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """One epoch's batches: shuffled, near-equal lengths together, the same for the same seed.

    Rows are shuffled, cut into pools of 16 batches, sorted by length within a pool and cut again;
    then the batches are shuffled. Equal lengths share one attention call.
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


def prediction_batches(lengths: Sequence[int], tokens: int = 4096) -> list[list[int]]:
    """Batches of at most ``tokens`` tokens, longest windows first, so memory peaks at the start."""
    batches: list[list[int]] = []
    used = 0
    for row in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        if not batches or used + lengths[row] > tokens:
            batches.append([])
            used = 0
        batches[-1].append(row)
        used += lengths[row]
    return batches


def _encoder(tokenizer, *texts: Sequence[str]) -> dict:
    """Tokenize every distinct text once; BioASQ repeats a question for each of its snippets."""
    distinct = list(dict.fromkeys(t for group in texts for t in group))
    return dict(
        zip(distinct, tokenizer.encode_batch(distinct, add_special_tokens=False), strict=True)
    )


def _token_span(chars: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """First and last token that overlap characters ``start:end``; None when there is none."""
    touched = np.flatnonzero((chars[:, 0] < end) & (chars[:, 1] > start))
    return (int(touched[0]), int(touched[-1])) if len(touched) else None


def _cut(tokens: int, room: int, step: int) -> list[tuple[int, int, int, int]]:
    """Windows over ``tokens`` tokens: (low, high) and the part for which it is the best window.

    A token seen by several windows belongs to the one where the smaller of its left and right
    contexts is largest (``_check_is_max_context`` in Google's ``run_squad.py``), ties to the first.
    """
    lows = [0]
    while lows[-1] + room < tokens:
        lows.append(lows[-1] + min(step, room))
    cuts = [(low, min(low + room, tokens)) for low in lows]
    if len(cuts) == 1:
        return [(*cuts[0], *cuts[0])]
    at = np.arange(tokens)
    scores = [
        np.where(
            (at >= low) & (at < high),
            np.minimum(at - low, high - 1 - at) + 0.01 * (high - low),
            -np.inf,
        )
        for low, high in cuts
    ]
    best = np.argmax(scores, axis=0)
    result = []
    for number, (low, high) in enumerate(cuts):
        own = np.flatnonzero(best == number)
        first, last = (int(own[0]), int(own[-1]) + 1) if len(own) else (low, low)
        result.append((low, high, first, last))
    return result
