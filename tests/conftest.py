"""Fixtures shared by the tests: a folder to save JSON in, and a tiny hand-made BioASQ file."""

import json

import pytest

from helpers import batch


@pytest.fixture
def save(tmp_path):
    """``save(name, data)`` writes JSON (or the given bytes) below a temporary folder."""

    def write(name, data):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        return path

    return write


@pytest.fixture
def tiny():
    """BioASQ data: two factoids (one without an answer in its snippets) and a yes/no question."""
    return {
        "questions": [
            {
                "id": "0000000000000000000000a1",
                "type": "factoid",
                "body": "Which cytokine does infliximab block?",
                "documents": ["https://example.org/d/1", "https://example.org/d/2"],
                "snippets": [
                    {
                        "text": "Infliximab blocks TNF-α; anti-TNF-α drugs (tnf-α blockers) help.",
                        "document": "https://example.org/d/1",
                        "beginSection": "abstract",
                        "endSection": "abstract",
                        "offsetInBeginSection": 3,
                        "offsetInEndSection": 67,
                    },
                    {"text": "It was approved in 1998.", "document": "https://example.org/d/2"},
                    {"text": "It was approved in 1998.", "document": "https://example.org/d/2"},
                ],
                "exact_answer": [["TNF-α ", "tumour  necrosis factor"], ["cachectin"]],
            },
            {
                "id": "0000000000000000000000a2",
                "type": "factoid",
                "body": "Which vitamin is lacking in scurvy?",
                "snippets": [{"text": "Sailors ate preascorbic limes."}],
                "exact_answer": ["ascorbic"],
            },
            {
                "id": "0000000000000000000000a3",
                "type": "yesno",
                "body": "Is insulin a hormone?",
                "exact_answer": "yes",
            },
        ]
    }


@pytest.fixture(scope="session")
def mini_run(tmp_path_factory):
    """The run folder of a whole walkthrough: fetch, convert, train, predict, score, report."""
    runs_dir = tmp_path_factory.mktemp("runs")
    return batch.run({"profile": "mini", "run": "ci", "runs_dir": str(runs_dir)})
