"""The measurements in notebooks 01 and 02, and the test questions that the notebooks show.

Notebook 01 examines models: their parts, memory, row order, and the position of LayerNorm.
Notebook 02 examines a folder of BioASQ files: its contents and the effect of each context setting.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pandas as pd
import torch
from torch.nn import functional as F

from helpers.config import CONTEXTS, InputError
from helpers.data.bioasq import (
    TYPES,
    Question,
    Remarks,
    raw_questions,
    read_json,
    read_questions,
)
from helpers.data.convert import convert
from helpers.data.layout import BioasqFiles, TestBatch, read_batches, ready_tests, run_abstracts
from helpers.data.leaks import most_alike
from helpers.data.spans import (
    WORD,
    extra_cause,
    find_spans,
    lacks_answer,
    plain,
    search_terms,
)
from helpers.data.squad import Drop, Example, by_question, question_texts, read_squad
from helpers.fetch.registry import MEGATRON_GELU
from helpers.model import row_order
from helpers.model.decoding import Candidate, Reader, compute_logits, rank_answers
from helpers.model.encoder import EncoderConfig, SpanModel
from helpers.model.features import Batch, Windows
from helpers.run.stages import ConvertedRun, questions_of_tests

PARTS = ("embeddings", "attention", "feed-forward", "LayerNorm", "span head")
_PART_OF = {  # word in a parameter name -> part of the model; the first match counts
    "norm": "LayerNorm",
    "attention": "attention",
    "up": "feed-forward",
    "down": "feed-forward",
    "head": "span head",
}
MEBIBYTE = 2**20
STRICT = "strict rule"
DROP_COLUMNS = [column.name for column in fields(Drop)]
_SENTENCE = 10  # fewest words; in the golden files of 7b, all shorter golds are names or phrases
_MOST = 30  # maximum number of unread files to list (a user may specify a home folder)


@dataclass(frozen=True)
class Stack:
    """A stack of layers with random weights.

    ``gradients`` contains, for each layer, the norm of the gradient of the loss with respect to the
    second feed-forward matrix of the layer.
    """

    layers: int
    norm_first: bool
    seed: int
    gradients: tuple[float, ...]

    @property
    def name(self) -> str:
        """The position of LayerNorm."""
        return "pre-LayerNorm" if self.norm_first else "post-LayerNorm"


def meta_model(config: EncoderConfig | None = None) -> SpanModel:
    """Build a model with shapes but no weights (BioMegatron 345M if no config is specified)."""
    with torch.device("meta"):
        return SpanModel(config or EncoderConfig(gelu=MEGATRON_GELU))


def parameters_by_part(model: SpanModel) -> dict[str, int]:
    """Count the weights in each of ``PARTS``."""
    counts = dict.fromkeys(PARTS, 0)
    for name, weight in model.named_parameters():
        words = name.replace("_", ".").split(".")  # so that "norm" matches attention_norm.weight
        part = next((part for word, part in _PART_OF.items() if word in words), "embeddings")
        counts[part] += weight.numel()
    return counts


def memory(parameters: int) -> dict[str, float]:
    """Return the memory in MiB that ``parameters`` weights need for each use.

    Training keeps four float32 numbers per weight: the weight, its gradient and Adam's two moments
    (Kingma and Ba 2015). Activations need additional memory, which grows with the batch size.
    """
    per_weight = {"stored, float16": 2, "prediction, float32": 4, "training, float32": 16}
    return {name: parameters * size / MEBIBYTE for name, size in per_weight.items()}


def row_orders(reader: Reader) -> dict:
    """Score the model in each row order; return ``order``, ``kind``, ``measure`` and ``scores``.

    A converted checkpoint contains the scores from its conversion. The row order of any other model
    is known, so this function deliberately reorders the rows and scores the model on twenty
    questions. A model with a trained span head answers them. Any other model matches them to their
    texts.
    """
    known = reader.origin.get("qkv", {})
    if known.get("scores"):
        return known
    if reader.fresh_head:
        measure, words = matching, "share of questions that are closest to their own text"
    else:
        measure, words = row_order.answer_score, row_order.MEASURES["answers"]
    scores = row_order.try_orders(reader, measure)
    return {"order": "0", "kind": "shown", "measure": words, "scores": scores}


def matching(reader: Reader) -> float:
    """Return the share of questions whose nearest text is their own.

    Questions and texts are compared by the cosine similarity of their mean states. MiniLM was
    trained for this task (Reimers and Gurevych 2019, mean pooling). The chance level is 1 in 20.
    """
    examples = [example for example, _ in row_order.questions()]
    questions = _mean_states(reader, [example.question for example in examples])
    texts = _mean_states(reader, [example.context for example in examples])
    nearest = (questions @ texts.T).argmax(1)
    return (nearest == torch.arange(len(examples))).float().mean().item()


def _mean_states(reader: Reader, texts: list[str]) -> torch.Tensor:
    """Return the mean states of the texts as unit vectors ``[texts, hidden]``."""
    batch = _batch([torch.tensor(e.ids) for e in reader.tokenizer.encode_batch(texts)])
    with torch.inference_mode(), reader.compute.autocast():
        states = reader.model.encoder(batch.to(reader.compute.device)).float().cpu()
    return F.normalize(torch.stack([part.mean(0) for part in states.split(batch.lengths)]), dim=-1)


def _batch(texts: Sequence[torch.Tensor]) -> Batch:
    """Combine token ids, one tensor ``[tokens]`` per text, into a batch without answers."""
    ids, positions = torch.cat(list(texts)), torch.cat([torch.arange(len(text)) for text in texts])
    nothing = torch.zeros(len(texts), dtype=torch.long)
    types = torch.zeros_like(ids)
    return Batch.pack(ids, types, positions, tuple(map(len, texts)), nothing, nothing)


def head_logits(
    model: SpanModel, windows: Windows, vocab: Sequence[str]
) -> list[tuple[str, float, float]]:
    """Return (token, start logit, end logit) for each token of the first window."""
    last = int(windows.bounds[1])
    logits = compute_logits(model, windows)[:last].tolist()
    return [(vocab[i], *pair) for i, pair in zip(windows.ids[:last].tolist(), logits, strict=True)]


def depth_experiment(
    depths: Sequence[int] = (3, 6, 12, 24), width: int = 128, seeds: Sequence[int] = (0, 1)
) -> list[Stack]:
    """Measure gradients in random stacks of several depths with each position of LayerNorm.

    The setup is close to that of Xiong et al. 2020, §3. The matrices of the layers have Xavier
    initialization, the biases are 0, and LayerNorm has scale 1 and shift 0. The loss is the
    cross-entropy of classifying each token, as in masked language modeling. Tokens and classes are
    random.
    """
    return [
        _random_stack(layers, norm_first, width, seed)
        for layers in depths
        for norm_first in (False, True)
        for seed in seeds
    ]


def _random_stack(layers: int, norm_first: bool, width: int, seed: int) -> Stack:
    windows, length, words = 4, 32, 1000
    generator = torch.Generator().manual_seed(seed)
    config = EncoderConfig(
        vocab_size=words, hidden=width, layers=layers, heads=4, feed_forward=4 * width,
        positions=length, norm_first=norm_first,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # the random weights are replaced below
        encoder = SpanModel(config).encoder
    _xavier(encoder, generator)
    ids = torch.randint(words, (windows * length,), generator=generator)
    classes = torch.randint(words, (windows * length,), generator=generator)
    read_out = torch.randn(width, words, generator=generator) * math.sqrt(2 / (width + words))
    F.cross_entropy(encoder(_batch(ids.split(length))) @ read_out, classes).backward()
    gradients = tuple(layer.down.weight.grad.norm().item() for layer in encoder.layers)
    return Stack(layers, norm_first, seed, gradients)


def _xavier(encoder: torch.nn.Module, generator: torch.Generator) -> None:
    """Initialize the weights in the same way for both kinds of stack: only LayerNorm differs."""
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "norm" in name:
                continue
            if weight.dim() == 1:
                weight.zero_()
            elif "layers" not in name:  # embeddings: standard deviation 1, as after LayerNorm
                weight.normal_(0, 1, generator=generator)
            else:  # qkv combines three square matrices: query, key and value
                for matrix in weight.chunk(3 if "qkv" in name else 1):
                    torch.nn.init.xavier_normal_(matrix, generator=generator)


def describe_files(files: BioasqFiles) -> list[dict]:
    """Return one row per file: role, name, format, and the number of questions of each type."""
    found = [("train", files.train, files.train_is_squad)] if files.train else []
    if not files.enriched:
        found += [("test input", path, files.tests_are_squad) for path in files.tests]
    found += [("golden", path, False) for path in files.golds]
    rows = []
    for role, path, squad in found:
        if squad:  # contains only factoid questions, each in several rows
            types = Counter(factoid=len({row.question_id for row in read_squad(path)}))
        else:
            types = Counter(question.type for question in read_questions(path, kind=None))
        row = {"role": role, "file": path.name, "format": "SQuAD" if squad else "BioASQ"}
        rows.append(row | {"questions": types.total()} | {kind: types[kind] for kind in TYPES})
    return rows


def remarks(files: BioasqFiles) -> list[dict]:
    """Return repairs and unusual entries in the files: one row per file and kind of remark.

    Unread files come last. Only the first ``_MOST`` of them are named, each with the reason.
    """
    paths = {files.train: files.train_is_squad} if files.train else {}
    paths |= {} if files.enriched else dict.fromkeys(files.tests, files.tests_are_squad)
    rows = []
    for path, squad in (paths | dict.fromkeys(files.golds, False)).items():
        found = Remarks()
        read_squad(path, found) if squad else read_questions(path, remarks=found)
        rows += [
            {"file": path.name, "remark": what, "questions": len(ids)}
            for what, ids in found.found.items()
        ]
    unread = [(path.name, f"not read: {why}") for path, why in files.ignored]
    if len(unread) > _MOST:
        unread[_MOST:] = [(f"{len(unread) - _MOST} more files", "not read")]
    return rows + [{"file": name, "remark": why, "questions": "–"} for name, why in unread]


def published_spans(files: BioasqFiles) -> list[dict]:
    """Count the spans in a published SQuAD training file and those that the strict rule finds.

    A BioASQ training file gives no rows. Spans that only the rule finds are counted by cause (see
    ``spans.extra_cause``).
    """
    if not files.train_is_squad:
        return []
    answers, annotated = defaultdict(set), defaultdict(set)
    for row in read_squad(files.train):
        annotated[row.question_id, row.context].update(row.spans)
        answers[row.question_id].update(span.text for span in row.spans)
    counts: Counter[str] = Counter()
    for (name, context), published in annotated.items():
        found = set(find_spans(context, answers[name]))
        counts["spans in the file"] += len(published)
        counts["of these, also found by the strict rule"] += len(published & found)
        for span in found - published:
            cause = extra_cause(span, context, answers[name]) or "unexplained"
            counts[f"found only by the rule: {cause}"] += 1
    return [{"what": what, "spans": count} for what, count in counts.items()]


def coverage(batches: Sequence[TestBatch]) -> list[dict]:
    """Count all questions, those the strict rule can answer, and the ceiling; add a row of totals.

    The strict rule can answer a question if it finds an answer in one of its texts. The extractive
    ceiling also counts answers inside a word.
    """
    rows = []
    for batch in batches:
        found = sum(
            any(find_spans(text, search_terms(question.synonyms())) for text in texts)
            for question in batch.golds
            if (texts := batch.contexts.get(question.id, ()))
        )
        row = {"batch": batch.name, "questions": len(batch.golds), STRICT: found}
        rows.append(row | {"ceiling": batch.ceiling[0]})
    names = ("questions", STRICT, "ceiling")
    return [*rows, {"batch": "all"} | {name: sum(row[name] for row in rows) for name in names}]


def snippet_effect(batches: Sequence[TestBatch]) -> pd.DataFrame:
    """Compare the given texts with the golden snippets: one row per batch, totals and percentages.

    The ceilings and the strict rule are counted as in ``coverage``.
    """
    counts = {
        batch.name: {
            "questions": len(batch.golds), "texts given": len(batch.examples),
            "golden snippets": batch.golden_snippets, "ceiling, given": batch.ceiling[0],
            "ceiling, golden": batch.golden_ceiling[0], "strict, golden": batch.golden_strict,
        }
        for batch in batches
    }  # fmt: skip
    table = pd.DataFrame(counts).T
    table.loc["all"] = table.sum()
    shares = 100 * table.loc["all"] / table.loc["all", "questions"]
    shares = shares.drop(["texts given", "golden snippets"]).map("{:.1f}".format)
    shares = shares.rename("% of questions").to_frame().T
    return pd.concat([table.astype(object), shares]).fillna("")


def context_sizes(converted: ConvertedRun) -> dict[str, dict[str, list[int]]]:
    """Return words per distinct context and contexts per question, for training and test."""
    tests = [row for batch in converted.batches for row in batch.examples]
    parts = {}
    for name, rows in (("train", [*converted.train, *converted.dev]), ("test", tests)):
        pairs = {(row.question_id, row.context) for row in rows}
        counts = Counter(question_id for question_id, _ in pairs)
        words = [len(context.split()) for _, context in pairs]
        parts[name] = {"words": words, "contexts": list(counts.values())}
    return parts


def leak_rows(converted: ConvertedRun, most: int = 5) -> list[dict]:
    """Return the leaks and, for comparison, the ``most`` most similar pairs of other questions."""
    train = question_texts([*converted.train, *converted.dev])
    known = {leak.question_id for leak in converted.leaks}
    rest = {name: text for name, text in train.items() if name not in known}
    rows = [(leak.how, leak) for leak in converted.leaks]
    rows += [
        ("none", pair) for pair in most_alike(rest, questions_of_tests(converted.batches), most)
    ]
    return [
        {"leak": how, "likeness": pair.likeness, "training question": pair.question,
         "test question": pair.test_question}
        for how, pair in rows
    ]  # fmt: skip


def followed_question(batches: Sequence[TestBatch]) -> tuple[str, Question, list[Example]]:
    """Return the test question that all notebooks follow: its batch, the question, its examples.

    Of the questions with several synonyms and an answer in at least two of at least three contexts,
    it is the one with the shortest contexts. If there is none, it is any question, preferably one
    with a context. No model is involved, so all notebooks of a run choose the same question.
    """
    choices = []
    for batch in batches:
        for question in batch.golds:
            own = [e for e in batch.examples if e.question_id == question.id]
            hits = [bool(find_spans(e.context, question.synonyms())) for e in own]
            clear = sum(hits) >= 2 and len(own) >= 3 and len(question.synonyms()) >= 2
            length = sum(len(example.context) for example in own)
            choices.append((not clear, not own, length, question.id, (batch.name, question, own)))
    return min(choices)[-1]


def votes(pairs: Sequence[tuple[Example, Sequence[Candidate]]]) -> pd.DataFrame:
    """Return the shares of a question's answers, ``[answers, snippets]``, the highest sum first.

    ``pairs`` has the example and the n-best list of each snippet. Answers are in lower case.
    """
    shares = {}
    for number, (example, nbest) in enumerate(pairs, 1):
        best = rank_answers([example], [nbest], keep=len(nbest))[example.question_id]
        shares[f"snippet {number}"] = {text.lower(): share for text, share in best}
    table = pd.DataFrame(shares).fillna(0.0)
    return table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]


_FEW = 4  # as many snippets as ``figures.merge_bars`` can distinguish


def merged_question(
    examples: Sequence[Example], candidates: Sequence[Sequence[Candidate]]
) -> tuple[str, pd.DataFrame]:
    """Return the text and the ``votes`` of the question that best shows what merging does.

    It has few snippets and, if possible, a different first answer with ``sum`` than with ``max``.
    Of such questions, it is the one whose first answer gains most from its other snippets.
    """
    choices = []
    for pairs in by_question(examples, candidates).values():
        table = votes(pairs)
        total, most = table.sum(axis=1), table.max(axis=1)
        first = 0.0 if table.empty else total.iloc[0] - most.iloc[0]
        differs = not table.empty and most.idxmax() != total.index[0]
        choices.append(((len(pairs) <= _FEW, differs, first), pairs[0][0].question, table))
    return max(choices, key=lambda choice: choice[0])[1:]


def raw_record(path: Path, question_id: str) -> dict:
    """Return a question exactly as a BioASQ file stores it, but with its first snippet only."""
    records = raw_questions(read_json(path), path)
    record = next(dict(item) for item in records if str(item["id"]) == question_id)
    if len(snippets := record.get("snippets", ())) > 1:
        record["snippets"] = [snippets[0], f"… and {len(snippets) - 1} more"]
    return record


def gold_defects(questions: Sequence[Question]) -> list[dict]:
    """Return the defects of gold answers: one row per question and kind of defect.

    A gold has *spaces* if it begins or ends with a space or contains several in a row. For *a
    sentence*, see ``is_sentence``. A *synonym is missing* if the strict rule finds no gold in any
    snippet, even without the superfluous spaces, but a snippet contains one in a different
    spelling. The evidence is the gold or the spelling in the snippet.
    """
    rows = []
    for question in questions:
        golds = question.synonyms()
        tidy = [" ".join(gold.split()) for gold in golds]
        texts = [snippet.text for snippet in question.snippets]
        spelled = [] if any(find_spans(text, tidy) for text in texts) else _spellings(texts, tidy)
        found = {
            "spaces": [gold for gold, clean in zip(golds, tidy, strict=True) if gold != clean],
            "a sentence": list(filter(is_sentence, golds)),
            "a synonym is missing": spelled,
        }
        rows += [
            {"defect": name, "question": question.body, "golds": golds, "evidence": evidence[0]}
            for name, evidence in found.items()
            if evidence
        ]
    return rows


def is_sentence(gold: str) -> bool:
    """Return whether a gold ends with a period or has at least ``_SENTENCE`` words."""
    return gold.rstrip().endswith(".") or len(gold.split()) >= _SENTENCE


def _spellings(texts: Sequence[str], golds: Sequence[str]) -> list[str]:
    """Return the words in the texts that match a gold by ``spans.plain``, in their own spelling."""
    wanted = {plain(gold) for gold in golds} - {""}
    longest = max((len(gold.split()) for gold in golds), default=0) + 2  # "beta-cell", "beta cell"
    found = []
    for text in texts:
        places = [] if lacks_answer(text, golds) else [m.span() for m in WORD.finditer(text)]
        for size in range(1, longest + 1):
            parts = (
                text[first:last].strip(" .,;:()[]")
                for (first, _), (_, last) in zip(places, places[size - 1 :], strict=False)
            )
            found += [part for part in parts if plain(part) in wanted]
    return found


def long_example(converted: ConvertedRun) -> Example:
    """Return the longest text of the run that contains an answer, with one of its gold spans.

    The span is the one nearest to the middle of the text. We look at the training contexts and, if
    this machine has them, at the abstracts of the test questions.
    """
    rows = list(converted.train)
    golds = [question for batch in converted.batches for question in batch.golds]
    with suppress(InputError):  # there are no abstracts
        abstracts = run_abstracts(converted.files, golds, "abstract", fetch=False)
        rows += convert(golds, context="abstract", abstracts=abstracts)[0]
    longest = max(len(row.context) for row in rows)
    choices = [(row, span) for row in rows if len(row.context) == longest for span in row.spans]
    row, span = min(choices, key=lambda choice: abs(choice[1].start - longest / 2))
    return replace(row, spans=(span,))


def compare_contexts(files: BioasqFiles) -> list[dict]:
    """Return what the system reads at test time under each context setting: one row per setting.

    "abstract" is listed if a file or the PubMed cache has abstracts (none are downloaded). It is
    listed again for each SQuAD test file of full abstracts in the folder. SQuAD test inputs give
    no rows, because they were made for one context.
    """
    if files.tests_are_squad:
        return []
    rows = []
    for context in CONTEXTS:
        try:
            batches, _ = read_batches(files, context, fetch=False)
        except InputError:
            if context != "abstract":
                raise
            continue
        golds = [question for batch in batches for question in batch.golds]
        examples = [example for batch in batches for example in batch.examples]
        rows.append(_sizes(context, golds, examples))
    folder = Path(os.path.commonpath([path.parent for path in files.golds]))
    edition = re.match(r"mini|\d+b", files.batches[0].lower())[0]
    for path in ready_tests(folder, "abstract", edition):
        rows.append(_sizes(f"abstract: {path.name}", golds, read_squad(path)))
    return rows


def _sizes(name: str, golds: Sequence[Question], examples: Sequence[Example]) -> dict:
    batch = TestBatch(name, tuple(examples), tuple(golds))
    hits, total = batch.ceiling
    words = [len(example.context.split()) for example in examples] or [0]
    return {
        "context": name,
        "questions": total,
        "with a text": len(batch.contexts),
        "texts": len(examples),
        "mean words": sum(words) / len(words),
        "longest": max(words),
        "ceiling (questions)": hits,
        "ceiling (%)": 100 * hits / total if total else 0.0,
    }
