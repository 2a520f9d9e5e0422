"""The text of an answer, cut from its context as Google BERT's SQuAD code cuts it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate

from tokenizers import Encoding, Tokenizer

from helpers.data.spans import WORD


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
