"""Finished runs in one table: grouping, intervals, differences, Markdown, the pages' tables."""

import json
import re

import pytest

from helpers import batch, config
from helpers.config import InputError
from helpers.run import compare
from helpers.scoring import claims, metrics, uncertainty
from helpers.views import figures


def test_seeds_of_one_configuration_are_one_row(finished):
    folders = [finished(f"a{seed}", seed, 50 + seed) for seed in (2, 0, 1)]
    folders.append(finished("b", 0, 44, "bioasq-cpu"))
    found = compare.rows([compare.read(folder) for folder in folders])
    assert [(row["profile"], row["system"], row["seeds"]) for row in found] == [
        ("squad-then-bioasq-cpu", "run", [0, 1, 2]),
        ("squad-then-bioasq-cpu", "untrained", [0, 1, 2]),
        ("bioasq-cpu", "run", [0]),
        ("bioasq-cpu", "untrained", [0]),
    ]
    strict = found[0]["measures"]["SAcc"]
    assert strict["mean"] == pytest.approx(51 / 162)
    assert strict["sd"] == pytest.approx(1 / 162)
    assert strict["by_seed"] == pytest.approx([50 / 162, 51 / 162, 52 / 162])
    assert strict["low"] < strict["mean"] < strict["high"]
    assert found[0]["training"] == "1,190 SQuAD questions, then 4,231 rows of BioASQ training"
    assert found[1]["training"] == "nothing (random span head)"
    assert found[2]["measures"]["SAcc"]["sd"] is None
    assert found[0]["seconds"]["train"] == 601.0
    json.dumps(found)


def test_the_command_names_no_place_on_this_machine(finished):
    (row, _) = compare.rows([compare.read(finished("a", 4))])
    assert row["command"] == (
        "python -m helpers.batch seeds --profile squad-then-bioasq-cpu --bioasq-dir DIR "
        "--set 'squad_file=x y.json' --seeds 4"
    )


def test_another_setting_is_another_configuration_and_other_logging_is_not(finished):
    first = compare.read(finished("a")).configuration
    other_logging = finished("b", 1, wandb_mode="disabled", evaluate_every=0.0, runs_dir="r2")
    assert compare.read(other_logging).configuration == first
    assert "evaluate_every" not in compare.rows([compare.read(other_logging)])[0]["command"]
    assert compare.read(finished("c", merge="max")).configuration != first


def test_runs_of_early_versions_keep_their_looser_matches(finished):
    """Of the settings that are gone, only looser matches make it another configuration."""
    folders = [finished(f"a{seed}", seed) for seed in range(4)]
    for folder, rungs in zip(folders[1:], ("", "all", "all"), strict=True):
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["settings"] |= {"rungs": rungs, "protocol_seconds": 180, "official_jar": "/x.jar"}
        path.write_text(json.dumps(manifest))
    found = compare.rows([compare.read(folder) for folder in folders])
    found = [row for row in found if row["system"] == "run"]
    assert [row["seeds"] for row in found] == [[0, 1], [2, 3]]
    assert "rungs" not in found[0]["command"] and "--set rungs=all" in found[1]["command"]


def test_the_same_run_twice_is_refused(finished):
    folders = [finished("a"), finished("b")]
    with pytest.raises(InputError, match=r"b: repeats .*a \(seed 0\); specify only one of them"):
        compare.rows([compare.read(folder) for folder in folders])


def test_runs_beside_one_that_differ_in_the_seed_only(finished, tmp_path):
    own = finished("a", 0)
    finished("b", 2)
    finished("c", 1, epochs=9)
    finished("copy of a", 0)
    (tmp_path / "runs" / "unfinished").mkdir()
    (tmp_path / "runs" / "unfinished" / "manifest.json").write_text("{}")
    found = compare.runs_by_seed(own)
    assert [run.folder.name for run in found] == ["a", "b"]


def test_a_folder_that_is_no_finished_run_is_named(tmp_path, finished):
    with pytest.raises(InputError, match=r"has no manifest.json; specify the folder of a finished"):
        compare.read(tmp_path)
    folder = finished("a")
    (folder / "ranks.json").unlink()
    with pytest.raises(InputError, match=r"has no ranks.json"):
        compare.read(folder)


@pytest.mark.parametrize(
    ("name", "text"), [("ranks.json", "[]"), ("scores.json", "{}"), ("manifest.json", "{}")]
)
def test_a_damaged_run_is_named_and_no_sibling(finished, name, text):
    good, bad = finished("a", 0, 10), finished("b", 1, 10)
    (bad / name).write_text(text)
    with pytest.raises(InputError, match=r"b: was written by another version of the kit, or is"):
        compare.read(bad)
    assert [run.folder for run in compare.runs_by_seed(good)] == [good]


def test_other_weights_are_another_configuration(finished):
    first, second = finished("a", 0, 10), finished("b", 1, 10)
    manifest = json.loads((second / "manifest.json").read_text())
    manifest["notes"]["checkpoint"] = {"files": {"model.safetensors": "cd" * 32}}
    (second / "manifest.json").write_text(json.dumps(manifest))
    assert len(compare.group([compare.read(first), compare.read(second)])) == 2


def test_runs_on_other_questions_do_not_enter_the_readme(finished, tmp_path):
    folder = finished("a", 0, 10, sizes={"mini1": 32, "7B5": 30})
    readme = tmp_path / "R.md"
    readme.write_text("<!-- results: x -->\nold\n<!-- end of results -->\n")
    with pytest.raises(InputError, match="has 62 questions in 7B5, mini1, but the table in"):
        batch.table([folder], tmp_path / "t", readme)
    assert "old" in readme.read_text()


def test_paired_differences_between_configurations(finished):
    folders = [finished("a", 0, 40), finished("a1", 1, 40), finished("b", 0, 60, "bioasq-cpu")]
    found = compare.differences([compare.read(folder) for folder in folders])
    assert [change["measure"] for change in found] == list(metrics.MEASURES)
    strict = found[0]
    assert (strict["first"], strict["second"]) == ("squad-then-bioasq-cpu", "bioasq-cpu")
    assert strict["mean"] == pytest.approx(20 / 162)
    assert strict["low"] < strict["mean"] < strict["high"] and 0 < strict["p"] < 0.05
    other = finished("c", 0, 10, "bioasq-cpu", sizes={"7B1": 12, "7B5": 9}, epochs=9)
    assert compare.differences([compare.read(other), compare.read(folders[0])]) == []


def test_published_rows_have_an_interval_only_where_they_can_be_a_share():
    found = {row["key"]: row for row in compare.published()}
    assert len(found) == 12 and not any(key.startswith("notebook") for key in found)
    assert found["card"]["measures"]["LAcc"] == {
        "mean": pytest.approx(0.6388), "sd": None, "low": None, "high": None}  # fmt: skip
    bert = found["dmis-biobert"]["measures"]
    assert (bert["SAcc"]["low"], bert["SAcc"]["high"]) == uncertainty.exact_interval(51, 162)
    assert bert["MRR"]["low"] is None
    assert found["card"]["printed"]["MRR"] == "53.87"
    assert "paper-squad" not in found and claims.get("paper-squad")


def test_the_table_command_writes_everything_and_the_readmes_block(finished, tmp_path, capsys):
    folders = [str(finished(f"a{seed}", seed, 50 + seed)) for seed in (0, 1)]
    folders.append(str(finished("b", 0, 44, "bioasq-cpu")))
    readme = tmp_path / "README.md"
    before = f"# Kit\n\n{compare.BEGIN} made by a command -->\nold\n{compare.END}\n\nafter\n"
    readme.write_text(before)
    output = tmp_path / "table"
    call = ["table", *folders, "--output", str(output), "--readme", str(readme)]
    assert batch.main(call) == 0
    printed = capsys.readouterr().out
    text = readme.read_text()
    assert text.startswith(f"# Kit\n\n{compare.BEGIN} made by a command -->\n\n| model |")
    assert text.endswith(f"{compare.END}\n\nafter\n") and "old" not in text
    assert "| **31.2 ± 0.4** [" in text and "| 24.7 [" not in text
    assert "| 48 | 53.87 | 63.88 | | NGC model card" in text
    assert "commit " in text and "10 minutes of training and 10 seconds of prediction" in text
    assert "permutation test p = " in printed
    names = {path.name for path in output.iterdir()}
    assert names == {"results.json", "results.md", "ranks.json", "forest.png",
                     "sources-bioasq-cpu.png", "sources-squad-then-bioasq-cpu.png"}  # fmt: skip
    data = json.loads((output / "results.json").read_text())
    assert compare.into_readme(readme, data["runs"], data["published"]) == text


def test_the_table_gives_verdicts_over_seeds(finished, tmp_path, capsys):
    """Runs like the card's: three seeds reproduce, two are compatible, 42.0 is neither."""
    for name, seeds, strict, outcome in (
        ("three", (0, 1, 2), 78, "reproduced"),
        ("two", (0, 1), 78, "compatible"),
        ("low", (0, 1, 2), 68, "not reproduced"),
    ):
        folders = [finished(f"{name}{seed}", seed, epochs=5) for seed in seeds]
        for folder in folders:
            scores = json.loads((folder / "scores.json").read_text())
            rows = [{"batch": batch_name, "n": n, "counted": n, "sacc": strict / 162, "mrr": 0.54,
                     "lacc": 104 / 162, "questions": claims.QUESTIONS_7B[batch_name]}
                    for batch_name, n in claims.TEST_7B.items()]  # fmt: skip
            scores |= {"model": "BioMegatron345mUncasedSQuADv1", "parameters": 334_166_018,
                       "context": "abstract", "epochs": 5, "merge": "sum", "batches": rows,
                       "squad_step": {}}  # fmt: skip
            (folder / "scores.json").write_text(json.dumps(scores))
        output = tmp_path / f"table-{name}"
        assert batch.main(["table", *map(str, folders), "--output", str(output)]) == 0
        (way,) = json.loads((output / "results.json").read_text())["verdicts"]
        assert way["seeds"] == list(seeds) and way["verdicts"]["card"] == outcome
        assert way["verdicts"]["dmis-bert"] == "not comparable"
        printed = capsys.readouterr().out
        assert f"- card: {outcome}. SAcc {100 * strict / 162:.2f} against 48.00" in printed
        assert printed in (output / "results.md").read_text() + f"\nwritten to {output}\n"


def test_shared_ranks_have_no_ids_and_one_order(finished, tmp_path):
    folders = [finished(f"a{seed}", seed, 50 + seed) for seed in (1, 0)]
    folders.append(finished("b", 0, 44, "bioasq-cpu"))
    runs = [compare.read(folder) for folder in folders]
    path = tmp_path / "ranks.json"
    path.write_text(json.dumps(compare.shared_ranks(runs)))
    ids = {question for run in runs for question in run.strata}
    assert not [name for name in ids if name in re.findall(r"\w+", path.read_text())
                and name not in claims.TEST_7B]  # fmt: skip
    found = compare.read_shared_ranks(path)
    assert list(found) == [(profile, system) for profile in ("squad-then-bioasq-cpu", "bioasq-cpu")
                           for system in ("run", "untrained")]  # fmt: skip
    assert [run.seed for run in found["squad-then-bioasq-cpu", "run"]] == [0, 1]
    for old, new in ((runs[1], found["squad-then-bioasq-cpu", "run"][0]),
                     (runs[2], found["bioasq-cpu", "run"][0])):  # fmt: skip
        for batch_name, n in claims.TEST_7B.items():
            ranks = [rank for q, rank in new.ranks.items() if new.strata[q] == batch_name]
            before = [rank for q, rank in old.ranks["run"].items() if old.strata[q] == batch_name]
            assert sorted(ranks) == sorted(before) and len(ranks) == n
    # The order is the same in all runs, so a paired comparison gives the same result.
    first, second = found["squad-then-bioasq-cpu", "run"], found["bioasq-cpu", "run"]
    for change in compare.differences(runs):
        again = compare.difference([run.ranks for run in first], [run.ranks for run in second],
                                   first[0].strata, change["measure"])  # fmt: skip
        assert again.mean == pytest.approx(change["mean"])
        assert again.p == pytest.approx(change["p"], abs=0.02)
        assert again.low == pytest.approx(change["low"], abs=0.01)
    assert compare.read_shared_ranks(tmp_path / "none.json") == {}


def test_another_system_enters_the_table(finished, tmp_path, capsys):
    folder = finished("a")
    row = compare.rows([compare.read(folder)])[0]
    row |= {"name": "LLM", "system": "outside", "profile": "", "source": "its answers",
            "context": "not stated"}  # fmt: skip
    path = tmp_path / "llm.json"
    path.write_text(json.dumps({"row": row}))
    assert batch.main(["table", str(folder), str(path), "--output", str(tmp_path / "t")]) == 0
    assert "| LLM | not stated | " in capsys.readouterr().out
    data = json.loads((tmp_path / "t" / "results.json").read_text())
    assert [one["name"] for one in data["runs"]][-1] == "LLM"
    path.write_text("[]")
    with pytest.raises(InputError, match="llm.json: has no field 'row'; specify a file from"):
        compare.read_row(path)


def test_without_the_marks_nothing_is_written(finished, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("# Kit\n")
    call = ["table", str(finished("a")), "--output", str(tmp_path / "t"), "--readme", str(readme)]
    assert batch.main(call) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "put them around the table" in error
    assert not (tmp_path / "t").exists() and readme.read_text() == "# Kit\n"
    assert batch.main([*call[:-1], str(tmp_path / "none.md")]) == 2


def test_other_questions_stand_beside_no_published_row(finished, tmp_path):
    folder = finished("a", 0, 10, sizes={"mini1": 32, "7B5": 30})
    batch.table([folder], tmp_path / "t")
    assert json.loads((tmp_path / "t" / "results.json").read_text())["published"] == []


def test_figures_have_labelled_axes(finished):
    ours = compare.rows([compare.read(finished("a", seed)) for seed in (0,)])
    figure = figures.forest(ours, compare.published())
    assert [axes.get_xlabel() for axes in figure.axes] == ["SAcc (%)", "MRR (%)", "LAcc (%)"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == len(set(labels)) == len(ours) + 12
    ranks = {f"q{k}": k % 3 for k in range(30)}
    for seeds in ([0], [0, 1]):
        figure = figures.two_sources(uncertainty.sources([ranks] * len(seeds)), seeds)
        assert figure.axes[0].get_xlabel() == "score (%)"


def test_the_shared_ranks_are_those_of_the_results():
    """Without the file, notebook 05 shows no real runs, which is only right before a release."""
    real = compare.read_shared_ranks()
    if not real:
        pytest.skip("docs/results/ranks.json is missing: helpers.batch table writes it")
    rows = {(row["profile"], row["system"]): row for row in compare.shared_rows()}
    assert {name for name in real if name[1] == "run"} == {n for n in rows if n[1] == "run"}
    for name, runs in real.items():
        assert [run.seed for run in runs] == rows[name]["seeds"]
        assert all(list(run.strata.values()).count(b) == n for run in runs
                   for b, n in claims.TEST_7B.items())  # fmt: skip
        for measure in metrics.MEASURES:
            means = [
                sum(values) / 162
                for run in runs
                for values in [metrics.question_values(list(run.ranks.values()))[measure]]
            ]
            assert means == pytest.approx(rows[name]["measures"][measure]["by_seed"]), name


def committed():
    """The results of ``docs/results.md`` as data."""
    return json.loads((config.ROOT / "docs/results/results.json").read_text(encoding="utf-8"))


def test_the_committed_table_is_what_the_command_wrote():
    data, page = committed(), config.ROOT / "docs" / "results.md"
    text = page.read_text(encoding="utf-8")
    assert compare.into_readme(page, data["runs"], data["published"]) == text

    def rounded(rows):  # scipy's limits of the exact intervals are roots found to about 1e-12
        return json.loads(json.dumps(rows), parse_float=lambda digits: round(float(digits), 9))

    assert rounded(data["published"]) == rounded(compare.published())
    for row in data["runs"]:
        assert row["measures"]["SAcc"]["mean"] <= row["measures"]["MRR"]["mean"]
        assert row["measures"]["MRR"]["mean"] <= row["measures"]["LAcc"]["mean"] <= row["ceiling"]


def test_the_readmes_short_table_is_a_part_of_the_full_one():
    """Our trained rows and five published ones, without ceiling, bold type and intervals."""
    data = committed()
    keys = ("card", "paper-345m", "dmis-bert", "dmis-biobert", "dmis-biobert-squad")
    ours = [row for row in data["runs"] if row["system"] == "run"]
    theirs = [row for row in data["published"] if row["key"] in keys]
    full = re.sub(r"\*\*| \[[\d., ]+\]", "", compare.markdown(ours, theirs))
    rows = [line.split("|") for line in full.splitlines()]
    short = "\n".join("|".join(row[:7] + row[8:]) for row in rows)
    readme = (config.ROOT / "README.md").read_text(encoding="utf-8")
    assert len(theirs) == 5 and f"\n\n{short}\n\n" in readme


def test_the_results_page_compares_like_with_like():
    """Our row with the SQuAD step against BioBERT with it, the other against BioBERT without."""
    data = committed()
    text = (config.ROOT / "docs" / "results.md").read_text("utf-8")
    ours = {row["profile"]: row["measures"] for row in data["runs"] if row["system"] == "run"}
    for profile, key, begin in (
        ("squad-then-bioasq-cpu", "dmis-biobert-squad", "| with the SQuAD step: "),
        ("bioasq-cpu", "dmis-biobert", "| without it: "),
    ):
        means = [100 * ours[profile][measure]["mean"] for measure in metrics.MEASURES]
        claim = claims.get(key)
        printed = [claim.corrected[measure] for measure in metrics.MEASURES]
        assert begin + ", ".join(f"{mean:.1f}" for mean in means) + " | BioBERT" in text
        pairs = zip(means, printed, strict=True)
        changes = [f"{mean - float(digits):+.1f}".replace("-", "−") for mean, digits in pairs]
        assert f": {', '.join(printed)} | {' | '.join(changes)} |" in text
        assert claim.protocol.context == "snippet"
        assert claim.protocol.training.startswith("SQuAD") == ("squad" in profile)
