"""Which file is which in a folder of BioASQ files, by the names they are published under.

Known names: the organizers' own, dmis-lab's folder tree (``BioASQ-7b/train/Full-Abstract/...``)
and BioASQ-mini's. ``helpers.data.bioasq`` passes on the public names.

The test batches of a run: what the system may read, and the golden questions behind it.
"""

from __future__ import annotations

import filecmp
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.config import CONTEXTS, InputError
from helpers.data.bioasq import Question, read_golds, read_questions
from helpers.data.convert import convert
from helpers.data.pubmed import Abstracts, gather_abstracts
from helpers.data.spans import ceiling, find_spans
from helpers.data.squad import Drop, Example, read_squad

_EDITION = r"(?P<edition>\d+b|mini)"
# role, whether SQuAD, pattern for the whole name (any case), an example for the error message
_NAMES = (
    ("train", False, rf"(bioasq-)?training(dataset)?-?{_EDITION}(_new)?(\.json)?",
     "BioASQ-training7b.json, training7b.json"),
    ("train", True, rf"bioasq-train-factoid-{_EDITION}(-[\w-]+)?\.json",
     "BioASQ-train-factoid-7b.json"),
    ("test", False, rf"(bioasq-)?(task)?{_EDITION}-?phaseb-testset(?P<n>\d+)(_\w+)?(\.json)?",
     "BioASQ-task7bPhaseB-testset1"),
    ("test", True, rf"bioasq-test-factoid-{_EDITION}(-(?P<n>\d+))?(-[\w-]+)?\.json",
     "BioASQ-test-factoid-7b-1.json"),
    ("golden", False, rf"{_EDITION}(?P<n>\d+)?_golden\.json", "7B1_golden.json"),
)  # fmt: skip
_PATTERNS = [(role, squad, re.compile(pattern, re.I)) for role, squad, pattern, _ in _NAMES]
_ABSTRACTS = re.compile(r"([\w-]+[-_])?abstracts\.json", re.I)


@dataclass(frozen=True)
class BioasqFiles:
    """The files of one edition. ``tests[i]`` and ``golds[i]`` belong to ``batches[i]`` ("7B1")."""

    train: Path | None
    train_is_squad: bool
    tests: tuple[Path, ...]
    golds: tuple[Path, ...]
    batches: tuple[str, ...]
    enriched: bool  # no test inputs: the golden files, which hold extra snippets, stand in
    abstracts: tuple[Path, ...]
    tests_are_squad: bool = False
    ignored: tuple[tuple[Path, str], ...] = ()  # what else lies in the folder, and why it is unread

    def with_golden_snippets(self) -> BioasqFiles:
        """The same with the golden files as test inputs: more snippets than participants got."""
        unread = () if self.enriched else self.tests
        ignored = (*self.ignored, *((path, "snippets=golden is set") for path in unread))
        return replace(
            self, tests=self.golds, tests_are_squad=False, enriched=True, ignored=ignored
        )

    def passed_over(self, most: int = 10) -> str:
        """The ignored files and why, on one line; "" when there are none."""
        shown = [f"{path.name} ({why})" for path, why in self.ignored[:most]]
        more = len(self.ignored) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more > 0 else "")

    def inputs(self, context: str) -> list[Path]:
        """Every file that a run under this context reads, each once."""
        train = [self.train] if self.train else []
        abstracts = self.abstracts if context == "abstract" else ()
        return list(dict.fromkeys([*train, *self.tests, *self.golds, *abstracts]))


@dataclass(frozen=True)
class _Found:
    path: Path
    role: str
    squad: bool
    edition: str
    number: str  # of the batch, "" for a file of all batches
    context: str | None  # None: any; SQuAD files are made for one context


def role_of(path: str | Path) -> str:
    """What a file is by its name: "train", "test", "golden", or "" when the name is not known."""
    found = _classify(Path(path), Path(Path(path).name))
    return found.role if found else ""


def ready_tests(folder: str | Path, context: str, edition: str = "") -> list[Path]:
    """The SQuAD test inputs below a folder made for a context setting (and edition)."""
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*.json") if path.is_file())
    found = filter(None, (_classify(path, path.relative_to(folder)) for path in paths))
    return [
        file.path
        for file in found
        if (file.role, file.squad, file.context) == ("test", True, context)
        and edition.lower() in ("", file.edition)
    ]


def _classify(path: Path, relative: Path) -> _Found | None:
    for role, squad, pattern in _PATTERNS:
        match = pattern.fullmatch(path.name)
        if match:
            groups = match.groupdict()
            context = _context_of(relative) if squad else None
            number = groups.get("n") or ""
            return _Found(path, role, squad, groups["edition"].lower(), number, context)
    return None


def _context_of(relative: Path) -> str:
    text = relative.as_posix().lower()
    if "full" in text:
        return "abstract"
    return "appended" if "appended" in text else "snippet"


def find_files(
    folder: str | Path,
    *,
    context: str = "snippet",
    edition: str | None = None,
    need_train: bool = True,
) -> BioasqFiles:
    """Find training file, test inputs and golden files below ``folder``, paired by batch.

    One edition is used: ``edition`` ("7b", "mini"), or the only one that has golden files, or 7b.
    A ready SQuAD training file made for ``context`` is preferred to the raw one, the organizers'
    test inputs to SQuAD ones. Test inputs and golden files must cover the same batches, since a
    score over fewer questions than the user believes is worse than an error; only when there is
    no test input at all do the golden files stand in (``enriched``). Raises ``InputError`` that
    lists the names looked for and the files found.
    """
    folder = Path(folder)
    if context not in CONTEXTS:
        raise InputError(f"context: {context!r} is not one of {', '.join(CONTEXTS)}")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the one with your BioASQ files")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [_classify(path, path.relative_to(folder)) for path in paths]
    known = [file for file in found if file and file.context in (None, context)]
    edition = _edition(folder, paths, known, edition)
    known = [file for file in known if file.edition == edition]

    golds = _by_number(folder, (file for file in known if file.role == "golden"))
    tests, tests_are_squad = _preferred(folder, known, "test", squad_first=False, like=golds)
    train, train_is_squad = _preferred(folder, known, "train", squad_first=True)
    if not golds:
        raise _missing(folder, paths, f"no golden file of edition {edition}")
    if need_train and not train:
        other = [f.path.name for f in found if f and f.role == "train" and f.edition == edition]
        hint = f" for context {context!r}, and {other[0]} is for another" if other else ""
        raise _missing(folder, paths, f"no training file of edition {edition}{hint}")
    if tests:
        _check_same_batches(folder, edition, tests, golds)
    numbers = sorted(golds, key=lambda number: int(number or 0))
    gold_paths = tuple(golds[n] for n in numbers)
    abstracts = tuple(path for path in paths if _ABSTRACTS.fullmatch(path.name))
    read = {*train.values(), *tests.values(), *golds.values()}
    read |= {*abstracts} if context == "abstract" else set()
    ignored = (
        (path, _why_ignored(path, file, read, edition, context))
        for path, file in zip(paths, found, strict=True)
        if path not in read
    )
    return BioasqFiles(
        train=train.get("") if train else None,
        train_is_squad=bool(train) and train_is_squad,
        tests=tuple(tests[n] for n in numbers) if tests else gold_paths,
        golds=gold_paths,
        batches=tuple(_batch(edition, n) for n in numbers),
        enriched=not tests,
        abstracts=abstracts,
        tests_are_squad=bool(tests) and tests_are_squad,
        ignored=tuple(ignored),
    )


def _check_same_batches(folder: Path, edition: str, tests: dict, golds: dict) -> None:
    alone = sorted(set(tests) ^ set(golds))
    if alone:
        names = ", ".join(_batch(edition, number) for number in alone)
        raise InputError(
            f"{folder}: batches with only one of test input and golden file: {names}; "
            "add the other one or move these out of the folder"
        )


def _why_ignored(
    path: Path, file: _Found | None, read: Collection[Path], edition: str, context: str
) -> str:
    if file is None:
        if _ABSTRACTS.fullmatch(path.name):
            return "read under context 'abstract' only"
        return "name not recognized"
    if file.edition != edition:
        return f"edition {file.edition}, not {edition}"
    if file.context not in (None, context):
        return f"made for context {file.context!r}, not {context!r}"
    known = filter(None, (_classify(other, other) for other in read))
    rivals = [rival for rival in known if rival.role == file.role]
    if any(rival.squad != file.squad for rival in rivals):
        return f"not needed: the {'BioASQ' if file.squad else 'SQuAD'} {file.role} files are read"
    if any((rival.number, rival.squad) == (file.number, file.squad) for rival in rivals):
        return "a copy of a file that is read"
    return "all batches in one file, and the others are by batch"


def _batch(edition: str, number: str) -> str:
    return (edition if edition == "mini" else edition.upper()) + number


def _edition(folder: Path, paths: list[Path], known: list[_Found], wanted: str | None) -> str:
    if wanted is not None:
        return wanted.lower()
    editions = sorted({file.edition for file in known if file.role == "golden"})
    if not editions:
        raise _missing(folder, paths, "no golden file")
    if len(editions) > 1 and "7b" not in editions:
        raise InputError(
            f"{folder}: golden files of editions {', '.join(editions)}; give a folder with one"
        )
    return "7b" if "7b" in editions else editions[0]


def _preferred(
    folder: Path,
    known: list[_Found],
    role: str,
    *,
    squad_first: bool,
    like: dict[str, Path] | None = None,
) -> tuple[dict[str, Path], bool]:
    """The files of a role in the preferred format, else in the other one."""
    for squad in (squad_first, not squad_first):
        files = [file for file in known if file.role == role and file.squad == squad]
        if like is not None and "" not in like:  # a file of all batches fits one golden file only
            files = [file for file in files if file.number]
        chosen = _by_number(folder, files)
        if chosen:
            return chosen, squad
    return {}, False


def _by_number(folder: Path, files: Iterable[_Found]) -> dict[str, Path]:
    chosen: dict[str, Path] = {}
    for file in files:
        first = chosen.setdefault(file.number, file.path)
        if first != file.path and not filecmp.cmp(first, file.path, shallow=False):
            raise InputError(
                f"{folder}: {first.relative_to(folder)} and {file.path.relative_to(folder)} "
                f"are two different {file.role} files of one batch; keep one"
            )
    if "" in chosen and len(chosen) > 1:  # batch by batch is what the published scores use
        del chosen[""]
    return chosen


def _missing(folder: Path, paths: list[Path], what: str) -> InputError:
    looked = "; ".join(
        f"{role}: " + ", ".join(example for other, _, _, example in _NAMES if other == role)
        for role in ("train", "test", "golden")
    )
    names = ", ".join(path.name for path in paths[:10]) or "nothing"
    more = f" and {len(paths) - 10} more" if len(paths) > 10 else ""
    return InputError(f"{folder}: {what}; looked for {looked}; found {names}{more}")


@dataclass(frozen=True)
class TestBatch:
    """One test batch: what the system reads (``examples``, no spans) and the golden questions."""

    __test__ = False  # not a test of pytest's

    name: str
    examples: tuple[Example, ...]
    golds: tuple[Question, ...]

    @property
    def contexts(self) -> dict[str, list[str]]:
        """The texts given to the system, by question id."""
        contexts: dict[str, list[str]] = {}
        for example in self.examples:
            contexts.setdefault(example.question_id, []).append(example.context)
        return contexts

    @property
    def ceiling(self) -> tuple[int, int]:
        """(k, n): golden questions with an answer verbatim in a context that is given."""
        return ceiling(self.golds, self.contexts)

    @property
    def golden_ceiling(self) -> tuple[int, int]:
        """The same if the golden file's snippets were given."""
        return ceiling(self.golds, {q.id: [s.text for s in q.snippets] for q in self.golds})

    @property
    def golden_strict(self) -> int:
        """Golden questions with an answer by the strict rule in a snippet of the golden file."""
        found = (
            any(find_spans(s.text, map(str.strip, q.synonyms())) for s in q.snippets)
            for q in self.golds
        )
        return sum(found)

    @property
    def golden_snippets(self) -> int:
        """How many snippets the golden file holds for the batch."""
        return sum(len(question.snippets) for question in self.golds)


def read_batches(
    files: BioasqFiles, context: str, *, fetch: bool = True
) -> tuple[list[TestBatch], list[Drop]]:
    """The test batches under a context setting, and the questions that they lose, with reasons.

    With ``fetch`` false, abstracts come from files and from the cache only.
    """
    golds = [read_questions(path, answers="required") for path in files.golds]
    for path in files.golds:
        read_golds(path)  # scoring reads them like this: refuse now what it would after training
    if files.tests_are_squad:
        inputs = [read_squad(path) for path in files.tests]
        parts = [(rows, [], {row.question_id for row in rows}) for rows in inputs]
    else:
        answers = "any" if files.enriched else "forbidden"
        asked = [read_questions(path, answers=answers) for path in files.tests]
        texts = run_abstracts(files, [q for batch in asked for q in batch], context, fetch=fetch)
        parts = [(*_convert(batch, context, texts), {q.id for q in batch}) for batch in asked]
    batches, drops = [], []
    for name, test, gold_path, gold, part in zip(
        files.batches, files.tests, files.golds, golds, parts, strict=True
    ):
        examples, dropped, ids = part
        if not ids & {question.id for question in gold}:
            raise InputError(
                f"{test}: shares no question with {gold_path}; put files of one batch together"
            )
        dropped += [_absent(q, test) for q in gold if q.id not in ids]
        # A test input says nothing of the answer, even where a golden file stands in for it.
        blind = tuple(replace(example, spans=()) for example in examples)
        batches.append(TestBatch(name, blind, tuple(gold)))
        drops += [replace(drop, reason=f"{name}: {drop.reason}") for drop in dropped]
    return batches, drops


def run_abstracts(
    files: BioasqFiles, questions: Sequence[Question], context: str, *, fetch: bool = True
) -> Abstracts:
    """The abstracts of the questions when ``context`` asks for them, else none."""
    if context != "abstract":
        return Abstracts({}, {})
    return gather_abstracts(questions, files.abstracts, fetch=fetch, source=files.golds[0].parent)


def _convert(questions: Sequence[Question], context: str, texts: Abstracts):
    return convert(
        questions, context=context, test=True, abstracts=texts.texts, lacking=texts.lacking
    )


def _absent(question: Question, test: Path) -> Drop:
    return Drop(question.id, question.body, "not in the test input", test.name)
