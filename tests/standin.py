"""Train a small Megatron-BERT in NVIDIA's 2021 format, for machines that cannot reach NGC.

    python tests/standin.py FOLDER [--order 0]

MiniLM applies LayerNorm after each block, and Megatron-BERT applies it before each block. The
script copies MiniLM's weights into a Megatron-BERT and trains it until each layer gives nearly the
same output as in MiniLM. It then trains the model to answer questions on short texts about the
training facts of BioASQ-mini. It writes the checkpoint to FOLDER/biomegatron345muncasedsquadv1/1/,
where tests/ngc_server.py expects it. The scores of this model are meaningless. They only show that
the kit can handle such a checkpoint.
"""

import argparse
import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import megatron_files
import torch
from torch.nn import functional as F
from tqdm import tqdm

from helpers.config import from_parameters
from helpers.data import squad
from helpers.data.spans import find_spans
from helpers.fetch import fetch
from helpers.fetch.registry import MEGATRON_GELU
from helpers.model import checkpoints, training
from helpers.model.decoding import Reader
from helpers.model.encoder import SpanModel
from helpers.model.features import gather

sys.path.append(str(Path(__file__).parents[1] / "data_scripts"))
from bioasq_mini import sentences

MODEL, VERSION = "biomegatron345muncasedsquadv1", "1"
FRAMES = ("<so1>. // <so2>.", "<so2>. // <so1>.", "<os1>. // <os3>.", "<os2>. // <os1>.",
          "<so1>. // <os2>.", "<so2>. // <os1>.", "<so1>.")  # fmt: skip


def make(folder: Path, order: str = "0", seed: int = 0) -> Path:
    """Train the stand-in, write it below ``folder``, and return the folder of the checkpoint."""
    settings = from_parameters(
        seed=seed,
        epochs=2,
        batch_size=16,
        learning_rate=2e-4,
        wandb_mode="disabled",
        max_length=128,
    )
    teacher = checkpoints.load(fetch.fetch("minilm").folder, settings)
    rows = training_examples(seed)
    reader = Reader(regressed(teacher, rows, seed=seed), teacher.vocab, settings)
    with tempfile.TemporaryDirectory() as scratch:
        training.fine_tune(reader, rows, Path(scratch) / "training")
    path = folder / MODEL / VERSION
    w = megatron_files.weights_of(reader.model)
    return megatron_files.write(path, order, w=w, vocab=reader.vocab, dtype=torch.float16)


def training_examples(seed: int) -> list[squad.Example]:
    """Return questions about training facts, each with three texts that state one or two facts."""
    rows = []
    for fact in sentences.facts():
        item = sentences.draft(fact) if fact.side == "train" else None
        if item is None:
            continue
        rng = random.Random(f"{seed}|{fact.id}")
        for number, frame in enumerate(rng.sample(FRAMES, 3), 1):
            text = sentences.sentence(frame, item, rng)
            spans = find_spans(text, [name for entity in fact.entities for name in entity])
            if spans:
                longest = max(spans, key=lambda span: span.end - span.start)
                rows.append(squad.Example(f"{fact.id}_{number:03d}", fact.id, item.body, text,
                                          (longest,)))  # fmt: skip
    return rows


def regressed(teacher: Reader, rows, steps: int = 80, seed: int = 0) -> SpanModel:
    """Train a pre-LayerNorm model to reproduce the normalized states of its teacher."""
    windows = teacher.windows(rows)
    rng = random.Random(seed)
    model = moved(teacher.model)
    optimizer = torch.optim.AdamW(model.encoder.parameters(), lr=5e-4, weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.02, total_iters=steps)
    for _ in tqdm(range(steps), desc="regression", unit="step"):
        batch = gather(windows, rng.sample(range(len(windows)), 24))
        with torch.no_grad():
            wanted = states(teacher.model, batch)
        found = states(model, batch)
        pairs = zip(found, wanted, strict=True)
        loss = sum(F.mse_loss(x, y) / y.var() for x, y in pairs) / len(found)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


def moved(old: SpanModel) -> SpanModel:
    """Copy the teacher's weights into a pre-LayerNorm model, with each norm one block later."""
    as_nvidias = {"norm_first": True, "epsilon": 1e-5, "gelu": MEGATRON_GELU}
    new = SpanModel(replace(old.config, **as_nvidias))
    state = {name: value.clone() for name, value in old.state_dict().items()}
    norms = norm_names(old.config.layers)
    for theirs, ours in zip(["encoder.norm", *norms], [*norms, "encoder.norm"], strict=True):
        for kind in ("weight", "bias"):
            state[f"{ours}.{kind}"] = old.state_dict()[f"{theirs}.{kind}"].clone()
    # The teacher's first norm gives all word embeddings the same scale. Without it, we scale them.
    words = state["encoder.words.weight"]
    scale = old.encoder.norm.weight.mean() / words.std(-1, keepdim=True)
    words *= scale
    for name in ("positions", "token_types"):
        state[f"encoder.{name}.weight"] *= scale.median()
    new.load_state_dict(state)
    return new


def norm_names(layers: int) -> list[str]:
    """Return the names of the layers' norms in the order in which the model applies them."""
    kinds = ("attention_norm", "mlp_norm")
    return [f"encoder.layers.{n}.{kind}" for n in range(layers) for kind in kinds]


def states(model: SpanModel, batch) -> list[torch.Tensor]:
    """Return the output of each norm, in the order in which the model applies them."""
    seen: list[torch.Tensor] = []
    norms = [m for m in model.encoder.modules() if isinstance(m, torch.nn.LayerNorm)]
    hooks = [norm.register_forward_hook(lambda *call: seen.append(call[2])) for norm in norms]
    model.encoder(batch)
    for hook in hooks:
        hook.remove()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="output folder for the checkpoint")
    parser.add_argument(
        "--order",
        choices=("0", "1.0", "2.0"),
        default="0",
        help="row order of the query-key-value matrices (default: 0)",
    )
    options = parser.parse_args()
    print(make(options.folder, options.order))


if __name__ == "__main__":
    main()
