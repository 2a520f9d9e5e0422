"""Inputs of the GPU benchmark: random weights, texts, and transformers' BERT."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import BertWordPieceTokenizer

from helpers.config import InputError, Settings, from_parameters
from helpers.data.layout import ready_tests
from helpers.data.spans import Span
from helpers.data.squad import Example, read_squad
from helpers.model.compute import Compute
from helpers.model.decoding import Reader
from helpers.model.encoder import EncoderConfig, SpanModel, pad
from helpers.model.features import Batch
from helpers.model.texts import SPECIAL, read_vocab
from helpers.model.weights import weight_names
from helpers.run.stages import convert_run, find_run_files

# The number of words per context in BioASQ 7b: the mean, the spread (sigma of a log-normal
# distribution) and the maximum. We chose the spread to match the 95th percentile of snippets
# (82 words) and the maximum of abstracts (674 words). A question and a snippet together have 73
# tokens on average.
_WORDS = {"snippet": (33, 0.70, 307), "abstract": (219, 0.33, 674)}
_TOKENS_PER_WORD, _QUESTION = 1.7, 14
_ROWS = 4231  # rows of the 7b training file
_TESTS = (123, 79, 92, 107, 111)  # question-snippet pairs of the five test batches


@dataclass(frozen=True)
class Data:
    """Training rows, with one span each, and the pairs of the five test batches."""

    name: str
    context: str
    train: Sequence[Example]
    tests: Sequence[Sequence[Example]]
    vocab: Sequence[str]

    def reader(self, model: SpanModel, settings: Settings, compute: Compute) -> Reader:
        """Move the model to the device and return a reader for this data."""
        model.to(compute.device)
        return Reader(model, self.vocab, settings, compute=compute)


def synthetic(context: str, rows: int = _ROWS, words: int = 30_000, seed: int = 0) -> Data:
    """Create random texts with the lengths of BioASQ 7b, in which every word is one token.

    rows: the number of training rows; the test batches shrink in proportion.
    words: the number of distinct words.
    """
    rng = np.random.default_rng(seed)
    vocab = [f"w{n}" for n in range(words)]
    mean, sigma, most = _WORDS[context]

    def example(number: int, trained: bool) -> Example:
        length = min(most, rng.lognormal(np.log(mean) - sigma**2 / 2, sigma))
        size = max(1, round(length * _TOKENS_PER_WORD))
        chosen = [vocab[n] for n in rng.integers(0, words, size)]
        at = int(rng.integers(0, len(chosen)))
        text = " ".join(chosen[at : at + 2])
        start = sum(map(len, chosen[:at])) + at
        question = " ".join(vocab[n] for n in rng.integers(0, words, _QUESTION))
        spans = (Span(start, start + len(text), text),) if trained else ()
        return Example(f"{number:024x}_001", f"{number:024x}", question, " ".join(chosen), spans)

    train = [example(number, True) for number in range(rows)]
    sizes = [max(1, size * rows // _ROWS) for size in _TESTS]
    tests = [[example(number, False) for number in range(size)] for size in sizes]
    return Data("synthetic texts with the lengths of BioASQ 7b", context, train, tests,
                [*SPECIAL, "[MASK]", *vocab])  # fmt: skip


def real(folder: str, vocab: Path | None = None) -> tuple[Data, list[str]]:
    """Read the user's BioASQ files; return the data and notes on what was replaced.

    If the training questions have no abstracts, the context is the snippet. If there is no
    vocabulary file, we train a vocabulary on the texts.
    """
    os.environ.setdefault("HELPERS_OFFLINE", "1")  # do not ask PubMed for abstracts
    notes, context = [], "abstract"
    try:
        converted = _convert(folder, context)
    except InputError:
        notes.append("trained on snippets, because the folder has no training file with abstracts")
        context = "snippet"
        converted = _convert(folder, context)
    tests = [batch.examples for batch in converted.batches]
    if context == "snippet" and (ready := ready_tests(folder, "abstract")):
        tests = [read_squad(path) for path in ready]
        notes.append(f"the test pairs use the full abstracts in {', '.join(p.name for p in ready)}")
    if vocab:
        tokens = read_vocab(vocab)
    else:
        tokens = trained_vocab(converted.train)
        notes.append(f"the vocabulary ({len(tokens)} tokens) was trained on the training texts")
    return Data("the user's BioASQ files", context, converted.train, tests, tokens), notes


def _convert(folder: str, context: str):
    settings = from_parameters("mini", bioasq_dir=folder, context=context, dev_fraction=0.0)
    return convert_run(find_run_files(settings), settings)


def trained_vocab(examples: Iterable[Example], size: int = 30_522) -> list[str]:
    """Train a WordPiece vocabulary on these texts; return its tokens in the order of their ids."""
    texts = dict.fromkeys(text for e in examples for text in (e.question, e.context))
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(texts, vocab_size=size, show_progress=False)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.get)


def random_model(config: EncoderConfig, device: str, seed: int = 0) -> SpanModel:
    """Create a model with normally distributed matrices and biases (standard deviation 0.02)."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = SpanModel(config)
        norms = {id(p) for m in model.modules() if isinstance(m, torch.nn.LayerNorm)
                 for p in m.parameters()}  # fmt: skip
        with torch.no_grad():
            for p in model.parameters():
                if id(p) not in norms:
                    p.normal_(0, 0.02)
    return model.eval()


def random_batch(lengths: Sequence[int], vocab_size: int, seed: int = 0) -> Batch:
    """Create a batch of windows with random tokens and answers, on the CPU."""
    rng = np.random.default_rng(seed)
    ids = torch.from_numpy(rng.integers(5, vocab_size, sum(lengths)))
    positions = torch.cat([torch.arange(n) for n in lengths])
    types = torch.cat([(torch.arange(n) >= n // 4).long() for n in lengths])
    start = torch.tensor([int(rng.integers(0, n)) for n in lengths])
    end = torch.tensor([min(n - 1, int(s) + 2) for n, s in zip(lengths, start, strict=True)])
    return Batch.pack(ids, types, positions, tuple(lengths), start, end)


# ---- transformers


def transformers_bert(model: SpanModel) -> torch.nn.Module:
    """Return transformers' BERT with SDPA and a copy of these weights, on the same device.

    The model must be a post-LayerNorm BERT, because transformers' Megatron-BERT supports only eager
    attention. The two kinds of model do the same amount of work.
    """
    transformers.logging.set_verbosity_error()
    c, state = model.config, model.state_dict()
    config = transformers.BertConfig(
        vocab_size=c.vocab_size, hidden_size=c.hidden, num_hidden_layers=c.layers,
        num_attention_heads=c.heads, intermediate_size=c.feed_forward,
        max_position_embeddings=c.positions, type_vocab_size=c.token_types,
        layer_norm_eps=c.epsilon, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with torch.device(model.head.weight.device):
        theirs = transformers.AutoModelForQuestionAnswering.from_config(
            config, attn_implementation="sdpa"
        )
    tensors = {}
    for names in weight_names(c):
        parts = state[names.ours].chunk(len(names.transformers))
        tensors |= zip(names.transformers, parts, strict=True)
    theirs.load_state_dict(tensors)
    return theirs


def padded_inputs(batch: Batch, targets: bool = False) -> dict[str, torch.Tensor]:
    """Return a batch as transformers' models expect it, padded to its longest window."""
    inputs = {
        "input_ids": pad(batch.ids, batch, 0),
        "token_type_ids": pad(batch.token_types, batch, 0),
        "attention_mask": batch.mask.long(),
    }
    if targets:
        inputs |= {"start_positions": batch.start, "end_positions": batch.end}
    return inputs
