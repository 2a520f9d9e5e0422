"""Run all notebooks with the profile ``biomegatron``, from a local NGC server to the report.

The server offers a small trained Megatron-BERT in the format of 2021 (``standin``) under the name
of NVIDIA's model. The data are a third of BioASQ-mini's questions. To save time, the test trains
for one epoch instead of five, at a higher learning rate. The kit contains no code for the stand-in.
"""

import json

import pytest
import standin
import torch
import transformers
from ngc_server import NgcServer

from helpers.config import Settings
from helpers.data.mini import DATA
from helpers.data.squad import Example
from helpers.io import write_json
from helpers.model import checkpoints
from helpers.model.features import gather
from helpers.sweeps import notebooks

pytestmark = pytest.mark.notebooks
NAME = "BioMegatron345mUncasedSQuADv1"
ORDER = "1.0"


def third(source, target):
    """Copy a folder of BioASQ files with every third question."""
    target.mkdir()
    for path in source.glob("*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        if "questions" in data:
            data["questions"] = data["questions"][::3]
        write_json(target / path.name, data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run's folder and the requests that the server saw."""
    folder = tmp_path_factory.mktemp("megatron")
    standin.make(folder / "ngc", ORDER)
    third(DATA, folder / "data")
    parameters = {
        "profile": "biomegatron", "bioasq_dir": str(folder / "data"), "run": "standin",
        "runs_dir": str(folder / "runs"), "epochs": 1, "learning_rate": 1e-4,
    }  # fmt: skip
    with NgcServer(folder / "ngc") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NGC_ENDPOINT", server.url)
        patch.setenv("HELPERS_CACHE", str(folder / "cache"))
        yield notebooks.run(parameters), server.requests


def test_it_came_from_ngc_and_is_recorded(run):
    folder, requests = run
    paths = [path for path, _ in requests]
    assert paths[0] == f"/v2/models/nvidia/{standin.MODEL}/versions"  # to find the newest
    assert sum("MegatronBERT.pt" in path for path in paths) == 1  # downloaded only once
    noted = json.loads((folder / "manifest.json").read_text())["notes"]["checkpoint"]
    assert noted["name"] == NAME and noted["origin"].startswith(f"NGC nvidia/{standin.MODEL}")
    lock = folder.parents[1] / "cache" / "checkpoints.lock.json"
    recorded = json.loads(lock.read_text())[NAME]
    assert recorded["version"] == standin.VERSION
    assert {name: file["sha256"] for name, file in recorded["files"].items()} == noted["files"]


def test_the_order_of_its_rows_was_found(run):
    folder, _ = run
    found = json.loads((folder / "manifest.json").read_text())["notes"]["checkpoint"]["qkv"]
    assert (found["order"], found["kind"]) == (ORDER, "answers")
    wrong = max(score for order, score in found["scores"].items() if order != ORDER)
    assert found["scores"][ORDER] >= max(0.35, wrong + 0.2)
    assert (folder / "figures" / "orders.png").is_file()


def test_it_was_trained_and_scored_on_abstracts(run):
    folder, _ = run
    scores = json.loads((folder / "scores.json").read_text())
    assert (scores["profile"], scores["model"], scores["context"]) == (
        "biomegatron",
        NAME,
        "abstract",
    )
    pooled = scores["pooled"]
    assert 0 < pooled["sacc"] <= pooled["mrr"] <= pooled["lacc"] <= pooled["ceiling"]
    assert pooled["sacc"] > scores["baselines"]["untrained"]["sacc"] + 0.1  # before BioASQ
    # BioASQ-mini is not 7b, whatever the model is called.
    assert set(scores["verdicts"].values()) == {"not comparable"}


def test_both_saved_models_answer_as_transformers_does(run):
    folder, _ = run
    reader = checkpoints.load(folder / "model" / "model.nemo", Settings())
    saved = folder / "model" / "transformers"
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(saved).eval()
    assert type(theirs).__name__ == "MegatronBertForQuestionAnswering"
    text = "Insulin is secreted by beta cells, glucagon by alpha cells."
    example = Example("0_001", "0", "Which hormone is secreted by beta cells?", text)
    batch = gather(reader.windows([example]), [0])
    with torch.inference_mode():
        out = theirs(input_ids=batch.ids[None], token_type_ids=batch.token_types[None])
        ours = reader.model(batch)
    assert torch.allclose(out.start_logits[0], ours[:, 0], atol=1e-4)
    assert torch.allclose(out.end_logits[0], ours[:, 1], atol=1e-4)
    card = (saved / "README.md").read_text()
    assert f"rows in order {ORDER}" in card and "The kit fine-tuned this model" in card
