"""Finding the files of one edition in a folder, by the names they are published under."""

import pytest

from helpers.config import InputError
from helpers.data.layout import find_files, role_of


@pytest.fixture
def folder(tmp_path):
    """``folder(*names)`` makes a folder of files, each holding its own name."""

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        return tmp_path

    return make


def golds(edition="7B"):
    return [f"{edition}{n}_golden.json" for n in range(1, 6)]


def test_organisers_names(folder):
    tests = [f"BioASQ-task7bPhaseB-testset{n}" for n in range(1, 6)]
    files = find_files(folder("BioASQ-training7b.json", *tests, *golds(), "notes.txt"))
    assert files.train.name == "BioASQ-training7b.json" and not files.train_is_squad
    assert [path.name for path in files.tests] == tests and not files.tests_are_squad
    assert [path.name for path in files.golds] == golds()
    assert files.batches == ("7B1", "7B2", "7B3", "7B4", "7B5") and not files.enriched


def test_names_of_the_public_copies(folder):
    tests = [f"7bPhaseB-testset{n}_factoid_official_snippets.json" for n in range(1, 6)]
    files = find_files(
        folder(
            "BioASQ-train-factoid-7b.json",
            "BioASQ-test-factoid-7b.json",
            "BioASQ-test-factoid-7b-full-abstract.json",
            *tests,
            *golds(),
        )
    )
    assert files.train.name == "BioASQ-train-factoid-7b.json" and files.train_is_squad
    assert [path.name for path in files.tests] == tests and not files.tests_are_squad


def test_a_training_file_for_another_context_is_named(folder):
    root = folder("BioASQ-train-factoid-7b.json", *golds())
    with pytest.raises(
        InputError, match="context 'abstract' .BioASQ-train-factoid-7b.json is for a different"
    ):
        find_files(root, context="abstract")


def test_dmis_tree_by_context(folder):
    tails = {"Snippet-as-is": "", "Appended-Snippet": "-2sent", "Full-Abstract": ""}
    names = [
        f"BioASQ-7b/{part}/{kind}/BioASQ-{part}-factoid-7b{number}{tail}.json"
        for kind, tail in tails.items()
        for part, number in (("train", ""), ("test", "-1"), ("test", "-2"))
    ]
    older = ["BioASQ-6b/train/Full-Abstract/BioASQ-train-factoid-6b.json", "6B1_golden.json"]
    root = folder(*names, *older, *golds()[:2])
    for context, kind in (
        ("snippet", "Snippet-as-is"),
        ("appended", "Appended-Snippet"),
        ("abstract", "Full-Abstract"),
    ):
        files = find_files(root, context=context)
        assert files.train.parent.name == kind and files.train_is_squad and files.tests_are_squad
        assert [path.parent.name for path in files.tests] == [kind, kind]
        assert files.batches == ("7B1", "7B2")
    assert find_files(root, context="abstract", edition="6b").batches == ("6B1",)


def test_mini_names_and_abstracts(folder):
    tests = [f"BioASQ-mini-PhaseB-testset{n}.json" for n in range(1, 6)]
    files = find_files(
        folder("BioASQ-training-mini.json", *tests, *golds("mini"), "abstracts.json", "facts_a.tsv")
    )
    assert files.batches == ("mini1", "mini2", "mini3", "mini4", "mini5")
    assert [path.name for path in files.abstracts] == ["abstracts.json"]


def test_ten_batches_sort_by_number(folder):
    files = find_files(folder("training7b.json", "7B10_golden.json", "7B9_golden.json"))
    assert files.batches == ("7B9", "7B10")


def test_a_ready_squad_training_file_is_preferred(folder):
    files = find_files(folder("training7b.json", "BioASQ-train-factoid-7b.json", *golds()))
    assert files.train_is_squad
    assert not find_files(folder(), context="abstract").train_is_squad


def test_golden_files_stand_in_for_missing_test_inputs(folder):
    files = find_files(folder("training7b.json", *golds()))
    assert files.enriched and files.tests == files.golds


def test_pooled_files_are_one_batch(folder):
    root = folder(
        "BioASQ-train-factoid-7b.json", "BioASQ-test-factoid-7b.json", "7B_golden.json"
    )  # fmt: skip
    files = find_files(root)
    assert files.batches == ("7B",) and files.tests_are_squad
    assert find_files(folder(*golds())).batches[0] == "7B1"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no golden file; looked for train: BioASQ-training7b.json"),
        (["training7b.json", "x.csv"], "found training7b.json, x.csv"),
        (["7B1_golden.json", "training6b.json"], "no training file for edition 7b"),
        (
            [
                "training7b.json",
                "7B1_golden.json",
                "7B2_golden.json",
                "BioASQ-task7bPhaseB-testset1",
            ],
            "a test input or a golden file, but not both: 7B2",
        ),
        (
            ["training7b.json", "7B1_golden.json", "7bPhaseB-testset1", "7bPhaseB-testset3"],
            "a test input or a golden file, but not both: 7B3",
        ),
        (["training7b.json", "7B1_golden.json", "old/7B1_golden.json"], "keep one"),
        (["training5b.json", "5B1_golden.json", "6B1_golden.json"], "editions 5b, 6b"),
        ([f"{n}.json" for n in range(30)], "and 20 more"),
    ],
)
def test_folders_that_do_not_fit(folder, names, words):
    root = folder(*names)
    with pytest.raises(InputError) as caught:
        find_files(root)
    assert words in str(caught.value) and str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_optional_training_file(folder, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find_files(tmp_path / "none")
    files = find_files(folder("7B1_golden.json"), need_train=False)
    assert files.train is None and not files.train_is_squad


def test_identical_copies_are_one_file(tmp_path):
    for name in ("a/7B1_golden.json", "b/7B1_golden.json", "training7b.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("same")
    assert find_files(tmp_path).golds == (tmp_path / "a/7B1_golden.json",)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("x/training12b_new.json", "train"),
        ("BioASQ-trainingDataset6b.json", "train"),
        ("BioASQ-task9bPhaseB-testset4.json", "test"),
        ("BioASQ-task7bPhaseA-testset1", ""),
        ("13B4_golden.json", "golden"),
        ("._7B1_golden.json", ""),
        ("7B1_golden.json.bak", ""),
    ],
)
def test_roles_by_name(name, role):
    assert role_of(name) == role


def test_every_file_is_read_or_ignored_for_a_reason(folder):
    tests = [f"BioASQ-task7bPhaseB-testset{n}" for n in range(1, 6)]
    root = folder(
        "training7b.json", *golds(), *tests, "7B1_golden.json.bak", "6B1_golden.json",
        "BioASQ-test-factoid-7b.json", "7B_golden.json", "abstracts.json", "copy/training7b.json",
        "BioASQ-7b/train/Full-Abstract/BioASQ-train-factoid-7b.json",
    )  # fmt: skip
    (root / "copy" / "training7b.json").write_text("training7b.json")
    files = find_files(root)
    assert {path.relative_to(root).as_posix(): why for path, why in files.ignored} == {
        "7B1_golden.json.bak": "unknown file name",
        "6B1_golden.json": "edition 6b, not 7b",
        "BioASQ-test-factoid-7b.json": "not needed: the BioASQ test files are read",
        "7B_golden.json": "contains all batches, but files for single batches are read",
        "abstracts.json": "read only under context 'abstract'",
        "training7b.json": "a copy of a file that is read",
        "BioASQ-7b/train/Full-Abstract/BioASQ-train-factoid-7b.json":
            "made for context 'abstract', not 'snippet'",
    }  # fmt: skip
    everything = {path for path in root.rglob("*") if path.is_file()}
    for context in ("snippet", "abstract"):
        files = find_files(root, context=context)
        read, ignored = set(files.inputs(context)), {path for path, _ in files.ignored}
        assert read | ignored == everything and not read & ignored
    golden = files.with_golden_snippets()
    assert dict(golden.ignored)[files.tests[0]] == "snippets=golden is set"
    assert {*golden.inputs("abstract"), *dict(golden.ignored)} == everything


def test_what_was_passed_over_when_golden_files_stand_in(folder):
    """A test input under another name, or one of all batches: why it was not read is told."""
    names = ["BioASQ-test-factoid-7b.json", "task7b_testset1.json"]
    files = find_files(folder("training7b.json", *golds(), *names))
    assert files.enriched
    assert files.passed_over() == (
        "BioASQ-test-factoid-7b.json "
        "(contains all batches, but files for single batches are read), "
        "task7b_testset1.json (unknown file name)"
    )
    assert files.passed_over(1).endswith("are read) and 1 more")
