"""Give damaged files to every reader: each must accept the file or refuse it with ``InputError``.

    python tests/fuzz.py [--inputs 1000000] [--seed 0] [--only NAME ...]

Each input is a small valid file in which some values or bytes were replaced. Prints a table, and
keeps every input that caused another exception, or took longer than SECONDS, in tests/cases/fuzz.
test_fuzz.py tries the kept inputs again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from helpers import config
from helpers.config import InputError
from helpers.data import bioasq, convert, pubmed, squad
from helpers.model import checkpoints, texts, weights
from helpers.scoring import evaluate
from helpers.sweeps import plan, shards

CASES = Path(__file__).parent / "cases"
KEPT = CASES / "fuzz"
SECONDS = 2.0
ID = "0000000000000000000000a1"
QUESTIONS = {
    "questions": [
        {
            "id": ID,
            "type": "factoid",
            "body": "Which cytokine does infliximab block?",
            "documents": ["https://example.org/d/1"],
            "snippets": [
                {
                    "text": "Infliximab blocks TNF-α; anti-TNF-α drugs help.",
                    "document": "https://example.org/d/1",
                    "offsetInBeginSection": 0,
                    "offsetInEndSection": 47,
                    "beginSection": "abstract",
                    "endSection": "abstract",
                }
            ],
            "exact_answer": [["TNF-α", "tumor necrosis factor"]],
            "ideal_answer": ["TNF-α."],
        },
        {"id": "b" * 24, "type": "yesno", "body": "Is zinc a metal?", "exact_answer": "yes"},
    ]
}
ANSWERS = {"questions": [{"id": ID, "exact_answer": [["TNF-α"], ["IL-6"]]}]}
SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "Infliximab blocks TNF-α.",
                    "qas": [
                        {
                            "id": f"{ID}_001",
                            "question": "What does it block?",
                            "answers": [{"text": "TNF-α", "answer_start": 18}],
                        }
                    ],
                }
            ],
        }
    ],
}
CONFIG = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu",
    "vocab_size": 30522, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12, "position_embedding_type": "absolute",
}  # fmt: skip
SWEEP = {"name": "s", "profile": "mini", "settings": {"epochs": 2}, "grid": {"seed": [0, 1]}}
ARTICLES = b"""<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID>1</PMID><Article>
<ArticleTitle>A <i>b</i></ArticleTitle><Abstract><AbstractText Label="X">y</AbstractText></Abstract>
</Article></MedlineCitation></PubmedArticle></PubmedArticleSet>"""
TENSORS = json.dumps({"w": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}}).encode()
ODD = [
    None, True, False, 0, -1, 1, 2**63, -(2**70), 1e308, float("nan"), float("inf"), "", " ", "\n",
    "0", "null", "\x00", "\ud800", "\u202e", "é" * 3, "a" * 300, "$x$", "<script>", "../x", "/etc",
    [], {}, [[]], [None], [[None]], [0], [""], {"": None}, {"questions": []}, "TNF-α", "['a', 'b']",
    [["a"], "b", 3], {"text": 1}, "1e999", "__class__", "{{x}}", [[[["x"]]]], "\ufeff",
]  # fmt: skip
PIECES = [
    b"\xef\xbb\xbf", b"\x00", b"\xff", b"\xed\xa0\x80", b"NaN", b"1e999", b"\\ud800", b'"', b"{",
    b"}", b"[" * 50, b"]", b",", b":", b"\n", b"\r", b"&#0;", b"<!DOCTYPE a>", b"&x;",
    b"!!python/x", b"&a [*a]", b"\xe2\x80\xa8",
]  # fmt: skip


def _nodes(value, place=()):
    yield place
    if not isinstance(value, dict | list):
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _nodes(inner, (*place, key))


def mutate_value(value, rng: random.Random):
    """Change one place in parsed JSON: another value, a lost, renamed or repeated entry."""
    value = json.loads(json.dumps(value))
    place = rng.choice(list(_nodes(value)))
    if not place:
        return rng.choice(ODD) if rng.random() < 0.1 else value
    parent = value
    for key in place[:-1]:
        parent = parent[key]
    key, what = place[-1], rng.random()
    if what < 0.5:
        parent[key] = rng.choice(ODD)
    elif what < 0.6:
        parent[key] = [parent[key]]
    elif what < 0.75:
        del parent[key]
    elif isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), parent[key])
    else:
        parent[rng.choice(["text", "id", "data", key.upper(), ""])] = parent.pop(key)
    return value


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Replace, insert, repeat or cut some bytes."""
    at, what = rng.randrange(len(data) + 1), rng.random()
    if what < 0.3:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if what < 0.7:
        return data[:at] + rng.choice(PIECES) + data[at:]
    if what < 0.85:
        end = min(len(data), at + rng.randrange(40))
        return data[:end] + data[at:end] + data[end:]
    return data[:at] + data[min(len(data), at + rng.randrange(1, 200)) :]


def made(seed, rng: random.Random) -> bytes:
    """Return a damaged copy of a valid input, which is parsed JSON or bytes."""
    if not isinstance(seed, bytes):
        for _ in range(rng.choice([1, 1, 2, 4])):
            seed = mutate_value(seed, rng)
        seed = json.dumps(seed, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        if rng.random() < 0.7:
            return seed
    for _ in range(rng.choice([1, 1, 2, 5])):
        seed = mutate_bytes(seed, rng)
    return seed


def _convert(path: Path):
    for question in bioasq.read_questions(path):
        convert.convert([question])


def _score(path: Path, gold: bool):
    other = path.with_name("other.json")
    if not other.exists():
        other.write_text(json.dumps(ANSWERS if gold else QUESTIONS))
    golds, answers = (path, other) if gold else (other, path)
    evaluate.evaluate_files([golds], [answers])


def _articles(path: Path):
    try:
        pubmed.read_articles(path.read_bytes())
    except ValueError as error:
        raise InputError(str(error)) from None


def _lines(*rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _cases(folder: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CASES / folder).glob("*.json"))]


# What reads the file, the name of the file, and the valid inputs.
TARGETS = {
    "questions": (_convert, "q.json", [QUESTIONS, *_cases("golds")]),
    "golds": (lambda path: _score(path, True), "g.json", [QUESTIONS, *_cases("golds")]),
    "answers": (lambda path: _score(path, False), "a.json", [ANSWERS, *_cases("answers")]),
    "squad": (squad.read_squad, "s.json", [SQUAD, *_cases("squad")]),
    "abstracts": (convert.read_abstracts, "a.jsonl", [_lines({"pmid": "1", "abstract": "b"})]),
    "articles": (_articles, "p.xml", [ARTICLES]),
    "shard": (
        lambda path: list(shards.read_shard(path)), "s.jsonl",
        [_lines(*({"id": name, "question": "q", "context": "c"} for name in "12"))],
    ),
    "config": (
        lambda path: checkpoints._from_config(path, weights.read_config(path), 0.1),
        "config.json", [CONFIG, {**CONFIG, "hidden_act": "gelu_new"}],
    ),
    "safetensors": (
        weights.read_file, "model.safetensors",
        [struct.pack("<Q", len(TENSORS)) + TENSORS + bytes(8)],
    ),
    "vocab": (
        lambda path: texts.make_tokenizer(texts.read_vocab(path)), "vocab.txt",
        ["\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "α"]).encode()],
    ),
    "sweep": (plan.read_sweep, "s.yaml", [SWEEP, b"name: s\ngrid: {seed: [0, 1]}\nuntil: 03\n"]),
    "override": (
        lambda path: config.parse_override(path.read_bytes().decode("utf-8", "replace")), "o.txt",
        [b"epochs=3", b"learning_rate=3e-5", b"context=abstract", b"device=cuda:0"],
    ),
}  # fmt: skip


def attempt(name: str, data: bytes, folder: Path) -> str:
    """Read an input. Return "accepted", "refused", or what else happened."""
    read, file, _ = TARGETS[name]
    (folder / file).write_bytes(data)
    started = time.perf_counter()
    try:
        read(folder / file)
        happened = "accepted"
    except InputError as error:
        happened = "refused" if "\n" not in str(error).strip() else "a message of several lines"
    except Exception as error:
        happened = f"{type(error).__name__}: {str(error)[:80]}"
    seconds = time.perf_counter() - started
    return happened if seconds < SECONDS else f"{happened} after {seconds:.1f} s"


def keep(name: str, data: bytes) -> Path:
    """Write an input to the kept ones, under a name with its hash."""
    KEPT.mkdir(exist_ok=True)
    path = KEPT / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def fuzz(name: str, inputs: int, seed: int) -> Counter:
    """Try damaged inputs of one reader, print what went wrong, and count what happened."""
    rng, counted = random.Random(f"{name} {seed}"), Counter()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # Linux: no wait for a disk
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        for _ in range(inputs):
            data = made(rng.choice(TARGETS[name][2]), rng)
            happened = attempt(name, data, Path(folder))
            if happened not in ("accepted", "refused"):
                if not counted[happened]:  # one input of each kind is enough
                    print(f"{keep(name, data).name}: {happened}", flush=True)
                counted[happened] += 1
                counted["failed"] += 1
            else:
                counted[happened] += 1
    return counted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    each, failed = -(-options.inputs // len(options.only)), 0
    print(
        f"{'reader':12} {'inputs':>9} {'accepted':>9} {'refused':>9} {'failed':>7} {'seconds':>8}"
    )
    for name in options.only:
        started = time.perf_counter()
        counted = fuzz(name, each, options.seed)
        failed += counted["failed"]
        seconds = time.perf_counter() - started
        print(f"{name:12} {each:9,} {counted['accepted']:9,} {counted['refused']:9,} "
              f"{counted['failed']:7,} {seconds:8.0f}", flush=True)  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
