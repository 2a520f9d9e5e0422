"""Prediction of many pairs: the same answers in parts, and memory that hardly grows."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_examples, tiny_reader

from helpers.model import decoding
from helpers.model.decoding import Candidate, NBest


def test_parts_give_the_answers_of_the_whole(monkeypatch):
    reader, examples = tiny_reader(1), tiny_examples(25)
    whole = reader.predict(examples, progress=False)
    sizes = []
    original = decoding.compute_logits

    def counted(model, windows, *rest):
        sizes.append(len(windows))
        return original(model, windows, *rest)

    monkeypatch.setattr(decoding, "compute_logits", counted)
    monkeypatch.setattr(decoding, "_AT_ONCE", 10)
    parts = reader.predict(examples, progress=False)
    assert sizes == [10, 10, 5]
    for a, b in zip(whole, parts, strict=True):
        assert [(c.text, c.start, c.end) for c in a] == [(c.text, c.start, c.end) for c in b]
        assert np.allclose([c.probability for c in a], [c.probability for c in b], atol=1e-5)
    assert reader.predict([], progress=False) == []


def test_an_n_best_list_reads_like_a_list():
    found = NBest("the  gene BRCA1", [(5, 15, 1.5, 2.5, 0.75), (10, 15, 1.0, 2.0, 0.25)])
    first, second = found
    assert first == Candidate("gene BRCA1", 5, 15, 1.5, 2.5, 0.75) and second.text == "BRCA1"
    assert len(found) == 2 and found[-1] == second and found[:1] == [first] and bool(found)
    assert found == [first, second] and found != [first] and found != 7
    across = NBest("the  gene BRCA1", [(0, 9, 0.0, 0.0, 1.0)])
    assert across[0].text == "the gene"  # one space between words, whatever the context has
    assert not NBest("", []) and list(NBest("", [])) == []
    with pytest.raises(IndexError):
        found[2]


GROWTH = """
import sys
sys.path[:0] = [{tests!r}]
from tiny import tiny_examples, tiny_reader
reader, examples = tiny_reader(1), tiny_examples(int(sys.argv[1]))
reader.predict(examples[:2048], progress=False)
def peak():
    line = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))
    return int(line.split()[1]) * 1024
before = peak()
found = reader.predict(examples, progress=False)
assert len(found) == len(examples)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_pair_adds_less_than_three_kilobytes_to_the_peak():
    """Two, measured: its n-best list. Candidates as objects would take six."""
    code = GROWTH.format(tests=str(Path(__file__).parents[1]))
    done = subprocess.run(
        [sys.executable, "-c", code, "12288"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < (12288 - 2048) * 3 * 1024
