"""Use several workers to answer the questions in a folder, which may be larger than memory.

Each input file is a shard, and each shard has one output file with the same name. A worker writes
its output under a temporary name and renames it at the end, so an output file is always complete
and contains each question exactly once, even if workers die. A finished shard is not repeated if
its input, the model and the settings have not changed.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from pathlib import Path
from typing import Any

from helpers.config import InputError, Settings
from helpers.data.squad import Example
from helpers.io import hashes, sha256, write_json
from helpers.model.decoding import Reader, rank_answers
from helpers.pipeline import load_reader
from helpers.sweeps.engine import Share

FIELDS = ("id", "question", "context")
_ROWS = 2000  # rows per call of the model, to limit memory use
_LOOK_SECONDS = 5


def find_shards(folder: str | Path) -> list[Path]:
    """Return the input files in a folder, sorted; raise ``InputError`` if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one with .jsonl or .parquet files")
    found = sorted(path for path in folder.iterdir() if path.suffix in _READERS)
    if not found:
        raise InputError(f"{folder}: has no .jsonl or .parquet files")
    if len({path.stem for path in found}) < len(found):
        raise InputError(f"{folder}: two files differ only in their extensions; rename one")
    return found


def predict_shards(
    checkpoint: str | Path, source: str | Path, output: str | Path, settings: Settings,
    executor: Executor, share: Share, *, say: Callable[[str], None] = print,
) -> dict[str, int]:  # fmt: skip
    """Answer all shards in ``source``; return the numbers of questions, pairs and shards.

    Each row has the fields ``id`` (of the question), ``question`` and ``context``. Rows with the
    same id must be consecutive in one file. The output is JSON lines with ``id`` and
    ``answers``, a ranked list of at most five ``[text, score]``.

    checkpoint: a path, or a name in the registry.

    If a shard is bad, the workers finish the others before this call raises ``InputError``. After
    you correct the shard, the same call answers only the missing shards.
    """
    shards, output = find_shards(source), Path(output)
    weights = sorted(hashes(checkpoint).values()) if Path(checkpoint).exists() else checkpoint
    key = hashlib.sha256(repr((weights, _decisive(settings))).encode()).hexdigest()
    output.mkdir(parents=True, exist_ok=True)
    for part in output.glob(".*.part"):  # from a worker that was killed
        part.unlink()
    left = [path for path in shards if not _is_done(path, output, key)]
    say(f"{len(shards)} files, {len(shards) - len(left)} of them answered earlier")
    started, size = time.monotonic(), sum(path.stat().st_size for path in left)
    arguments = (str(checkpoint), vars(settings), str(output), key, share)
    running = {executor.submit(answer_shard, str(path), *arguments): path for path in left}
    pairs, done, problems = 0, 0, []
    while running:
        for future in wait(running, _LOOK_SECONDS, FIRST_COMPLETED).done:
            path = running.pop(future)
            done += path.stat().st_size
            try:
                pairs += future.result()["pairs"]
            except Exception as error:  # the other shards continue
                expected = isinstance(error, InputError)
                problems.append(str(error) if expected else f"{path}: {error!r}")
                continue
            seconds = time.monotonic() - started
            minutes = seconds * (size - done) / done / 60
            say(
                f"{path.name}: {len(left) - len(running)} of {len(left)} files, "
                f"{pairs / seconds:,.0f} pairs per second, about {minutes:.0f} min left"
            )
    if problems:
        more = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}")
    return _totals(shards, output)


def answer_shard(
    path: str, checkpoint: str, settings: Mapping[str, Any], output: str, key: str, share: Share
) -> dict[str, int]:
    """Answer one shard and write its output; return the numbers of questions and pairs."""
    share.choose_gpu()
    shard, target = Path(path), _answers(Path(path), Path(output))
    reader = _reader(checkpoint, json.dumps(dict(settings), sort_keys=True))
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    counts, digest = {"questions": 0, "pairs": 0}, sha256(shard)
    try:
        with part.open("w", encoding="utf-8") as file:
            for rows in _pieces(read_shard(shard), shard):
                examples = [
                    Example(str(n), row["id"], row["question"], row["context"])
                    for n, row in enumerate(rows)
                ]
                nbest = reader.predict(examples, progress=False)
                ranked = rank_answers(examples, nbest, merge=reader.settings.merge)
                for name, answers in ranked.items():
                    line = json.dumps({"id": name, "answers": answers}, ensure_ascii=False)
                    file.write(line + "\n")
                counts["questions"] += len(ranked)
                counts["pairs"] += len(examples)
        record = {**counts, "input": digest, "key": key, "sha256": sha256(part)}
        os.replace(part, target)
        write_json(_record(target), record)
    finally:
        part.unlink(missing_ok=True)
    return counts


def read_shard(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a shard; raise ``InputError`` with the number of the first bad row."""
    rows = _READERS[path.suffix](path)
    for number, row in enumerate(rows, 1):
        for name in FIELDS:
            if not isinstance(row, dict) or not isinstance(row.get(name), str):
                raise InputError(f"{path}: row {number} has no text in the field {name!r}")
        yield row


def _json_rows(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        number = 0  # lines read so far
        try:
            for line in file:
                if line.strip():
                    yield json.loads(line)
                number += 1
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {number + 1} is not JSON in UTF-8 ({error})") from None


def _parquet_rows(path: Path) -> Iterator[dict]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        for batch in table.iter_batches(_ROWS, columns=list(FIELDS)):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: is not a readable Parquet file ({error})") from None


_READERS = {".jsonl": _json_rows, ".parquet": _parquet_rows}


def _pieces(rows: Iterator[dict[str, str]], path: Path) -> Iterator[list[dict[str, str]]]:
    """Group the rows into pieces of about ``_ROWS`` rows that never split a question."""
    piece: list[dict[str, str]] = []
    seen: set[bytes] = set()
    for name, group in itertools.groupby(rows, key=lambda row: row["id"]):
        if _mark(name) in seen:
            raise InputError(f"{path}: the rows of question {name!r} are not consecutive")
        seen.add(_mark(name))
        piece += group
        if len(piece) >= _ROWS:
            yield piece
            piece = []
    if piece:
        yield piece


def _mark(name: str) -> bytes:
    """Return a short hash of an id, so that millions of ids take up little memory."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@functools.lru_cache(maxsize=1)
def _reader(checkpoint: str, settings: str) -> Reader:
    """Load the model once per worker."""
    reader = load_reader(checkpoint, Settings(**json.loads(settings)))
    if reader.fresh_head:
        raise InputError(f"{checkpoint}: has no span head; fine-tune it first (fine_tune.py)")
    return reader


def _decisive(settings: Settings) -> tuple:
    names = ("max_length", "step", "max_query", "nbest", "max_answer", "merge", "precision")
    return tuple(getattr(settings, name) for name in names)


def _answers(shard: Path, output: Path) -> Path:
    return output / f"{shard.stem}.jsonl"


def _record(answers: Path) -> Path:
    return answers.with_name(f".{answers.name}.json")


def _is_done(shard: Path, output: Path, key: str) -> bool:
    answers = _answers(shard, output)
    try:
        record = json.loads(_record(answers).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (
        answers.is_file()
        and record.get("key") == key
        and record.get("input") == sha256(shard)
        and record.get("sha256") == sha256(answers)
    )


def _totals(shards: Sequence[Path], output: Path) -> dict[str, int]:
    """Add up the records; raise ``InputError`` if a question is in two shards."""
    found, first = {"questions": 0, "pairs": 0, "files": len(shards)}, {}
    for shard in shards:
        answers = _answers(shard, output)
        record = json.loads(_record(answers).read_text(encoding="utf-8"))
        found = {name: number + record.get(name, 0) for name, number in found.items()}
        with answers.open(encoding="utf-8") as file:
            for line in file:
                name = json.loads(line)["id"]
                if first.setdefault(_mark(name), shard) != shard:
                    other = first[_mark(name)]
                    raise InputError(f"{shard}: question {name!r} is also in {other.name}")
    return found
