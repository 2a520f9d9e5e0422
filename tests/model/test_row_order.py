"""The order of a checkpoint's query-key-value rows is found by what the model can do."""

import json
from dataclasses import replace
from types import SimpleNamespace

import megatron_files as files
import pytest
import reference_megatron as reference
import torch
from tiny import VOCAB
from torch.nn import functional as F

from helpers.config import InputError, Settings
from helpers.data.spans import Span
from helpers.data.squad import Example
from helpers.io import write_json
from helpers.model import checkpoints, row_order
from helpers.model.decoding import Reader
from helpers.model.encoder import EncoderConfig, SpanModel
from helpers.model.features import gather

SETTINGS = Settings(max_length=96)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def trained():
    """A small Megatron-BERT that has learned the questions and the masked words by heart.

    It can use what it knows only through attention: a masked word's place does not give it away.
    """
    from tokenizers.pre_tokenizers import BertPreTokenizer

    split = BertPreTokenizer().pre_tokenize_str
    asked = row_order.questions()
    text = " ".join(f"{example.question} {example.context}" for example, _ in asked).lower()
    vocab = [*SPECIAL, *sorted({word for word, _ in split(text)})]
    config = EncoderConfig(len(vocab), 48, 2, 4, 96, positions=384, gelu="tanh")
    torch.manual_seed(0)
    model = SpanModel(config)
    head = SimpleNamespace(dense=torch.nn.Linear(48, 48), layernorm=torch.nn.LayerNorm(48),
                           bias=torch.nn.Parameter(torch.zeros(len(vocab))))  # fmt: skip
    reader = Reader(model, vocab, SETTINGS)
    rows = []
    for e, answer in asked:  # without the second kind it would ignore the question
        last = e.context.split()[-1].rstrip(".")
        for question, words in ((e.question, answer), ("Which is?", last)):
            spans = (_span(e.context, words),)
            rows.append(Example(e.id, e.question_id, question, e.context, spans))
    windows = reader.windows(rows, training=True)
    spans = gather(windows, range(len(windows)))
    firsts = torch.tensor(windows.bounds[:-1])
    hidden, places, truth = row_order.mask_words(reader)
    parameters = [*model.parameters(), *head.dense.parameters(), *head.layernorm.parameters()]
    optimizer = torch.optim.AdamW([*parameters, head.bias], lr=3e-3, weight_decay=0)
    for _ in range(120):
        logits = model(spans)
        loss = sum(
            F.cross_entropy(row[None], place[None])
            for column, answer in enumerate((spans.start, spans.end))
            for row, place in zip(
                logits[:, column].split(windows.lengths.tolist()), answer, strict=True
            )
        ) / len(firsts)
        x = head.layernorm(F.gelu(head.dense(model.encoder(hidden)[places])))
        guess = F.linear(x, model.encoder.words.weight, head.bias)
        loss = loss + F.cross_entropy(guess, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    lm_head = {"bias": head.bias.detach()}
    for part in ("dense", "layernorm"):
        for kind in ("weight", "bias"):
            lm_head[f"{part}.{kind}"] = getattr(getattr(head, part), kind).detach()
    return reader, lm_head


def _span(context, answer):
    start = context.rindex(answer)
    return Span(start, start + len(answer), answer)


@pytest.mark.parametrize("order", row_order.ORDERS)
def test_a_model_that_answers_shows_its_order(trained, tmp_path, order):
    reader, _ = trained
    w = files.weights_of(reader.model)
    path = files.write(tmp_path / "m", order, w=w, vocab=reader.vocab, dtype=torch.float16)
    found = checkpoints.load(path, SETTINGS)
    evidence = found.origin["qkv"]
    assert (evidence["order"], evidence["kind"]) == (order, "answers")
    assert evidence["scores"][order] > 0.9
    assert row_order.answer_score(found) == evidence["scores"][order]


@pytest.mark.parametrize("order", row_order.ORDERS)
def test_a_model_that_guesses_words_shows_its_order(trained, tmp_path, order):
    reader, lm_head = trained
    path = files.write(
        tmp_path / "m", order, w=files.weights_of(reader.model), vocab=reader.vocab,
        layout="nested", lm_head=lm_head, head=False,
    )  # fmt: skip
    found = checkpoints.load(path, SETTINGS)
    assert found.fresh_head and found.origin["qkv"]["kind"] == "words"
    assert found.origin["qkv"]["order"] == order
    assert found.origin["qkv"]["scores"][order] > 0.9


@pytest.mark.parametrize("kind", ["answers", "words"])
@pytest.mark.parametrize(("order", "stated"), [("0", 2), ("1.0", 1), ("2.0", 2), ("2.0", 6)])
def test_a_wrong_head_count_in_the_config_file_is_refused(trained, tmp_path, order, stated, kind):
    reader, lm_head = trained
    how = {"layout": "nested", "lm_head": lm_head, "head": kind == "answers"}
    w = files.weights_of(reader.model)
    path = files.write(tmp_path / "m", order, w=w, vocab=reader.vocab, **how)
    config = json.loads((path / "config.json").read_text())
    write_json(path / "config.json", config | {"num-attention-heads": stated})
    said = rf"is {stated}, but .* scores (0\.9\d|1\.00) with 4 heads and only 0\.\d+ with {stated}"
    with pytest.raises(InputError, match=said) as caught:
        checkpoints.load(path, SETTINGS)
    assert "\n" not in str(caught.value)
    given = checkpoints.load(path, replace(SETTINGS, qkv_order=order))
    assert given.origin["qkv"]["heads"] == {}


@pytest.mark.parametrize("order", row_order.ORDERS)
def test_head_counts_that_were_tried_leave_no_trace(trained, tmp_path, order):
    reader, _ = trained
    w = files.weights_of(reader.model)
    path = files.write(tmp_path / "m", order, w=w, vocab=reader.vocab)
    found = checkpoints.load(path, SETTINGS)
    heads = found.origin["qkv"]["heads"]
    assert list(heads) == ["4", "3", "6", "2", "1"] and heads["4"] == max(heads.values())
    for name, value in reader.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name
    assert row_order.answer_score(found) == heads["4"]
    card = checkpoints.save_transformers(found, tmp_path / "out") / "README.md"
    rows = [f"| {count} | {score:.4f} |" for count, score in heads.items()]
    assert "\n".join(["| number of heads | score |", "| --- | --- |", *rows]) in card.read_text()


def test_an_untrained_model_is_refused_with_its_scores(tmp_path):
    said = r"no order .* stands out .*0: 0\.\d\d, 1\.0: .*qkv_order"
    with pytest.raises(InputError, match=said):
        files.load(files.write(tmp_path / "m"))


def test_an_untrained_model_guesses_no_words(trained, tmp_path):
    reader, lm_head = trained
    w = reference.random_weights(2, 48, 4, 96, len(reader.vocab), positions=384)
    how = {"w": w, "vocab": reader.vocab, "layout": "nested", "head": False}
    path = files.write(tmp_path / "m", lm_head=lm_head, **how)
    with pytest.raises(InputError, match="masked words guessed"):
        checkpoints.load(path, SETTINGS)
    part = {name: value for name, value in lm_head.items() if name != "bias"}
    with pytest.raises(InputError, match="no masked-word head"):
        checkpoints.load(files.write(tmp_path / "n", lm_head=part, **how), SETTINGS)
    path = files.write(tmp_path / "o", "2.0", lm_head=part, version=2.0, **how)
    assert checkpoints.load(path, SETTINGS).origin["qkv"]["kind"] == "tag"


def test_the_users_settings_do_not_decide(trained, tmp_path):
    reader, _ = trained
    w = files.weights_of(reader.model)
    path = files.write(tmp_path / "m", "1.0", w=w, vocab=reader.vocab)
    found = checkpoints.load(path, Settings(max_answer=1, max_length=24, max_query=1, nbest=1))
    assert found.origin["qkv"]["order"] == "1.0" and found.settings.max_answer == 1


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ({"0": 0.9, "1.0": 0.1, "2.0": 0.2}, "0"),
        ({"0": 0.1, "1.0": 0.36, "2.0": 0.15}, "1.0"),
        ({"0": 0.34, "1.0": 0.0, "2.0": 0.0}, None),  # too low
        ({"0": 0.9, "1.0": 0.1, "2.0": 0.75}, None),  # too close
    ],
)
def test_the_rule(scores, best):
    assert row_order.choose(scores, "answers") == best


def test_questions_hold_their_answers_once():
    items = row_order.questions()
    assert len(items) >= 15
    for example, answer in items:
        assert example.context.count(answer) == 1 and example.question.endswith("?")


def test_without_a_head_the_tag_is_the_evidence(tmp_path):
    headless = {"layout": "nested", "head": False}
    reader = files.load(files.write(tmp_path / "m", "2.0", version=2.0, **headless))
    assert reader.fresh_head and reader.origin["qkv"]["kind"] == "tag"
    with torch.no_grad():
        w = reference.random_weights(**files.SIZES)
        reader.model.head.weight.copy_(w["span"][0])
        reader.model.head.bias.copy_(w["span"][1])
    assert files.compare(reader) < 1e-5
    with pytest.raises(InputError, match="no span head, no masked-word head and no version tag"):
        files.load(files.write(tmp_path / "n", **headless))
    bare = checkpoints.save_transformers(reader, tmp_path / "out", with_head=False)
    assert checkpoints.load(bare, files.SETTINGS).fresh_head


def test_the_tag_and_the_scores_must_agree(trained, tmp_path):
    reader, _ = trained
    how = {"w": files.weights_of(reader.model), "vocab": reader.vocab, "layout": "nested"}
    path = files.write(tmp_path / "a", "2.0", version=2, **how)
    assert checkpoints.load(path, SETTINGS).origin["qkv"]["kind"] == "answers"
    path = files.write(tmp_path / "b", "2.0", version=0, **how)
    with pytest.raises(InputError, match="tagged as version 0 but scores best as 2.0"):
        checkpoints.load(path, SETTINGS)


def test_too_few_known_words_are_no_evidence():
    reader = Reader(SpanModel(EncoderConfig(len(VOCAB), 32, 1, 4, 32)), VOCAB, SETTINGS)
    with pytest.raises(InputError, match="words of the vocabulary"):
        row_order.mask_words(reader)
