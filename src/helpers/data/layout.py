"""Recognize the files in a folder of BioASQ data, and read the test batches.

We recognize files by their published names: those used by the organizers, by BioASQ-mini, and in
dmis-lab's folder tree (``BioASQ-7b/train/Full-Abstract/...``).
"""

from __future__ import annotations

import filecmp
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from helpers.config import CONTEXTS, InputError
from helpers.data.bioasq import Question, read_golds, read_questions
from helpers.data.convert import Abstracts, convert
from helpers.data.pubmed import gather_abstracts
from helpers.data.spans import ceiling, gold_spans
from helpers.data.squad import Drop, Example, read_squad

_EDITION = r"(?P<edition>\d+b|mini)"
_NAMES = (  # role, whether the format is SQuAD, pattern for the whole name (case-insensitive)
    ("train", False, rf"(bioasq-)?training(dataset)?-?{_EDITION}(_new)?(\.json)?"),
    ("train", True, rf"bioasq-train-factoid-{_EDITION}(-[\w-]+)?\.json"),
    ("test", False, rf"(bioasq-)?(task)?{_EDITION}-?phaseb-testset(?P<n>\d+)(_\w+)?(\.json)?"),
    ("test", True, rf"bioasq-test-factoid-{_EDITION}(-(?P<n>\d+))?(-[\w-]+)?\.json"),
    ("golden", False, rf"{_EDITION}(?P<n>\d+)?_golden\.json"),
)
_EXAMPLES = (
    "train: BioASQ-training7b.json, training7b.json, BioASQ-train-factoid-7b.json; "
    "test: BioASQ-task7bPhaseB-testset1, BioASQ-test-factoid-7b-1.json; golden: 7B1_golden.json"
)
_ABSTRACTS = re.compile(r"([\w-]+[-_])?abstracts\.json", re.I)


@dataclass(frozen=True)
class BioasqFiles:
    """The files of one edition; ``tests[i]`` and ``golds[i]`` belong to ``batches[i]`` ("7B1")."""

    train: Path | None
    train_is_squad: bool
    tests: tuple[Path, ...]
    golds: tuple[Path, ...]
    batches: tuple[str, ...]
    enriched: bool  # golden files (with extra snippets) replace missing test inputs
    abstracts: tuple[Path, ...]
    tests_are_squad: bool = False
    ignored: tuple[tuple[Path, str], ...] = ()  # other files, each with a reason

    def with_golden_snippets(self) -> BioasqFiles:
        """Return a copy with golden files as test inputs; participants received fewer snippets."""
        unread = () if self.enriched else self.tests
        ignored = (*self.ignored, *((path, "snippets=golden is set") for path in unread))
        return replace(
            self, tests=self.golds, tests_are_squad=False, enriched=True, ignored=ignored
        )

    def passed_over(self, most: int = 10) -> str:
        """Return one line that lists the ignored files with reasons, or "" if there are none."""
        shown = [f"{path.name} ({why})" for path, why in self.ignored[:most]]
        more = len(self.ignored) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more > 0 else "")

    def inputs(self, context: str) -> list[Path]:
        """Return every file that a run with this context setting reads, without duplicates."""
        abstracts = self.abstracts if context == "abstract" else ()
        read = [self.train, *self.tests, *self.golds, *abstracts]
        return list(dict.fromkeys(filter(None, read)))


@dataclass(frozen=True)
class _File:
    path: Path
    role: str
    squad: bool
    edition: str
    number: str  # batch number, or "" for a file with all batches
    context: str | None  # the setting that a SQuAD file was made for; None means any


def _classify(path: Path, folder: Path | None = None) -> _File | None:
    """Classify a file by its name and its folders below ``folder``; return None if unknown."""
    below = path.relative_to(folder or path.parent).as_posix().lower()
    context = "abstract" if "full" in below else "appended" if "appended" in below else "snippet"
    for role, squad, pattern in _NAMES:
        if match := re.fullmatch(pattern, path.name, re.I):
            found = match.groupdict()
            number, edition = found.get("n") or "", found["edition"].lower()
            return _File(path, role, squad, edition, number, context if squad else None)
    return None


def role_of(path: str | Path) -> str:
    """Return the role that a file's name indicates: "train", "test", "golden", or ""."""
    found = _classify(Path(path))
    return found.role if found else ""


def ready_tests(folder: str | Path, context: str, edition: str = "") -> list[Path]:
    """Return the SQuAD test inputs below a folder for a context setting (and an edition)."""
    folder = Path(folder)
    files = (_classify(path, folder) for path in sorted(folder.rglob("*.json")) if path.is_file())
    return [
        file.path
        for file in filter(None, files)
        if (file.role, file.squad, file.context) == ("test", True, context)
        and edition.lower() in ("", file.edition)
    ]


def find_files(
    folder: str | Path,
    *,
    context: str = "snippet",
    edition: str | None = None,
    need_train: bool = True,
) -> BioasqFiles:
    """Find the training file, test inputs, and golden files below ``folder``, paired by batch.

    We use one edition: ``edition`` ("7b", "mini") if given, otherwise the only edition with golden
    files, or 7b if there are several. We prefer a ready-made SQuAD training file for ``context`` to
    the original training file, and the organizers' test inputs to test inputs in SQuAD format. Test
    inputs and golden files must cover the same batches, because scoring fewer questions than the
    user expects is worse than an error. Without test inputs, golden files replace them
    (``enriched``). Raises an ``InputError`` that lists the expected names and the files found.
    """
    folder = Path(folder)
    if context not in CONTEXTS:
        raise InputError(f"context: {context!r} is not one of {', '.join(CONTEXTS)}")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder with your BioASQ files")
    found = {p: _classify(p, folder) for p in sorted(folder.rglob("*")) if p.is_file()}
    known = [file for file in found.values() if file and file.context in (None, context)]
    edition = edition.lower() if edition else _edition(folder, found, known)
    known = [file for file in known if file.edition == edition]

    golds, _ = _choose(folder, known, "golden", [False])
    # A test input with all batches matches only a golden file with all batches.
    numbered = [file for file in known if file.number or "" in golds]
    tests, tests_are_squad = _choose(folder, numbered, "test", [False, True])
    train, train_is_squad = _choose(folder, known, "train", [True, False])
    if not golds:
        raise _missing(folder, found, f"no golden file for edition {edition}")
    if need_train and not train:
        others = [file for file in filter(None, found.values()) if file.edition == edition]
        names = [file.path.name for file in others if file.role == "train"]
        hint = f" and context {context!r} ({names[0]} is for a different context)" if names else ""
        raise _missing(folder, found, f"no training file for edition {edition}{hint}")
    if alone := tests and sorted(set(tests) ^ set(golds)):
        names = ", ".join(_batch(edition, number) for number in alone)
        raise InputError(
            f"{folder}: batches with a test input or a golden file, but not both: {names}; "
            "add the missing files or move their counterparts out of the folder"
        )
    numbers = sorted(golds, key=lambda number: int(number or 0))
    files = BioasqFiles(
        train=train.get(""),
        train_is_squad=train_is_squad,
        tests=tuple((tests or golds)[n] for n in numbers),
        golds=tuple(golds[n] for n in numbers),
        batches=tuple(_batch(edition, n) for n in numbers),
        enriched=not tests,
        abstracts=tuple(path for path in found if _ABSTRACTS.fullmatch(path.name)),
        tests_are_squad=tests_are_squad,
    )
    read = files.inputs(context)
    used = [found[path] for path in read if found[path]]
    unread = {path: file for path, file in found.items() if path not in read}
    why = {path: _why_ignored(path, file, used, edition, context) for path, file in unread.items()}
    return replace(files, ignored=tuple(why.items()))


def _edition(folder: Path, paths: Collection[Path], known: Sequence[_File]) -> str:
    editions = sorted({file.edition for file in known if file.role == "golden"})
    if not editions:
        raise _missing(folder, paths, "no golden file")
    if len(editions) > 1 and "7b" not in editions:
        raise InputError(
            f"{folder}: golden files for editions {', '.join(editions)}; keep one edition"
        )
    return "7b" if "7b" in editions else editions[0]


def _choose(
    folder: Path, known: Sequence[_File], role: str, formats: Sequence[bool]
) -> tuple[dict[str, Path], bool]:
    """Return files by batch number in the first available format, and whether it is SQuAD."""
    for squad in formats:
        chosen: dict[str, Path] = {}
        for file in known:
            if (file.role, file.squad) != (role, squad):
                continue
            first = chosen.setdefault(file.number, file.path)
            if first != file.path and not filecmp.cmp(first, file.path, shallow=False):
                raise InputError(
                    f"{folder}: {first.relative_to(folder)} and {file.path.relative_to(folder)} "
                    f"are different {role} files for the same batch; keep one"
                )
        if len(chosen) > 1:  # published scores are given per batch
            chosen.pop("", None)
        if chosen:
            return chosen, squad
    return {}, False


def _why_ignored(
    path: Path, file: _File | None, used: Sequence[_File], edition: str, context: str
) -> str:
    if file is None:
        abstracts = _ABSTRACTS.fullmatch(path.name)
        return "read only under context 'abstract'" if abstracts else "unknown file name"
    if file.edition != edition:
        return f"edition {file.edition}, not {edition}"
    if file.context not in (None, context):
        return f"made for context {file.context!r}, not {context!r}"
    rivals = [rival for rival in used if rival.role == file.role]
    if any(rival.squad != file.squad for rival in rivals):
        return f"not needed: the {'BioASQ' if file.squad else 'SQuAD'} {file.role} files are read"
    if any((rival.number, rival.squad) == (file.number, file.squad) for rival in rivals):
        return "a copy of a file that is read"
    return "contains all batches, but files for single batches are read"


def _batch(edition: str, number: str) -> str:
    return (edition if edition == "mini" else edition.upper()) + number


def _missing(folder: Path, paths: Collection[Path], what: str) -> InputError:
    names = ", ".join(path.name for path in list(paths)[:10]) or "nothing"
    more = f" and {len(paths) - 10} more" if len(paths) > 10 else ""
    return InputError(f"{folder}: {what}; looked for {_EXAMPLES}; found {names}{more}")


@dataclass(frozen=True)
class TestBatch:
    """One test batch: the input to the system (examples without spans) and the golden questions."""

    __test__ = False  # not a pytest test

    name: str
    examples: tuple[Example, ...]
    golds: tuple[Question, ...]

    @property
    def contexts(self) -> dict[str, list[str]]:
        """Return the contexts that the system reads, by question id."""
        contexts: dict[str, list[str]] = {}
        for example in self.examples:
            contexts.setdefault(example.question_id, []).append(example.context)
        return contexts

    @property
    def ceiling(self) -> tuple[int, int]:
        """Return (k, n), where k of n golden questions have a verbatim answer in ``contexts``."""
        return ceiling(self.golds, self.contexts)

    @property
    def golden_ceiling(self) -> tuple[int, int]:
        """Return the same counts as ``ceiling``, but based on the snippets in the golden file."""
        return ceiling(self.golds, {q.id: [s.text for s in q.snippets] for q in self.golds})

    @property
    def golden_strict(self) -> int:
        """Count the golden questions that have a strict match in a snippet in the golden file."""
        return sum(any(gold_spans(s.text, q.synonyms()) for s in q.snippets) for q in self.golds)

    @property
    def golden_snippets(self) -> int:
        """Count the snippets in the batch's golden file."""
        return sum(len(question.snippets) for question in self.golds)


def read_batches(
    files: BioasqFiles, context: str, *, fetch: bool = True
) -> tuple[list[TestBatch], list[Drop]]:
    """Read the test batches for a context setting, and list each dropped question with a reason.

    If ``fetch`` is false, we take abstracts only from files and the cache.
    """
    golds = [read_questions(path, answers="required") for path in files.golds]
    for path in files.golds:
        read_golds(path)  # check the files before training, exactly as scoring does
    if files.tests_are_squad:
        parts = [(read_squad(path), []) for path in files.tests]
    else:
        answers = "any" if files.enriched else "forbidden"
        tests = [read_questions(path, answers=answers) for path in files.tests]
        abstracts = run_abstracts(files, list(chain(*tests)), context, fetch=fetch)
        parts = [convert(test, context=context, test=True, abstracts=abstracts) for test in tests]
    batches, drops = [], []
    for name, test, gold_path, gold, (examples, dropped) in zip(
        files.batches, files.tests, files.golds, golds, parts, strict=True
    ):
        ids = {row.question_id for row in (*examples, *dropped)}
        if ids.isdisjoint(question.id for question in gold):
            raise InputError(
                f"{test}: shares no question with {gold_path}; pair files from the same batch"
            )
        # The system must not see the answers, even if a golden file replaces the test input.
        blind = tuple(replace(example, spans=()) for example in examples)
        batches.append(TestBatch(name, blind, tuple(gold)))
        absent = [question for question in gold if question.id not in ids]
        dropped += [Drop(q.id, q.body, "not in the test input", test.name) for q in absent]
        drops += [replace(drop, reason=f"{name}: {drop.reason}") for drop in dropped]
    return batches, drops


def run_abstracts(
    files: BioasqFiles, questions: Sequence[Question], context: str, *, fetch: bool = True
) -> Abstracts:
    """Gather the abstracts for the questions if the ``context`` setting requires them."""
    folder = files.golds[0].parent
    return gather_abstracts(questions, files.abstracts, context=context, fetch=fetch, source=folder)
