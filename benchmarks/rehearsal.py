"""Rehearse the reproduction of BioMegatron before you have NVIDIA's weights and the BioASQ files.

    python benchmarks/rehearsal.py [--json rehearsal.json] [--layers 24 --hidden 1024]

The script writes a checkpoint of the same size with random weights, in NVIDIA's format of 2021, and
a folder with files named like those of edition 7b. Their few questions come from BioASQ-mini. It
then runs the command that reproduces the claim:

    make seeds PROFILE=biomegatron BIOASQ_DIR=… SEEDS="0 1" SET="model=… qkv_order=0 …"

As soon as the first seed's training has saved a checkpoint, the script kills every process of the
command with SIGKILL, as a cluster does. It then runs the same command again, which must continue
the training, and a third time, when nothing is left to do. It prints and writes the minutes, the
peak memory, the disk space and the verdicts. With ``--undisturbed``, it also trains the first seed
without an interruption and compares scores and weights; use this only for a small model.

The kit cannot detect the row order of random weights, so the command specifies it. The batch size
and the number of epochs are smaller than in the recipe. All other settings are those of the
profile. The scores are meaningless.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from load_checkpoint import write_megatron

from helpers.config import ROOT, InputError
from helpers.data import mini
from helpers.data.bioasq import read_json
from helpers.data.spans import find_spans
from helpers.fetch.download import check_disk
from helpers.io import sha256, write_json
from helpers.run.reproduce import same_scores
from helpers.sweeps import notebooks

PROFILE = "biomegatron"
RUNS = f"{PROFILE}-seeds"
TRAIN, TESTS, BATCHES = 8, 2, 5  # training questions, test questions per batch, test batches
MOST_WORDS = 40  # per text, so that a window has fewer than 100 tokens
VOCABULARY = 30522  # tokens, as in BERT's uncased vocabulary
# Bytes on disk per weight: for each seed, weights and Adam's state in the training checkpoint
# (12), model.nemo (4) and the transformers folder (4); once, the file (2), its conversion (4) and
# the training checkpoint while it is being replaced (12).
PER_SEED, ONCE = 20, 18
MESSAGES = ("spread", "verdicts")


@dataclass
class Usage:
    """Peak memory and disk space in bytes. Memory is the sum over all processes of the command.

    pss: like ``rss``, but each shared page is divided by the number of processes that share it.
    by_notebook: the highest ``rss`` while each notebook ran, over all seeds.
    """

    rss: int = 0
    pss: int = 0
    disk: int = 0
    by_notebook: dict[str, int] = field(default_factory=dict)

    def add(self, processes: Sequence[psutil.Process], notebook: str, folder: Path) -> None:
        """Measure once."""
        rss = pss = 0
        for process in processes:
            try:
                found = process.memory_full_info()
            except psutil.Error:  # the process has just ended
                continue
            rss += found.rss
            pss += getattr(found, "pss", found.rss)  # only Linux reports it
        self.rss, self.pss = max(self.rss, rss), max(self.pss, pss)
        self.disk = max(self.disk, disk_space(folder))
        self.by_notebook[notebook] = max(self.by_notebook.get(notebook, 0), rss)


def write_checkpoint(folder: Path, layers: int, hidden: int) -> int:
    """Write a checkpoint in the format of 2021 with random weights; return their number."""
    import torch

    from helpers.model.encoder import EncoderConfig, SpanModel

    config = EncoderConfig(
        layers=layers, hidden=hidden, heads=max(1, hidden // 64), feed_forward=4 * hidden,
        vocab_size=VOCABULARY,
    )  # fmt: skip
    torch.manual_seed(0)
    model = SpanModel(config).half()
    for name, weight in model.named_parameters():  # as BERT is initialized, except the norms
        if "norm" not in name:
            torch.nn.init.normal_(weight, 0, 0.02)
    write_megatron(folder, config, model.state_dict(), vocabulary())
    return sum(weight.numel() for weight in model.parameters())


def vocabulary() -> list[str]:
    """Return BioASQ-mini's characters and most frequent words, filled up with unused tokens."""
    texts = [*read_json(mini.DATA / "abstracts.json").values()]
    texts += [question["body"] for question in _factoids("BioASQ-training-mini.json")]
    characters = sorted(set("".join(texts).lower() + "abcdefghijklmnopqrstuvwxyz") - {" ", "\n"})
    words = Counter(word for text in texts for word in re.findall(r"[a-z]{2,}", text.lower()))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    tokens += [f"##{character}" for character in characters]
    tokens += [word for word, _ in words.most_common(20_000)]
    return tokens + [f"[unused{n}]" for n in range(VOCABULARY - len(tokens))]


def write_bioasq(folder: Path) -> None:
    """Write a training file, five test inputs, their golden files and abstracts.json."""
    folder.mkdir(parents=True)
    train = _short(_factoids("BioASQ-training-mini.json"), TRAIN)
    write_json(folder / "BioASQ-training7b.json", {"questions": train})
    everything = [*train]
    for number in range(1, BATCHES + 1):
        golden = _short(_factoids(f"mini{number}_golden.json"), TESTS)
        hidden = ("exact_answer", "ideal_answer")
        asked = [{k: v for k, v in row.items() if k not in hidden} for row in golden]
        write_json(folder / f"BioASQ-task7bPhaseB-testset{number}", {"questions": asked})
        write_json(folder / f"7B{number}_golden.json", {"questions": golden})
        everything += golden
    texts = {row["documents"][0]: row["snippets"][0]["text"] for row in everything}
    write_json(folder / "abstracts.json", texts)


def _factoids(file: str) -> list[dict]:
    return [row for row in read_json(mini.DATA / file)["questions"] if row["type"] == "factoid"]


def _short(questions: Sequence[dict], count: int) -> list[dict]:
    """Return the first questions with a short snippet that contains an answer exactly once.

    Each question keeps only this snippet and its document, so it gives one training window.
    """
    found = []
    for question in questions:
        synonyms = [name for names in question["exact_answer"] for name in names]
        for snippet in question["snippets"]:
            short = len(snippet["text"].split()) <= MOST_WORDS
            if short and len(find_spans(snippet["text"], synonyms)) == 1:
                found.append({**question, "documents": [snippet["document"]],
                              "snippets": [snippet]})  # fmt: skip
                break
        if len(found) == count:
            return found
    raise SystemExit(f"BioASQ-mini has only {len(found)} suitable questions; {count} are needed")


def seeds_command(folder: Path, epochs: int, seeds: Sequence[int]) -> list[str]:
    """Return the command that reproduces the claim (without make if make is missing)."""
    changed = settings(folder, epochs)
    data = str(folder / "bioasq")
    if shutil.which("make"):
        python = Path(sys.executable)
        # This Python has the packages, so make need not create .venv.
        return ["make", f"BIN={python.parent}", "--old-file=.venv/.ready", "seeds",
                f"PROFILE={PROFILE}", f"BIOASQ_DIR={data}", f"SEEDS={' '.join(map(str, seeds))}",
                f"SET={' '.join(changed)}", "JOBS=1"]  # fmt: skip
    return [sys.executable, "-m", "helpers.batch", "seeds", "--profile", PROFILE,
            "--bioasq-dir", data, "--jobs", "1", "--seeds", *map(str, seeds),
            *_options(changed)]  # fmt: skip


def settings(folder: Path, epochs: int) -> list[str]:
    """Return all settings that differ from the profile."""
    return [f"model={folder / 'checkpoint'}", f"runs_dir={folder / 'runs'}", "qkv_order=0",
            "batch_size=4", f"epochs={epochs}"]  # fmt: skip


def _options(changed: Sequence[str]) -> list[str]:
    return [word for setting in changed for word in ("--set", setting)]


def execute(
    command: Sequence[str], folder: Path, log: Path, usage: Usage,
    stop: Callable[[], bool] = lambda: False,
) -> float:  # fmt: skip
    """Run a command and return its seconds; kill all its processes as soon as ``stop()`` is true.

    The output goes to ``log``. Raises ``SystemExit`` if the command fails or ends before ``stop``.
    """
    own = {"HELPERS_CACHE": str(folder / "cache"), "HELPERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    started, measured = time.monotonic(), 0.0
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | own, stdout=output, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    root = psutil.Process(child.pid)
    try:
        while child.poll() is None:
            if stop():
                kill(root)
                child.wait()
                return time.monotonic() - started
            if time.monotonic() - measured > 0.5:
                usage.add(_tree(root), _notebook(folder), folder)
                measured = time.monotonic()
            time.sleep(0.005)
    finally:
        if child.poll() is None:  # for example, after Ctrl-C
            kill(root)
    if child.returncode:
        raise SystemExit(f"{shlex.join(command)}: status {child.returncode}\n{_tail(log)}")
    return time.monotonic() - started


def _tree(root: psutil.Process) -> list[psutil.Process]:
    """Return a process and its descendants; each kernel has a process group of its own."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(root: psutil.Process) -> None:
    """Send SIGKILL to all processes of a command, and wait until none is left."""
    tree = _tree(root)
    for process in tree:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(tree[1:], timeout=60)
    alive = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    if alive:
        raise SystemExit(f"still running after SIGKILL: {alive}")


def _notebook(folder: Path) -> str:
    """Return the name of the notebook that is running, or "start" before the first one."""
    logs = sorted((folder / "runs").glob("*/*/log.txt"), key=lambda path: path.stat().st_mtime)
    text = logs[-1].read_text(errors="replace") if logs else ""
    found = re.findall(r"^\[\d/\d\] (\w+)", text, re.M)
    return found[-1] if found else "start"


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def disk_space(folder: Path) -> int:
    """Return the total size of the files in a folder, in bytes."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except OSError:  # renamed or removed since we listed it
            continue
    return total


def results(log: Path) -> dict[str, str]:
    """Return the table of scores and spreads, and the verdicts, as the command prints them."""
    text = log.read_text(errors="replace").replace("\r", "\n")
    before, between, after = text.partition("\n\nverdicts across seeds:\n")
    if not between:
        raise SystemExit(f"{log}: the command printed no verdicts\n{_tail(log)}")
    return {"spread": before.rpartition("\n\n")[2], "verdicts": after.partition("\nwritten")[0]}


def check_resumed(run: Path, rows: Sequence[str]) -> dict:
    """Check that training continued after ``rows`` of history.csv; return the numbers of steps."""
    cells = read_json(run / "notebooks" / "03_fine_tune.ipynb")["cells"]
    printed = "".join(
        "".join(out.get("text", "")) for cell in cells for out in cell.get("outputs", ())
    )
    now, steps = map(int, re.search(r"This call ran (\d+) of (\d+) steps", printed).groups())
    before = steps - now
    if not 0 < before < steps:
        raise SystemExit(f"{run}: the training did not continue; it ran {now} of {steps} steps")
    after = _lines(run)
    # The rows include the seconds, so the rows of a new training run would differ.
    if after[: before + 1] != rows[: before + 1] or len(after) != steps + 1:
        raise SystemExit(f"{run}: history.csv does not continue that of the killed run")
    return {"steps": steps, "before": before, "logged_when_killed": len(rows) - 1}


def _lines(run: Path) -> list[str]:
    """Return the complete lines of history.csv."""
    path = run / "training" / "history.csv"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def compare(first: Path, second: Path) -> dict:
    """Return whether two runs have the same scores, losses and weights."""
    equal, lines = same_scores(first, second)
    weights = {sha256(run / "model" / "transformers" / "model.safetensors")
               for run in (first, second)}  # fmt: skip
    losses = {tuple(row.split(",")[1] for row in _lines(run)) for run in (first, second)}
    return {"same_scores": equal, "differences": lines, "same_losses": len(losses) == 1,
            "same_weights": len(weights) == 1}  # fmt: skip


def notebook_minutes(run: Path) -> dict[str, float]:
    """Return the minutes of each notebook's last execution, and of training."""
    notes = read_json(run / "manifest.json")["notes"]
    found = {name: entry["seconds"] / 60 for name, entry in notes[notebooks.DONE].items()}
    found |= {"training alone": notes["model"]["seconds"] / 60}
    return {name: round(value, 2) for name, value in found.items()}


def rehearse(folder: Path, options: argparse.Namespace) -> dict:
    """Run all parts; return the measurements. Raises ``SystemExit`` if a check fails."""
    usage, minutes = Usage(), {}
    started = time.monotonic()
    weights = write_checkpoint(folder / "checkpoint", options.layers, options.hidden)
    check_disk(folder, (PER_SEED * len(options.seeds) + ONCE) * weights)
    write_bioasq(folder / "bioasq")
    minutes["checkpoint and data"] = (time.monotonic() - started) / 60
    command = seeds_command(folder, options.epochs, options.seeds)
    print(shlex.join(command), flush=True)
    runs = [folder / "runs" / RUNS / f"seed-{seed}" for seed in options.seeds]
    found = {"weights": weights, "layers": options.layers, "hidden": options.hidden,
             "cores": len(psutil.Process().cpu_affinity()), "minutes": minutes,
             "changed_settings": settings(folder, options.epochs)}  # fmt: skip

    def part(name: str, command: Sequence[str], stop=lambda: False) -> Path:
        log = folder / f"{len(minutes)}.log"
        minutes[name] = execute(command, folder, log, usage, stop) / 60
        print(f"{name}: {minutes[name]:.1f} minutes", flush=True)
        found["memory_and_disk"] = vars(usage)
        if options.json:
            write_json(options.json, found)
        return log

    saved = runs[0] / "training" / "last.ckpt"
    part("until SIGKILL", command, saved.exists)
    rows = _lines(runs[0])
    if (runs[0] / "model" / "model.nemo").exists() or not rows:
        raise SystemExit("the training ended before it was killed; raise --epochs")
    print(f"killed in training, after {len(rows) - 1} logged steps", flush=True)
    log = part("the same command again", command)
    found["resumed"] = check_resumed(runs[0], rows)
    found |= results(log)
    log = part("the same command, nothing left to do", command)
    kept = f"{len(runs)} runs, {len(runs)} of them done earlier"
    if kept not in log.read_text() or results(log) != {k: found[k] for k in MESSAGES}:
        raise SystemExit(f"{log}: expected all runs to be kept, and the same verdicts")
    found["hardware"] = read_json(runs[0] / "manifest.json")["hardware"]
    found["notebook_minutes"] = {run.name: notebook_minutes(run) for run in runs}
    if options.undisturbed:
        changed = _options(settings(folder, options.epochs))
        given = ["--profile", PROFILE, "--bioasq-dir", str(folder / "bioasq"), *changed]
        once = [sys.executable, "-m", "helpers.batch", "run", "--run", "undisturbed"]
        part("the first seed undisturbed", [*once, "--seed", str(options.seeds[0]), *given])
        found["undisturbed"] = compare(runs[0], folder / "runs" / "undisturbed")
    return found


def show(found: dict) -> None:
    """Print the measurements."""
    usage, resumed = found["memory_and_disk"], found["resumed"]
    print(f"\n{found['weights'] / 1e6:.0f} million weights; CPU cores: {found['cores']}\n")
    print("| part | minutes |\n|---|---|")
    for name, value in found["minutes"].items():
        print(f"| {name} | {value:.1f} |")
    names = list(found["notebook_minutes"])
    columns = ["notebook", *(f"{name} (minutes)" for name in names), "peak memory, RSS (GB)"]
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name in next(iter(found["notebook_minutes"].values())):
        cells = [f"{found['notebook_minutes'][run][name]:.1f}" for run in names]
        peak = usage["by_notebook"].get(name)
        print(f"| {name} | {' | '.join(cells)} | {f'{peak / 1e9:.1f}' if peak else ''} |")
    rss, pss, disk = (f"{usage[name] / 1e9:.1f} GB" for name in ("rss", "pss", "disk"))
    print(f"\npeak memory of all processes: {rss} (RSS), {pss} (PSS); peak disk space: {disk}")
    print(f"training continued after step {resumed['before']} of {resumed['steps']}")
    print(f"\n{found['spread']}\n\n{found['verdicts']}")
    if other := found.get("undisturbed"):
        print("\ncompared with an undisturbed run: " + json.dumps(other))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=24, help="number of layers (default: 24)")
    parser.add_argument("--hidden", type=int, default=1024, help="hidden size (default: 1024)")
    parser.add_argument("--epochs", type=int, default=2,
                        help="epochs of 2 steps each (default: 2); a tiny model needs more, so "
                        "that there is time to kill the training")  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1],
                        help="random seeds (default: 0 1)")  # fmt: skip
    parser.add_argument("--undisturbed", action="store_true",
                        help="compare the resumed seed with an uninterrupted run")  # fmt: skip
    parser.add_argument("--json", type=Path, help="write all results to this file")
    place = "new folder to work in and keep (default: a temporary folder)"
    parser.add_argument("--folder", type=Path, help=place)
    options = parser.parse_args(argv)
    try:
        if options.folder:
            options.folder.mkdir(parents=True)
            found = rehearse(options.folder.resolve(), options)
        else:
            with tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch:
                found = rehearse(Path(scratch), options)
    except (InputError, OSError) as error:
        print(f"rehearsal.py: {error}", file=sys.stderr)
        return 2
    if options.json:
        write_json(options.json, found)
    show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
