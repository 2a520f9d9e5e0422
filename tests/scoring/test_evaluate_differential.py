"""Random odd golden and answer files: our figures are those of the organizers' program.

The program is the Java stand-in, and the organizers' own when OFFICIAL_JAR names it; both read all
pairs of files in one process. Where the program stops, ours refuses the files or names a repair.
"""

import random
import subprocess
from pathlib import Path

import pytest

from helpers.config import InputError
from helpers.scoring.evaluate import evaluate_files

PAIRS = 1000
# Pieces of texts, as JSON: cases that Java's and Python's lower case might treat differently, a
# line break, what makes a yes/no answer.
PIECES = ["a", "A", "b", "B", " ", "-", "", "ß", "ẞ", "SS", "İ", "i\u0307", "ı", "I", "é", "É", "Σ",
          "Σ", "σ", "ς", "Α", "e\u0301", "\\n", "\n", "\\u0041", '\\"', "'", ".", ",", "(", "1",
          "7", "yes", "No", "Ǆ", "ǅ", "ﬁ", "K", "Ω", "TNF-α", "_", "\u200b"]  # fmt: skip
# Characters beyond U+FFFF, whole, as a pair of escapes, and half of one: beside a capital sigma
# they confuse Java (``metrics.lower``), so each is a text of its own.
BEYOND = ["𐐀", "𐐨𐐀", "a𐐀", "\\ud83d\\ude00", "\\ud83d", "\\ude00a", "\\ud801\\udc00"]
NUMBERS = ["7", "-0", "-7", "7.0", "1e3", "1E3", "0.10", "12345678901234567890123", "1e400", "1E-2"]
ODD = ["null", "true", "{}", "[]", "NaN", '"x"', "[null]", "[true]", '["a"]', "[[[]]]", "[{}]",
       '[["a"], "b"]', '[["a", null]]', "[[null]]", "[[], 7]", "7", "[7]", '{"a": [1]}',
       '[["a", ["b"]]]', '[["a", true], ["b"]]']  # fmt: skip


class Maker:
    """Makes JSON text from one seed; ``odd`` is the chance of a strange value at each place."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.odd = self.random.choice([0, 0, 0.01, 0.05])
        words = [self.random.choices(PIECES, k=self.random.choice([1, 1, 2, 3])) for _ in range(3)]
        self.texts = ["".join(word) for word in words] + [self.random.choice(BEYOND)]

    def strange(self):
        return self.random.random() < self.odd

    def text(self):
        if self.random.random() < 0.1:
            return self.random.choice(NUMBERS)
        text = self.random.choice(self.texts)
        if "\\" not in text:
            text = self.random.choice([str, str.lower, str.upper, str.title])(text)
        return f'"{text}"'

    def list(self, part, most, least=0):
        return f"[{', '.join(part() for _ in range(self.random.randint(least, most)))}]"

    def answer(self, kind):
        if self.strange():
            return self.random.choice(ODD)
        if kind == "yesno" or self.random.random() < 0.05:
            return self.text() if self.strange() else '"Yes."'
        return self.list(lambda: self.list(self.text, 2), 4)

    def snippets(self):
        offset = self.random.choice(["3", '"3"', "3.0", "3.5", "null"]) if self.strange() else "3"
        extra = ', "new": 1' if self.strange() else ""
        return f'[{{"text": "a", "offsetInBeginSection": {offset}{extra}}}]'

    def field(self, value):
        return self.random.choice(ODD) if self.strange() else value

    def question(self, gold):
        name = self.random.choice(['"7"', "7", '"a"', '"b"', '"c"', '"d"', '"e"'])
        kind = {'"c"': "list", '"d"': "yesno", '"e"': "summary"}.get(name, "factoid")
        fields = {
            "id": self.field(name),
            "type": self.field(f'"{kind}"'),
            "exact_answer": self.answer(kind),
            "body": self.field('"Which?"'),
            "documents": self.field('["http://x"]'),
            "snippets": self.field(self.snippets()),
            "triples": self.field('[{"s": null, "p": "a", "o": "b", "x": null}]'),
            "ideal_answer": self.random.choice(ODD[:4]),
        }
        if not gold and self.random.random() < 0.5:
            fields["type"] = self.random.choice(['"Factoid"', '""', '"list"', "5"])
        items = [(k, v) for k, v in fields.items() if self.random.random() > self.odd / 2]
        self.random.shuffle(items)
        if self.strange():
            items += [(items[0][0], self.answer("factoid"))] if items else []
        return "{" + ", ".join(f'"{name}": {value}' for name, value in items) + "}"

    def file(self, gold):
        questions = self.list(lambda: self.question(gold), 7, 0 if self.strange() else 2)
        if self.strange():
            return self.random.choice(["\ufeff", "\ufeff\n", ""]) + questions
        text = f'{{"data": {self.field("[]")}, "questions": {questions}}}'
        if self.strange():
            text = self.random.choice([f"\ufeff{text}", f"{text}{text}", f"\n{text} x",
                                       f'{text[:-1]}, "questions": {questions}}}'])  # fmt: skip
        return text


def run_many(folder, jar, pairs):
    """What the program says on each pair of files, in one process."""
    command = [
        "java",
        "-Dfile.encoding=UTF-8",
        "-Duser.language=en",
        "-cp",
        f"{jar}:{folder}",
        "Many",
    ]
    lines = "".join(f"{gold}\t{answers}\n" for gold, answers in pairs)
    done = subprocess.run(command, input=lines, capture_output=True, encoding="utf-8", check=True)
    return done.stdout.splitlines()


def disagreement(said, gold, answers):
    """None, or in words how our evaluation differs from what the program said on the files."""
    try:
        ours = evaluate_files([gold], [answers], "dropped")
    except InputError as error:
        nothing = ("nothing to score", "is a factoid", "answers no question", "is empty",
                   "no question has 'exact_answer'")  # fmt: skip
        if said.startswith("stopped") or any(words in str(error) for words in nothing):
            return None if "\n" not in str(error) else f"message of two lines: {error}"
        return f"{said}, but ours refuses: {error}"
    row = ours.scores["pooled"]
    if said.startswith("stopped"):
        return None if ours.remarks else f"{said}, but ours has no remark"
    theirs = [float(word) for word in said.split()[1:4]]
    if [row["sacc"], row["lacc"], row["mrr"]] != pytest.approx(theirs, abs=1e-9):
        return f"{said}, but ours {row}"
    return None


def test_cases(jar, many):
    folder = Path(__file__).parents[1] / "cases"
    pairs = [
        ("answers/gold", "answers/type_spelled_otherwise"), ("answers/gold", "answers/type_empty"),
        ("answers/number_gold", "answers/number"), ("answers/gold", "answers/plain_string"),
        ("golds/question_twice", "golds/question_twice_answers"),
        ("golds/nan", "answers/type_empty"), ("golds/list_as_text", "answers/type_empty"),
    ]  # fmt: skip
    pairs = [[folder / f"{name}.json" for name in pair] for pair in pairs]
    said = run_many(many, jar, pairs)
    strict = [line.split()[1] for line in said]
    assert strict[:4] == ["1.0", "1.0", "1.0", "0.0"] and strict[4].startswith("0.66")
    assert [line.startswith("stopped") for line in said] == [False] * 5 + [True] * 2
    assert [disagreement(line, *pair) for line, pair in zip(said, pairs, strict=True)] == [None] * 7


def test_random_odd_files(jar, many, tmp_path):
    pairs = []
    for seed in range(PAIRS):
        maker = Maker(seed)
        paths = tmp_path / f"g{seed}.json", tmp_path / f"a{seed}.json"
        for path, gold in zip(paths, (True, False), strict=True):
            path.write_bytes(maker.file(gold).encode())
        pairs.append(paths)
    said = run_many(many, jar, pairs)
    assert len(said) == PAIRS
    stopped = sum(line.startswith("stopped") for line in said)
    assert 0.2 * PAIRS < stopped < 0.8 * PAIRS  # both kinds occur often
    found = {
        str(pair): difference
        for line, pair in zip(said, pairs, strict=True)
        if (difference := disagreement(line, *pair))
    }
    assert not found, f"{len(found)}: {list(found.items())[:5]}"
