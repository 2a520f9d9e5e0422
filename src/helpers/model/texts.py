"""Tokenizers, tokenized texts, and the conversion of tokens back to text.

``tokenize`` reads each distinct word of many texts once. ``Detokenizer`` turns the tokens of an
answer into text as Google's code does. ``read_tokenizer`` and ``make_tokenizer`` build BERT's
tokenizer from a checkpoint's files.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, count
from pathlib import Path

import numpy as np
from tokenizers import BertWordPieceTokenizer, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from helpers.config import InputError
from helpers.data.spans import WORD
from helpers.data.squad import Example

SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]")
_JOINED = 1000  # words


@dataclass(frozen=True)
class Texts:
    """Distinct texts in flat arrays; text number ``i`` has tokens ``bounds[i]:bounds[i + 1]``.

    index: the number of each text. ids, chars, literal, unique: as in ``Windows``.
    """

    tokenizer: Tokenizer
    index: dict[str, int]
    bounds: np.ndarray
    ids: np.ndarray
    chars: np.ndarray
    literal: np.ndarray
    unique: np.ndarray

    def tokens(self, text: str) -> slice:
        """Return the slice of the arrays that contains a text's tokens."""
        number = self.index[text]
        return slice(self.bounds[number], self.bounds[number + 1])

    def detokenizer(self, text: str) -> Detokenizer:
        """Return a converter from a text's tokens to parts of the text."""
        tokens = self.tokens(text)
        return Detokenizer(text, self.ids[tokens], self.chars[tokens], self.tokenizer)


def tokenize(tokenizer: Tokenizer, examples: Sequence[Example], compare: bool) -> Texts:
    """Tokenize each distinct word once: texts repeat their words, and BioASQ repeats questions.

    With ``compare=False``, no token is marked as literal or unique, which saves time.
    """
    texts = list(dict.fromkeys(text for e in examples for text in (e.question, e.context)))
    apart = _reads_words_apart(tokenizer)
    number: defaultdict[str, int] = defaultdict(count().__next__)  # of each distinct word
    found, spaced = [], {}
    for i, text in enumerate(texts):
        words = WORD.findall(text) if apart else [text]
        found.append([number[word] for word in words])
        if apart and " ".join(words) != text:
            spaced[i] = [match.start() for match in WORD.finditer(text)]
    tokens, ids, chars, literal, unique = _tokenize_words(
        tokenizer, list(number), _JOINED if apart else 1, compare and apart
    )
    bounds = np.cumsum([0, *map(len, found)])
    word = np.fromiter(chain.from_iterable(found), np.int64, bounds[-1])
    place = np.cumsum([0, *(np.fromiter(map(len, number), np.int64)[word] + 1)])
    start = place[:-1] - np.repeat(place[bounds[:-1]], np.diff(bounds))  # after single spaces
    for i, starts in spaced.items():
        start[bounds[i] : bounds[i + 1]] = starts
    size = np.diff(tokens)[word]
    take = ranges(tokens[word], size)
    literal = literal[word]
    literal[1:] &= size[:-1] > 0  # otherwise, an answer could cross a word without tokens
    return Texts(
        tokenizer=tokenizer,
        index=dict(zip(texts, range(len(texts)), strict=True)),
        bounds=np.cumsum([0, *size])[bounds],
        ids=ids[take],
        chars=chars[take] + np.repeat(start, size)[:, None],
        literal=np.repeat(literal, size),
        unique=unique[take],
    )


def _reads_words_apart(tokenizer: Tokenizer) -> bool:
    """Return whether the tokens of a word never depend on the words around it, as in BERT."""
    added = tokenizer.get_added_tokens_decoder().values()
    return (
        isinstance(tokenizer.normalizer, BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        and all(WORD.fullmatch(t.content) and not (t.lstrip or t.rstrip) for t in added)
    )


def _tokenize_words(
    tokenizer: Tokenizer, words: Sequence[str], joined: int, compare: bool
) -> tuple[np.ndarray, ...]:
    """Return (bounds, ids, chars, literal, unique) of the tokens of some words.

    Word ``i`` has tokens ``bounds[i]:bounds[i + 1]``. ``literal`` is per word, the rest per token.
    The tokenizer reads texts of ``joined`` words, because single words would take twice as long.
    """
    length = np.fromiter(map(len, words), np.int64)
    place = np.cumsum(length + 1) - length - 1  # of each word in the joined words
    parts = [" ".join(words[i : i + joined]) for i in range(0, len(words), joined)]
    found = tokenizer.encode_batch(parts, add_special_tokens=False)
    offsets = zip(
        place[::joined], (np.asarray(e.offsets).reshape(-1, 2) for e in found), strict=True
    )
    chars = np.concatenate([np.zeros((0, 2), np.int64), *(at + each for at, each in offsets)])
    ids = np.fromiter(chain.from_iterable(e.ids for e in found), np.int64, len(chars))
    owner = np.searchsorted(place, chars[:, 0], "right") - 1  # the word of each token
    bounds = np.searchsorted(owner, np.arange(len(words) + 1))
    chars -= place[owner, None]
    if compare:
        tokens = [token for e in found for token in e.tokens]
        return bounds, ids, chars, *_compare(tokens, chars, owner, bounds, length)
    return bounds, ids, chars, np.zeros(len(words), bool), np.zeros(len(ids), bool)


def _compare(
    tokens: Sequence[str], chars: np.ndarray, owner: np.ndarray, bounds: np.ndarray,
    length: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return which words are literal and which tokens are unique (see ``Windows``).

    owner: the word of each token; chars: its offsets in the word. length: characters per word.
    """
    inner = np.fromiter((token.startswith("##") for token in tokens), bool, len(tokens))
    spelled = np.fromiter(map(len, tokens), np.int64, len(tokens)) - 2 * inner
    later = np.arange(len(tokens)) > bounds[owner]  # not first in its word
    begin = np.where(later, np.roll(chars[:, 1], 1), 0)
    fits = (chars[:, 0] == begin) & (chars[:, 1] == begin + spelled)
    fits &= np.fromiter((token != "[UNK]" for token in tokens), bool, len(tokens))
    wrong = np.bincount(owner[~fits], minlength=len(length))
    literal = (wrong == 0) & (np.bincount(owner, spelled, len(length)) == length)
    text = " ".join(tokens).replace(" ##", "")  # what ``Detokenizer`` calls ``normalized``
    high = np.cumsum(spelled + ~inner) - 1
    low = high - spelled
    unique = np.ones(len(tokens), bool)
    parts = zip(*(a[later].tolist() for a in (low, high, low[bounds[owner]])), strict=True)
    unique[later] = [text.find(text[start:end], word) == start for start, end, word in parts]
    return literal, unique


def ranges(low: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Concatenate the ranges ``low[i]:low[i] + size[i]``."""
    return np.arange(size.sum()) + np.repeat(low - np.cumsum(size) + size, size)


class Detokenizer:
    """A converter from the tokens of one context to text, modeled on Google's ``get_final_text``.

    Google's code (``run_squad.py``) has no character offsets. It takes the words that an answer
    touches, normalizes them as the tokenizer does, searches the result for the answer's tokens and
    maps the position back to the words by counting the non-space characters. If that fails,
    it keeps whole words. Few answers need a ``Detokenizer`` (see ``decoding.nbest``), so it reads
    its context only when ``decode`` is called for the first time.
    """

    def __init__(self, context: str, ids: np.ndarray, chars: np.ndarray, tokenizer: Tokenizer):
        """ids, chars: the tokens of the context and their offsets, as in ``Windows``."""
        self.context, self.ids, self.chars, self.tokenizer = context, ids, chars, tokenizer
        self.normalized = ""  # until ``_read``

    def _read(self) -> None:
        words = WORD.findall(self.context)
        self.before = [0, *accumulate(map(len, words))]  # characters before each word, no spaces
        self.starts = [match.start() for match in WORD.finditer(self.context)]
        tokens = [self.tokenizer.id_to_token(number) for number in self.ids.tolist()]
        self.word = [bisect_right(self.starts, low) - 1 for low in self.chars[:, 0].tolist()]
        self.unknown = [number for number, token in enumerate(tokens) if token == "[UNK]"]
        for number in self.unknown:
            low, high = self.chars[number].tolist()
            part = self.context[low:high]
            tokens[number] = self.tokenizer.normalizer.normalize_str(part).strip()
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
        if not self.normalized:
            self._read()
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
        if has_single_spaces(self.context):  # much faster
            return start, end, self.context[start:end]
        return start, end, span_text(self.context, start, end)

    def _with_spaces(self, number: int) -> int:
        """Convert a character position that ignores spaces to an index in the context."""
        word = bisect_right(self.before, number) - 1
        return self.starts[word] + number - self.before[word]


def has_single_spaces(text: str) -> bool:
    """Return whether only single spaces separate the words of a text."""
    text = text.strip(" \t\r\n\u202f")
    return not any(space in text for space in ("  ", "\t", "\r", "\n", "\u202f"))


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
