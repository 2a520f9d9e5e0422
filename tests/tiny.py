"""A tiny model and a tiny task for tests: find the gene after the word ``gene``."""

import random

import torch

from helpers.config import Settings, from_parameters
from helpers.data.spans import Span
from helpers.data.squad import Example
from helpers.model import checkpoints
from helpers.model.decoding import Reader
from helpers.model.encoder import EncoderConfig, SpanModel

FILLER = "the a of in patient protein study shows that level".split()
GENES = [f"g{a}{b}" for a in "abcdefgh" for b in "klmnop"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "which", "gene", "?", *FILLER, *GENES]


def tiny_reader(seed: int = 0, **settings) -> Reader:
    """A reader with random weights, 2 layers of 32, and the task's vocabulary."""
    config = EncoderConfig(
        vocab_size=len(VOCAB), hidden=32, layers=2, heads=4, feed_forward=64, positions=64,
        norm_first=bool(seed % 2), dropout=settings.get("dropout", 0.0),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = SpanModel(config)
    values = {"max_length": 48, "epochs": 2, "batch_size": 4, "learning_rate": 5e-3, "seed": seed}
    values |= {"wandb_mode": "disabled", **settings}
    return Reader(model, VOCAB, from_parameters(**values))


def tiny_folder(path, seed: int = 0):
    """The same model as a transformers folder."""
    return checkpoints.save_transformers(tiny_reader(seed), path)


def tiny_examples(count: int, seed: int = 0) -> list[Example]:
    """``count`` pairs of three examples a question, each with one answer."""
    rng = random.Random(seed)
    examples = []
    for n in range(count):
        words = rng.choices(FILLER, k=rng.randint(4, 12))
        answer, other = rng.sample(GENES, 2)
        at = rng.randrange(len(words))
        words[at:at] = ["gene", answer]
        words.append(other)
        context = " ".join(words)
        start = context.index(f"gene {answer}") + len("gene ")
        question = f"{n // 3:024x}"
        span = Span(start, start + len(answer), answer)
        examples.append(
            Example(f"{question}_{n % 3 + 1:03d}", question, "which gene ?", context, (span,))
        )
    return examples


def finished(run, **facts) -> None:
    """Record stages of a run, given with their facts in the run's order, as if they had run."""
    for stage, known in facts.items():
        run.begin(stage)
        run.finish(stage, **known)


__all__ = ["Settings", "finished", "tiny_examples", "tiny_folder", "tiny_reader"]
