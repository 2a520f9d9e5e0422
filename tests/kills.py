"""Trains the tiny model in processes that die at chosen moments; a program of ``test_training``.

    python tests/kills.py FOLDER RESUME

Each training is forked from one process, so that NeMo is imported once. A process kills itself
(SIGKILL) before the n-th time it opens, makes, renames or removes a file in its folder, or dies
of a file that grows beyond n bytes (SIGXFSZ: in the middle of a checkpoint). The same training is
then started a second time with the same fault, and a third time without one. Prints one JSON line
per fault: what became of the three, and the hash of the weights at the end.
"""

import hashlib
import json
import os
import resource
import signal
import sys
from pathlib import Path

from tiny import tiny_examples, tiny_reader

from helpers.model import qa_model, training

RESUME = {"True": True, "False": False, "None": None}
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def die_at_file(number: int, folder: Path) -> None:
    left = number

    def hook(event, args):
        nonlocal left
        if event in EVENTS and str(folder) in str(args[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def die_at_byte(number: int, folder: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.RLIM_INFINITY))


def no_room_beyond(number: int, folder: Path) -> None:
    """Python ignores the signal, so the write fails as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.RLIM_INFINITY))


def train(folder: Path, resume: bool | None, fault=None, number: int = 0) -> str:
    """Train in a forked process; "" when it was killed, else its message or hash."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if fault:
                fault(number, folder)
            reader = tiny_reader(1, dropout=0.1)
            training.fine_tune(reader, tiny_examples(12), folder, resume=resume, progress=False)
            state = b"".join(t.numpy().tobytes() for t in reader.model.state_dict().values())
            os.write(write, hashlib.sha256(state).hexdigest().encode())
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode()[:1000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        found = answer.read()
    os.waitpid(child, 0)
    return found


def main(root: Path, resume: bool | None) -> None:
    qa_model.quiet_nemo()
    whole = train(root / "whole", resume)
    print(json.dumps(["none", 0, [], whole]), flush=True)
    size = (root / "whole" / "last.ckpt").stat().st_size
    faults = [(die_at_file, n) for n in range(1, 14, 2)]  # there are 13 such moments
    faults += [(die_at_byte, n) for n in (500, size // 2, size - 1)]
    faults += [(no_room_beyond, n) for n in (100, size // 2, size - 1)]
    for fault, number in faults:
        folder = root / f"{fault.__name__}{number}"
        two = [train(folder, resume, fault, number) for _ in range(2)]
        last = train(folder, resume)
        print(json.dumps([fault.__name__, number, two, last]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), RESUME[sys.argv[2]])
