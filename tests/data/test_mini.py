import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from bioasq_mini import facts, generate, kinds, sentences

from helpers.data import mini
from helpers.data.bioasq import Question, Snippet, read_questions
from helpers.data.spans import ceiling, find_spans, plain

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "data_scripts"
TRAIN = mini.DATA / "BioASQ-training-mini.json"
INPUTS = [mini.DATA / f"BioASQ-mini-PhaseB-testset{n}.json" for n in range(1, 6)]
GOLDEN = [mini.DATA / f"mini{n}_golden.json" for n in range(1, 6)]


def raw(path):
    return json.loads(path.read_text(encoding="utf-8"))["questions"]


@pytest.fixture(scope="module")
def made():
    """Items by (side, question id); the test knows from them what was asked and why."""
    train, batches = generate.build()
    return {i.id: i for i in [*train, *(i for b in batches for i in b)]}


@pytest.fixture(scope="module")
def train():
    return read_questions(TRAIN, answers="required")


@pytest.fixture(scope="module")
def inputs():
    return [q for path in INPUTS for q in read_questions(path, answers="forbidden")]


@pytest.fixture(scope="module")
def golden():
    return [q for path in GOLDEN for q in read_questions(path, answers="required")]


def holds(texts, wanted):
    return any(w.lower() in text.lower() for text in texts for w in wanted)


# --- The files are the script's ------------------------------------------------------------------


def test_shipped_files_are_what_the_script_makes():
    assert generate.check() == []


def test_check_names_what_differs(tmp_path):
    paths = generate.make(tmp_path)
    assert generate.check(tmp_path) == []
    paths[0].write_text(paths[0].read_text(encoding="utf-8").replace("gene", "Gen", 1))
    paths[1].unlink()
    found = generate.check(tmp_path)
    assert len(found) == 2
    assert paths[0].name in found[0] and "missing" in found[1]


def test_same_files_whatever_the_hash_seed(tmp_path):
    code = "import sys; from bioasq_mini import generate; generate.make(sys.argv[1])"
    for seed in ("1", "2"):
        places = os.pathsep.join([str(ROOT / "src"), str(SCRIPTS)])
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": places}
        folder = tmp_path / seed
        subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, check=True)
        assert generate.check(folder) == []


def test_script(tmp_path, capsys):
    path = ROOT / "data_scripts" / "make_bioasq_mini.py"
    spec = importlib.util.spec_from_file_location("make_bioasq_mini", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main(["--check"]) == 0
    assert script.main(["--check", "--to", str(tmp_path)]) == 1
    assert "BioASQ-training-mini.json: missing" in capsys.readouterr().out
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert script.main(["--to", str(blocked / "x")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# --- The split -----------------------------------------------------------------------------------


def test_enough_facts_on_both_sides(train, inputs, made):
    assert len({q.id for q in train}) >= 450
    assert len({q.id for q in inputs}) == 162
    sides = defaultdict(set)
    for q in [*train, *inputs]:
        sides[made[q.id].fact.relation].add(made[q.id].fact.side)
    assert len(sides) >= 10
    assert all(side == {"train", "test"} for side in sides.values()), sides


def test_no_test_answer_is_a_train_answer_of_its_relation(train, golden, made):
    answers = defaultdict(set)
    for q in train:
        answers[made[q.id].fact.relation].update(n.strip().lower() for n in made[q.id].fact.names)
    for q in golden:
        shared = answers[made[q.id].fact.relation] & {n.lower() for n in made[q.id].fact.names}
        assert not shared, (q.id, shared)
    assert not {q.id for q in train} & {q.id for q in golden}


def test_every_fact_has_a_source_and_no_empty_field():
    for path in sorted(facts.HERE.glob("facts_*.tsv")):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0].split("\t") == ["relation", "subject", "object", "synonyms", "source"]
        for line in lines[1:]:
            cells = line.split("\t")
            assert len(cells) == 5 and all(cells[i].strip() for i in (0, 1, 2, 4)), line


def test_other_names_belong_to_subjects_and_have_a_source():
    lines = (facts.HERE / "subjects.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0].split("\t") == ["subject", "other_names", "source"]
    cells = [line.split("\t") for line in lines[1:]]
    assert all(len(row) == 3 and all(cell.strip() for cell in row) for row in cells)
    subjects = [row[0] for row in cells]
    assert len(set(subjects)) == len(subjects) > 300
    assert set(subjects) <= {fact.subject for fact in facts.facts()}
    # A name that contains the answer would give it away.
    chagas = [f for f in facts.facts() if f.subject == "Chagas disease"]
    named = {f.relation: f.other_names for f in chagas}
    assert named["pathogen_disease"] and not named["eponym_synonym"]


def test_split_keeps_shared_objects_together_and_three_objects_for_training():
    rows = [(f"s{i}", (f"o{i // 2}", f"O-{i // 2}")) for i in range(12)]
    sides = defaultdict(set)
    for fact in facts.split("r", rows):
        sides[fact.side].add(fact.entities[0][0])
    assert not sides["train"] & sides["test"]
    assert len(sides["train"]) >= 3 and sides["test"]


# --- Batches, test inputs, golden files ----------------------------------------------------------


def test_batches_match_and_golden_files_hold_more_snippets(inputs, golden, made):
    for one, two, number in zip(INPUTS, GOLDEN, (39, 25, 29, 34, 35), strict=True):
        assert [q["id"] for q in raw(one)] == [q["id"] for q in raw(two)]
        assert sum(q["type"] == "factoid" for q in raw(one)) == number
        assert all("exact_answer" not in q and "ideal_answer" not in q for q in raw(one))
        for small, large in zip(raw(one), raw(two), strict=True):
            assert small["snippets"] == large["snippets"][: len(small["snippets"])]
            assert len(large["snippets"]) > len(small["snippets"])
    assert sum(len(q.snippets) for q in golden) > 1.5 * sum(len(q.snippets) for q in inputs)


@pytest.mark.parametrize("path", [TRAIN, *GOLDEN], ids=lambda p: p.stem)
def test_other_types_are_there_to_be_filtered(path):
    types = Counter(q["type"] for q in raw(path))
    assert len(types) >= 2 and types["factoid"] >= 25
    for q in raw(path):
        answer = q.get("exact_answer")
        good = {
            "yesno": answer in ("yes", "no"),
            "summary": answer is None,
            "list": isinstance(answer, list) and all(isinstance(a, list) for a in answer),
            "factoid": isinstance(answer, list),
        }
        assert good[q["type"]] and q["ideal_answer"][0]


def test_ids_addresses_and_keys():
    seen = set()
    for path in [TRAIN, *INPUTS]:
        for q in raw(path):
            assert re.fullmatch(r"0000[0-9a-f]{20}", q["id"]) and q["id"] not in seen
            seen.add(q["id"])
            assert q["documents"] == list(dict.fromkeys(s["document"] for s in q["snippets"]))
            for s in q["snippets"]:
                assert set(s) == {
                    "text", "document", "beginSection", "endSection",
                    "offsetInBeginSection", "offsetInEndSection",
                }  # fmt: skip
                assert s["document"].startswith("https://example.org/bioasq-mini/")


def test_offsets_and_abstracts(made):
    abstracts = json.loads((mini.DATA / "abstracts.json").read_text(encoding="utf-8"))
    long = {item.snippets[0].document for item in made.values() if item.abstract}
    assert len(long) == 22 and list(abstracts)[:22] == [d for d in abstracts if d in long]
    assert all(140 <= len(abstracts[document].split()) <= 250 for document in long)
    found = set()
    for path in [TRAIN, *INPUTS, *GOLDEN]:
        for q in raw(path):
            for s in q["snippets"]:
                begin, end = s["offsetInBeginSection"], s["offsetInEndSection"]
                text = abstracts[s["document"]]
                found.add(s["document"])
                assert end - begin == len(s["text"]) and s["text"] in text
                assert s["document"] not in long or text[begin:end] == s["text"]
    assert found == set(abstracts)
    words = [len(text.split()) for document, text in abstracts.items() if document not in long]
    assert 50 <= sum(words) / len(words) <= 100
    assert (mini.DATA / "abstracts.json").stat().st_size < 1.5e6


def test_statements_of_a_brief_text_do_not_give_the_answer(made):
    abstracts = json.loads((mini.DATA / "abstracts.json").read_text(encoding="utf-8"))
    for item in made.values():
        for document in {s.document for s in item.snippets}:
            text = abstracts[document]
            for snippet in [*item.snippets, *item.extra]:
                text = text.replace(snippet.text, "")
            if not item.abstract:
                assert not find_spans(text, item.fact.names), (item.id, text)


# --- What the snippets hold ----------------------------------------------------------------------


def test_no_slot_is_left_and_sentences_look_like_sentences():
    for path in [TRAIN, *GOLDEN]:
        for q in raw(path):
            assert not re.search(r"[{}<>|]|//|  ", q["body"]) and q["body"].endswith("?")
            for s in q["snippets"]:
                assert not re.search(r"[{}<>|]|//|  | ,|\(\)|the the ", s["text"]), s["text"]
                assert s["text"].endswith(".") and len(s["text"].split()) <= 150


def test_answering_snippets_hold_the_answer_and_others_do_not(made):
    for item in made.values():
        for snippet in [*item.snippets, *item.extra]:
            assert any(name.lower() in snippet.text.lower() for name in item.fact.subjects)
            found = bool(find_spans(snippet.text, item.fact.names))
            if item.kind == "plural":  # the answer is only a part of a word
                assert not find_spans(snippet.text, item.gold[0])
                found = item.gold[0][0].lower() in snippet.text.lower()
            assert found == snippet.answers, snippet.text


def test_all_snippets_of_a_question_name_the_same_distractors(made):
    numbers = Counter()
    for item in made.values():
        distractors = {entity for entity, _ in item.others}
        numbers[item.passage, len(distractors)] += 1
        for snippet in [*item.snippets, *item.extra]:
            question = Question(item.fact.id, item.body, "factoid", (Snippet(snippet.text),))
            found = set(mini.nearness(question, snippet.text))
            if item.kind == "off-topic" and not snippet.answers:
                assert not found
                continue
            # A question with two entities uses one of them in a sentence.
            extra = set(item.fact.entities) if snippet.answers else set()
            assert distractors <= found <= distractors | extra, snippet.text
    assert all(number == 2 for passage, number in numbers if not passage)
    passages = Counter({number: n for (passage, number), n in numbers.items() if passage})
    assert min(passages) >= 2 and sum(n for k, n in passages.items() if k >= 4) > 150


def test_distractors_are_no_answers_of_the_subject(made):
    for item in made.values():
        known = {
            e
            for f in facts.facts()
            if (f.relation, f.subject) == (item.fact.relation, item.fact.subject)
            for e in f.entities
        }
        for entity, sources in item.others:
            assert entity not in known
            assert all(entity in s.entities and s.relation == item.fact.relation for s in sources)


def test_position_and_nearness_teach_nothing(made):
    order, nearer = Counter(), Counter()
    for item in made.values():
        if item.type != "factoid" or item.kind == "plural":
            continue
        for snippet in item.snippets:
            if not snippet.answers:
                continue
            question = Question(item.id, item.body, "factoid")
            distance = mini.nearness(question, snippet.text)
            spans = {e: find_spans(snippet.text, e)[0].start for e in distance}
            answer = next(e for e in distance if e in item.fact.entities)
            place = sorted(spans, key=spans.get).index(answer) / (len(spans) - 1)
            order["first" if place < 1 / 3 else "last" if place > 2 / 3 else "middle"] += 1
            others = [d for e, (d, _) in distance.items() if e != answer]
            nearer[min(others) < distance[answer][0]] += 1
    total = sum(order.values())
    assert all(0.2 <= n / total <= 0.45 for n in order.values()), order
    assert nearer[True] / total > 0.5, nearer


def test_patterns_enough_and_a_fifth_of_the_tests_unseen(made):
    frames = {f["id"]: f for f in sentences.patterns()["frames"]}
    used = {"train": Counter(), "test": Counter()}
    for item in made.values():
        if not item.passage:
            used[item.fact.side].update(m.pattern for m in item.snippets if m.answers)
    unseen = set(used["test"]) - set(used["train"])
    assert unseen == {name for name, frame in frames.items() if frame["unseen"]}
    assert 0.15 <= len(unseen) / len(used["test"]) <= 0.3
    share = sum(used["test"][name] for name in unseen) / sum(used["test"].values())
    assert 0.15 <= share <= 0.3
    for relation in sentences.patterns()["relations"].values():
        assert len([f for f in frames.values() if set(f.get("needs", [])) <= set(relation)]) >= 6
        assert 2 <= len(relation["questions"]) <= 4


def test_traits_of_the_real_data(train, inputs, golden, made):
    # One or several snippets per question; some without the answer; duplicates.
    assert {len(q.snippets) for q in [*train, *inputs]} == {1, 2, 3, 4}
    assert sum(not m.answers for i in made.values() for m in i.snippets) > 100
    duplicates = [
        q for q in [*train, *inputs] if len({s.text for s in q.snippets}) < len(q.snippets)
    ]
    assert len(duplicates) >= 5
    # Golds: flat and nested, two inner lists, synonyms, Greek, hyphens.
    answers = [q["exact_answer"] for q in raw(TRAIN) if q["type"] == "factoid"]
    flat = sum(isinstance(a[0], str) for a in answers)
    assert 10 < flat < len(answers) / 2
    nested = [q["exact_answer"] for path in GOLDEN for q in raw(path) if q["type"] == "factoid"]
    assert all(isinstance(entity, list) for answer in nested for entity in answer)
    for questions in (train, golden):
        assert any(len(q.exact_answer) == 2 for q in questions)
        written = [name for q in questions for name in q.synonyms()]
        assert any(re.search("[α-ω]", name) for name in written)
        assert any("-" in name for name in written)
        texts = " ".join(s.text for q in questions for s in q.snippets)
        assert re.search("[α-ω]", texts)
    pairs = sum(m.answers for q in train for m in made[q.id].snippets)
    assert 1200 <= pairs <= 1500
    words = [len(s.text.split()) for q in train for s in q.snippets]
    assert 30 < sum(words) / len(words) < 60 and sum(n > 60 for n in words) > 150
    # The question and its snippets often use different names of the subject.
    other = [i for i in made.values() if i.subject != i.fact.subject]
    assert 0.1 < len(other) / len(made) < 0.3


# --- The kinds of questions and the defects of gold answers --------------------------------------


def test_kinds_of_the_test_questions(inputs, golden, made):
    counts = Counter(made[q.id].kind for q in golden)
    assert {k: counts[k] for k in kinds.KINDS} == {k: n for k, (n, _) in kinds.KINDS.items()}
    gold = {q.id: q.synonyms() for q in golden}
    for q in inputs:
        kind, texts = made[q.id].kind, [s.text for s in q.snippets]
        inside = holds(texts, [name.strip() for name in gold[q.id]])
        whole = any(find_spans(text, map(str.strip, gold[q.id])) for text in texts)
        hidden = kind in ("variant", "synonym", "off-topic", "no-snippet", "sentence")
        spaced = any("  " in name for name in gold[q.id])
        assert inside == whole == (not hidden) or kind == "plural" or spaced, (kind, q.id)
        if kind == "plural":
            assert inside and not whole
        if kind == "variant":
            assert plain(gold[q.id][0]) in plain(" ".join(texts))
        if kind == "vote":
            assert len({m.text for m in made[q.id].snippets if m.answers}) == 1
            assert sum(not m.answers for m in made[q.id].snippets) >= 2
    contexts = {q.id: [s.text for s in q.snippets] for q in inputs}
    possible, asked = ceiling(golden, contexts)
    assert asked == 162 and 0.7 < possible / asked < 0.82


def test_the_readme_lists_the_kinds_with_their_numbers():
    table = re.findall(
        r"^\| `([a-z-]+)` \| (\d+) \|", (mini.DATA / "README.md").read_text("utf-8"), re.M
    )
    listed = {kind: int(number) for kind, number in table}
    assert {k: n for k, n in listed.items() if k != "plain"} == {
        kind: number for kind, (number, _) in kinds.KINDS.items()
    }
    assert sum(listed.values()) == sum(generate.BATCHES)


def test_every_batch_has_its_share_of_the_kinds(made):
    for path, number in zip(INPUTS, generate.BATCHES, strict=True):
        asked = [made[q["id"]] for q in raw(path) if q["type"] == "factoid"]
        hard = sum(item.kind != "plain" for item in asked) / number
        assert 0.4 <= hard <= 0.65


def test_gold_defects(train, golden, made):
    kind = {"spaces": "extra spaces", "sentence": "sentence", "synonym": "missing synonym",
            "variant": "missing synonym", "abbreviation": "missing synonym"}  # fmt: skip
    for questions in (train, golden):
        found = {(row["id"], row["defect"]): row for row in mini.gold_defects(questions)}
        wanted = {(q.id, kind[made[q.id].kind]) for q in questions if made[q.id].kind in kind}
        assert wanted <= set(found)
        # Other defects are spaces in one of several names, and a part of the only gold answer.
        for name, defect in set(found) - wanted:
            assert defect == "extra spaces" or (
                made[name].kind in ("plural", "spaces")
                and found[name, defect]["better"].lower() in found[name, defect]["gold"].lower()
            )
        for q in questions:
            for defect in {kind.get(made[q.id].kind)} - {None}:
                better = found[q.id, defect]["better"]
                assert better in made[q.id].fact.names or defect == "missing synonym"
                assert better.lower() not in [name.lower() for name in q.synonyms()]
    counts = Counter(row["defect"] for row in mini.gold_defects(golden))
    assert all(counts[defect] >= 5 for defect in set(kind.values())), counts


# --- The lexical baseline ------------------------------------------------------------------------


def test_baseline_takes_the_nearest_candidate():
    fact = next(f for f in facts.facts() if f.relation == "gene_disease")
    genes = [e[0] for e in mini.known_objects("gene_disease") if e not in fact.entities][:2]
    text = f"{genes[0]} was seen long before anyone spoke of {fact.subject} and {genes[1]}."
    question = Question(fact.id, f"What about {fact.subject}?", "factoid", (Snippet(text),))
    assert mini.lexical_baseline([question]) == {fact.id: [genes[1], genes[0]]}


def test_baseline_does_badly_but_answers_everything(inputs, golden, made):
    ranked = mini.lexical_baseline(inputs)
    assert set(ranked) == {q.id for q in inputs}
    assert all(bool(ranked[q.id]) == (made[q.id].kind != "off-topic") for q in inputs)
    gold = {q.id: {name.lower() for name in q.synonyms()} for q in golden}
    able = [q for q in inputs if holds([s.text for s in q.snippets], gold[q.id])]
    hits = sum(ranked[q.id][0].lower() in gold[q.id] for q in able)
    assert 0.2 <= hits / len(able) < 0.5


def test_baseline_has_no_answer_for_a_strange_question():
    strange = Question("f" * 24, "Which gene?", "factoid", (Snippet("BRCA1 and HTT."),))
    assert mini.lexical_baseline([strange]) == {"f" * 24: []}
