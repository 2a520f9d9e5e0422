"""Google BERT's decoding of SQuAD, slow and plain, to compare ``helpers.model.decoding`` with.

Written from the behavior of ``run_squad.py`` and ``tokenization.py`` (google-research/bert), which
NeMo 0.11 kept: nothing is shared with the kit, so that the two can disagree. One liberty: a list
without a span stays empty (there it holds the word "empty"). Logits may go on over padding.
"""

import math
import unicodedata

BLANKS = " \t\r\n\u202f"


def is_punctuation(character: str) -> bool:
    ascii_sign = "!" <= character <= "~" and not character.isalnum()
    return ascii_sign or unicodedata.category(character).startswith("P")


def is_chinese(character: str) -> bool:
    blocks = (
        (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
        (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
    )  # fmt: skip
    return any(low <= ord(character) <= high for low, high in blocks)


def basic_tokens(text: str, lower: bool) -> list[str]:
    """Words and punctuation marks, before WordPiece."""
    cleaned = ""
    for character in text:
        if character in "\t\r\n" or unicodedata.category(character) == "Zs":
            cleaned += " "
        elif character == "\ufffd" or unicodedata.category(character).startswith("C"):
            continue
        elif is_chinese(character):
            cleaned += f" {character} "
        else:
            cleaned += character
    tokens = []
    for word in cleaned.split():
        if lower:
            decomposed = unicodedata.normalize("NFD", word.lower())
            word = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
        spaced = "".join(f" {c} " if is_punctuation(c) else c for c in word)
        tokens += spaced.split()
    return tokens


def word_pieces(token: str, vocab: set[str], longest: int = 100) -> list[str]:
    pieces, start = [], 0
    while start < len(token):
        prefix = "##" if start else ""
        ends = range(len(token), start, -1)
        end = next((end for end in ends if prefix + token[start:end] in vocab), None)
        if end is None or len(token) > longest:
            return ["[UNK]"]
        pieces.append(prefix + token[start:end])
        start = end
    return pieces


def tokenize(text: str, vocab: set[str], lower: bool) -> list[str]:
    return [piece for token in basic_tokens(text, lower) for piece in word_pieces(token, vocab)]


def split_words(context: str) -> list[str]:
    words = [""]
    for character in context:
        if character not in BLANKS:
            words[-1] += character
        elif words[-1]:
            words.append("")
    return [word for word in words if word]


class Window:
    """Tokens of one window; per context token its word, and whether this window is its best."""

    def __init__(self, question, tokens, words, spans, number):
        low, length = spans[number]
        self.tokens = ["[CLS]", *question, "[SEP]", *tokens[low : low + length], "[SEP]"]
        self.word, self.is_best = {}, {}
        for at in range(low, low + length):
            here = len(question) + 2 + at - low
            self.word[here] = words[at]
            scores = [
                min(at - a, a + n - 1 - at) + 0.01 * n if a <= at < a + n else -1 for a, n in spans
            ]
            self.is_best[here] = scores.index(max(scores)) == number


def windows(question, context, vocab, lower, max_length, step, max_query) -> list[Window]:
    query = tokenize(question, vocab, lower)[:max_query]
    tokens, words = [], []
    for number, word in enumerate(split_words(context)):
        for token in tokenize(word, vocab, lower):
            tokens.append(token)
            words.append(number)
    room, low, spans = max_length - len(query) - 3, 0, []
    while low < len(tokens):
        length = min(room, len(tokens) - low)
        spans.append((low, length))
        if low + length == len(tokens):
            break
        low += min(length, step)
    return [Window(query, tokens, words, spans, n) for n in range(len(spans))]


def final_text(spelled: str, original: str, lower: bool) -> str:
    """The part of the original words that the answer's tokens spell; all of it where in doubt."""
    whole = " ".join(basic_tokens(original, lower))
    at = whole.find(spelled)
    ours = [i for i, c in enumerate(original) if c != " "]
    theirs = [i for i, c in enumerate(whole) if c != " "]
    if at < 0 or len(ours) != len(theirs):
        return original
    start, end = theirs.index(at), theirs.index(at + len(spelled) - 1)
    return original[ours[start] : ours[end] + 1]


def best(logits, size: int) -> list[int]:
    return sorted(range(len(logits)), key=lambda i: -logits[i])[:size]


def write_predictions(context, found, logits, lower, size, max_answer):
    """[(text, start logit, end logit, probability)] of one pair; ``logits`` per window: 2 lists."""
    spans = []
    for window, (starts, ends) in zip(found, logits, strict=True):
        for a in best(starts, size):
            for b in best(ends, size):
                if (
                    a in window.word
                    and b in window.word
                    and window.is_best[a]
                    and a <= b < a + max_answer
                ):
                    spans.append((starts[a] + ends[b], window, a, b, starts[a], ends[b]))
    spans.sort(key=lambda span: -span[0])
    words, chosen = split_words(context), []
    for total, window, a, b, x, y in spans:
        spelled = " ".join(window.tokens[a : b + 1]).replace(" ##", "").replace("##", "")
        original = " ".join(words[window.word[a] : window.word[b] + 1])
        text = final_text(spelled, original, lower)
        if len(chosen) < size and text not in [item[0] for item in chosen]:
            chosen.append((text, x, y, total))
    if not chosen:
        return []
    top = max(item[3] for item in chosen)
    weights = [math.exp(item[3] - top) for item in chosen]
    total = sum(weights)
    return [(text, x, y, w / total) for (text, x, y, _), w in zip(chosen, weights, strict=True)]
