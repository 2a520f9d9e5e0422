"""Complete stages that read and write files, for use in the command-line scripts and your own code.

The notebooks do the same work in smaller steps. Functions that need torch import it themselves,
because the import takes several seconds and ``convert_files`` does not need it.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.config import InputError, Settings, from_parameters
from helpers.data import bioasq, convert, layout, leaks, pubmed, squad
from helpers.data.bioasq import Question, Remarks
from helpers.data.squad import Drop, Example, question_texts
from helpers.fetch.fetch import fetch
from helpers.io import all_or_none, check_outputs, write_json

if TYPE_CHECKING:
    from helpers.model.decoding import Candidate, Reader

GOLDEN = "contains answers, so it is a golden file; participants were given fewer snippets"
TRAINED_ON = (
    "this golden file is converted as training data (for test data, add --test); specify your "
    "test files with --against, so that the model is not trained on test questions"
)
_BIOASQ_ROW = re.compile(r"[0-9a-f]{24}_\d{3,}")


@dataclass(frozen=True)
class ConvertOptions:
    """Options for ``convert_files``; ``bioasq_to_squad.py`` has an option for each field."""

    context: str = "snippet"
    abstracts: str | Path | None = None  # for context "abstract"; missing ones come from PubMed
    dev_fraction: float = 0.0
    seed: int = 0
    version: str = "1.1"  # SQuAD version
    test: bool = False  # keep every context, with or without an answer
    negatives: bool = False  # also write contexts without an answer; only for version "2.0"
    against: Sequence[str | Path] = ()  # test files whose questions are refused
    allow_leak: bool = False  # convert test questions as well


@dataclass
class Sources:
    """The content of the input files: BioASQ questions, SQuAD rows, and remarks about both."""

    questions: list[Question] = field(default_factory=list)
    rows: list[Example] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def texts(self) -> dict[str, str]:
        """Map each question id to the question text."""
        return {q.id: q.body for q in self.questions} | question_texts(self.rows)


def convert_files(
    files: Sequence[str | Path],
    output: str | Path,
    *,
    drops: str | Path | None = None,
    ids: str | Path | None = None,
    **options,
) -> str:
    """Convert BioASQ files into ``output`` (and ``<output>_dev.json``); return a one-line summary.

    ``options`` are fields of ``ConvertOptions``. An input file may also be a SQuAD file from
    dmis-lab or the kit. We check its rows and write them again; unless ``test`` is set, we write
    only rows with an answer. Rows keep their ids if no row has several answers. Without ``test``,
    we treat a golden file as training data and add a remark, because systems for later editions
    train on earlier test batches.

    We read and convert everything before writing the first file. Raises ``InputError`` if the input
    is invalid. If no question can be converted, we print the remarks and write ``drops`` first.
    """
    options = ConvertOptions(**options)
    dev_output = _check_options(files, output, drops, ids, options)
    sources = _read_sources(files, options)
    examples, dropped = _convert_sources(files, sources, options)
    train, dev = _split_rows(examples, sources, options) if examples else ([], [])
    for remark in sources.remarks:
        print(remark, file=sys.stderr)
    reasons = Counter(drop.reason for drop in dropped)
    if not examples:
        if drops:
            squad.write_drops(drops, dropped)
        why = ", ".join(sorted(reasons))
        raise InputError(f"{files[0]}: no question could be converted ({why})")
    with all_or_none():
        if drops:
            squad.write_drops(drops, dropped)
        if ids:
            squad.write_ids(ids, train + dev)
        if dev_output:
            squad.write_squad(dev_output, dev, version=options.version)
        # If a question has no known answers, we cannot know which contexts lack an answer.
        answered = {row.question_id for row in sources.rows if row.spans}
        answered |= {q.id for q in sources.questions if any(map(str.strip, q.synonyms()))}
        unknown = sources.texts().keys() - answered if options.test else ()
        squad.write_squad(output, train, version=options.version, unknown=unknown)
    total = len(sources.texts())
    held_out = f", held out: {len(dev)} pairs" if dev else ""
    why = "".join(f"; {reason}: {count}" for reason, count in reasons.most_common())
    kept = f"{total - len(dropped)} of {total} questions, {len(dropped)} dropped"
    return f"{len(train)} rows{held_out}; {kept}{why}"


def _check_options(
    files: Sequence, output: str | Path, drops: object, ids: object, options: ConvertOptions
) -> Path | None:
    """Refuse incompatible options and file names; return the path of the held-out file."""
    check_outputs((output,))  # before we derive another name from it
    if options.test and options.dev_fraction:
        raise InputError("dev fraction: a test input is not split; omit --dev-fraction or --test")
    if options.negatives and (options.test or options.version != "2.0"):
        raise InputError(
            "negatives: only SQuAD 2.0 training files have them; add --squad-version 2"
        )
    _check_abstracts(options.abstracts, options.context)
    output = Path(output)
    dev = output.with_name(f"{output.stem}_dev{output.suffix}") if options.dev_fraction else None
    check_outputs((output, dev, drops, ids), (*files, options.abstracts, *options.against))
    return dev


def _check_abstracts(abstracts: str | Path | None, context: str) -> None:
    if abstracts and context != "abstract":
        raise InputError(
            f"{abstracts}: read only with --context abstract; add this option or omit the file"
        )


def _read_sources(files: Sequence[str | Path], options: ConvertOptions) -> Sources:
    """Read the files; refuse repeated ids and questions that are in the test files."""
    sources = Sources()
    for file in files:
        if not options.test and layout.role_of(file) == "golden":
            sources.remarks.append(f"{file}: {TRAINED_ON}")
        remarks = Remarks()
        answers = "any" if options.test else "required"
        new = Sources(*squad.read_any(file, answers=answers, remarks=remarks))
        if again := new.texts().keys() & sources.texts().keys():
            raise InputError(
                f"{file}: question {min(again)!r}: id is also in another file; leave out one file"
            )
        sources.questions += new.questions
        sources.rows += new.rows
        sources.remarks += remarks.lines(file)
    found = leaks.find_leaks(sources.texts(), leaks.read_tests(options.against))
    sources.remarks += leaks.refuse_leaks(files[0], found, allow=options.allow_leak)
    if not sources.questions and options.context != "snippet":
        raise InputError(f"{files[0]}: a SQuAD file already has contexts; omit --context")
    return sources


def _convert_sources(
    files: Sequence[str | Path], sources: Sources, options: ConvertOptions
) -> tuple[list[Example], list[Drop]]:
    """Return the rows of all files and the dropped questions; add remarks to ``sources``."""
    rows, dropped = sources.rows, []
    if not options.test:
        rows, dropped = squad.answered_rows(rows, negatives=options.negatives)
    if sources.questions:
        abstracts = pubmed.gather_abstracts(
            sources.questions, [options.abstracts], context=options.context, source=files[0]
        )
        sources.remarks += abstracts.remarks
        examples, lost = convert.convert(
            sources.questions,
            context=options.context,
            test=options.test,
            abstracts=abstracts,
            negatives=options.negatives,
        )
        rows, dropped = rows + examples, dropped + lost
    if options.test and any(question.exact_answer for question in sources.questions):
        sources.remarks.append(f"{', '.join(map(str, files))}: {GOLDEN}")
    return rows, dropped


def _split_rows(
    rows: list[Example], sources: Sources, options: ConvertOptions
) -> tuple[list[Example], list[Example]]:
    """Return training rows, one per answer occurrence, and held-out rows, one per pair."""
    train, dev = leaks.split_dev(rows, options.dev_fraction, options.seed)
    if options.test:
        return train, dev
    given = {row.question_id for row in sources.rows}
    ready = squad.one_span_rows([row for row in train if row.question_id in given])
    made = squad.by_occurrence(row for row in train if row.question_id not in given)
    return ready + made, squad.by_pair(dev)


def load_reader(checkpoint: str | Path, settings: Settings) -> Reader:
    """Load a checkpoint and its tokenizer by path or by name; download them if necessary."""
    from helpers.model import checkpoints

    return checkpoints.load(checkpoints.prepare(fetch(checkpoint).folder, settings), settings)


def convert_checkpoint(checkpoint: str | Path, output: str | Path, qkv_order: str = "") -> Path:
    """Write any readable checkpoint as a transformers folder, and print what it contains.

    ``qkv_order`` is the row order of a Megatron checkpoint. By default, we try all orders.
    """
    from helpers.model import checkpoints

    checkpoints.check_replaceable(Path(output))
    settings = from_parameters(qkv_order=qkv_order, max_length=16)  # no text is encoded
    reader = checkpoints.load(checkpoints.prepare(checkpoint, settings), settings)
    checkpoints.save_transformers(reader, output, with_head=not reader.fresh_head)
    if found := reader.origin.get("qkv"):
        tried = ", ".join(f"{order} scores {score:.2f}" for order, score in found["scores"].items())
        print(
            f"query-key-value order {found['order']}, "
            f"based on {found['measure']} ({tried or 'given'})"
        )
    if reader.fresh_head:
        print("the checkpoint has no span head; fine-tune it before you use it to answer questions")
    print(f"transformers folder: {output}")
    return Path(output)


def save_model(reader: Reader, folder: str | Path) -> tuple[Path, Path]:
    """Write ``model.nemo`` and a ``transformers`` folder; return both paths."""
    from helpers.model import checkpoints

    folder = Path(folder)
    return (
        checkpoints.save_nemo(reader, folder / "model.nemo"),
        checkpoints.save_transformers(reader, folder / "transformers"),
    )


def fine_tune_files(
    checkpoint: str | Path,
    train: str | Path,
    output: str | Path,
    *,
    dev: str | Path | None = None,
    against: Sequence[str | Path] = (),
    resume: bool = False,
    **parameters,
) -> Reader:
    """Fine-tune on a SQuAD file; write ``model.nemo``, ``transformers/`` and ``training/``.

    ``parameters`` are fields of ``config.Settings``. We read and check everything before training
    starts. Unless ``allow_leak`` is set, we refuse training questions whose id or text is in a test
    file (from ``against``, or by default from ``bioasq_dir``); near-duplicates cause only a
    remark. We also refuse a question in ``dev`` if ``train`` contains its text with the same
    context or id; if ``train`` contains only its text, we print a remark. Prints the scores on
    ``dev`` and returns the trained reader.
    """
    from helpers.model import checkpoints, decoding, training

    output = Path(output).resolve()
    settings = from_parameters(**{"run": output.name or "model", **parameters})
    if settings.squad_epochs:
        raise InputError(
            "squad_epochs: one call trains on one file; train on the SQuAD file first, then on "
            "this file with --checkpoint MODEL.nemo, and set squad_epochs=0"
        )
    check_outputs([output / "model.nemo"])
    parts = output / "training", output / "transformers"
    for path in filter(None, (train, dev)):
        if any(Path(path).resolve().is_relative_to(part) for part in parts):
            raise InputError(f"{path}: is in a folder for model files; choose a different --output")
    examples, held_out = _read_answered(train), _read_answered(dev) if dev else []
    if not against and settings.bioasq_dir:
        files = layout.find_files(settings.bioasq_dir, need_train=False)
        against = [*files.golds, *files.tests]
    allow = settings.allow_leak
    found = leaks.find_leaks(question_texts(examples), leaks.read_tests(against))
    for remark in leaks.refuse_leaks(train, found, allow=allow):
        print(remark, file=sys.stderr)
    for remark in chain(*leaks.refuse_shared(train, examples, dev, held_out, allow=allow)):
        print(remark, file=sys.stderr)
    training.check_replaceable(parts[0])
    checkpoints.check_replaceable(parts[1])
    reader = load_reader(checkpoint, settings)
    done = training.fine_tune(reader, examples, output / "training", dev=held_out, resume=resume)
    save_model(reader, output)
    print(f"{done.steps} steps over {done.windows} windows in {done.seconds:.0f} s; see {output}")
    if held_out:
        scores = decoding.dev_scores(reader, held_out, progress=True)
        shown = {n: f"{100 * v:.1f}" if isinstance(v, float) else v for n, v in scores.items()}
        shown["loss"] = f"{scores['loss']:.2f}"  # in nats, not in percent
        print("dev: " + ", ".join(f"{name} {value}" for name, value in shown.items()))
    return reader


def _read_answered(path: str | Path) -> list[Example]:
    remarks = Remarks()
    examples = squad.read_squad(path, remarks)
    remarks.print(path)
    without = sum(not example.spans for example in examples)
    if without == len(examples):
        raise InputError(f"{path}: no row has an answer; give a training file, not a test input")
    if without:
        print(f"{path}: {without} of {len(examples)} rows have no answer", file=sys.stderr)
    return examples


def predict_files(
    checkpoint: str | Path,
    questions: str | Path,
    output: str | Path,
    *,
    abstracts: str | Path | None = None,
    nbest_file: str | Path | None = None,
    **parameters,
) -> Path:
    """Answer the questions in a BioASQ or SQuAD file, and write the answers to ``output``.

    For a BioASQ file, or a SQuAD file with BioASQ row ids (``<24 hex digits>_<number>``), we write
    a BioASQ answer file. For any other SQuAD file, we write ``{row id: answer}``, the format of the
    official SQuAD script. If a question has no context, its answer is empty, and we print
    a line to standard error.
    """
    from helpers.model.decoding import write_nbest

    settings = from_parameters(**parameters)
    check_outputs((output, nbest_file), (questions, abstracts))
    _check_abstracts(abstracts, settings.context)
    remarks = Remarks()
    asked, examples = squad.read_any(questions, remarks=remarks)
    remarks.print(questions)
    if examples and abstracts:
        raise InputError(
            f"{questions}: a SQuAD file already has contexts; omit --abstracts and --context"
        )
    reader = load_reader(checkpoint, settings)
    if reader.fresh_head:
        raise InputError(f"{checkpoint}: has no span head; fine-tune it first (fine_tune.py)")
    if asked:
        context = settings.context
        texts = pubmed.gather_abstracts(asked, [abstracts], context=context, source=questions)
        examples, drops = convert.convert(asked, context=context, test=True, abstracts=texts)
        if not examples:
            raise InputError(
                f"{questions}: no question has a context ({drops[0].reason}); add snippets"
            )
        if any(question.exact_answer for question in asked):
            print(f"{questions}: {GOLDEN}", file=sys.stderr)
        if drops:
            names = ", ".join(drop.question_id for drop in drops)
            without = f"no context, and therefore no answer, for {names}"
            print(f"{questions}: {without}", file=sys.stderr)
    candidates = reader.predict(examples)
    if nbest_file:
        write_nbest(nbest_file, examples, candidates)
    print(f"{len(examples)} contexts read; answers in {output}")
    if asked or all(_BIOASQ_ROW.fullmatch(example.id) for example in examples):
        return write_ranked(output, examples, candidates, settings.merge, [q.id for q in asked])
    best = {e.id: c[0].text if c else "" for e, c in zip(examples, candidates, strict=True)}
    return write_json(output, best)


def write_ranked(
    path: str | Path,
    examples: Sequence[Example],
    candidates: Sequence[Sequence[Candidate]],
    merge: str,
    ids: Sequence[str] = (),
) -> Path:
    """Merge the n-best lists of each question and write the BioASQ answer file.

    Every question in ``ids`` gets an entry, which is empty if there is no answer.
    """
    from helpers.model.decoding import rank_answers

    ranked = rank_answers(examples, candidates, merge=merge)
    answers = {name: [text for text, _ in best] for name, best in ranked.items()}
    return bioasq.write_answers(path, dict.fromkeys(ids, ()) | answers)
