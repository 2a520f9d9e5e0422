"""Files made to do harm are refused in one line, and odd texts are shown as they are written."""

import io
import json
import shutil
import tarfile

import pytest
from tiny import tiny_folder, tiny_reader

from helpers.config import InputError, Settings, from_parameters
from helpers.data import convert
from helpers.data.bioasq import Question, Snippet
from helpers.fetch.download import unpack
from helpers.model import checkpoints
from helpers.model.checkpoint_report import write_report
from helpers.views import tables

SETTINGS = Settings(max_length=48)


def archive(path, members, mode="w"):
    """Write a tar file of (name, content); a TarInfo in place of the name has no content."""
    with tarfile.open(path, mode) as file:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


@pytest.mark.fault(".nemo files with links, bombs or paths outside")
@pytest.mark.parametrize(
    ("members", "mode", "said"),
    [
        ([(link("model_weights.ckpt", "/etc/passwd"), b"")], "w", "is a link or a device"),
        ([("../model_config.yaml", b"a: 1")], "w", "is not a plain path"),
        ([("model_weights.ckpt", bytes(50_000_000))], "w:gz", "which no checkpoint does"),
        ([("a" * 3_000_000, b"")], "w:gz", "a name or an attribute in it takes 30000"),
        ([(str(n), b"") for n in range(10_001)], "w", "it contains more than 10000 files"),
    ],
)
def test_an_archive_that_would_harm_is_not_unpacked(members, mode, said, tmp_path):
    path = archive(tmp_path / "m.nemo", members, mode)
    with pytest.raises(InputError, match=said) as error:
        checkpoints.load(path, SETTINGS)
    assert "m.nemo" in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.fault("tar files with long attributes")
def test_long_attributes_are_not_read_into_memory(tmp_path):
    info = tarfile.TarInfo("model_config.yaml")
    info.pax_headers = {"comment": "x" * 3_000_000}
    with tarfile.open(tmp_path / "m.nemo", "w:gz", format=tarfile.PAX_FORMAT) as file:
        file.addfile(info)
    with pytest.raises(InputError, match="m.nemo: not unpacked, because a name or an attribute"):
        checkpoints.load(tmp_path / "m.nemo", SETTINGS)


@pytest.mark.fault("absurd sizes in a configuration")
@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("layers", 1_000_000, "num_hidden_layers is 1000000; expected an integer from 1 to 1000"),
        ("hidden", -32, "hidden_size is -32"),
        ("hidden", "null", "hidden_size is missing"),
        ("vocab_size", 9_000_000, "describes .* weights, but the file has only"),
        ("gelu", "[a]", "hidden_act is None"),
    ],
)
def test_absurd_sizes_in_a_nemo_file_are_refused_before_memory_is_used(
    field, value, said, tmp_path
):
    whole = checkpoints.save_nemo(tiny_reader(), tmp_path / "m.nemo")
    unpack(whole, tmp_path / "parts")
    config = tmp_path / "parts" / "model_config.yaml"
    old = next(line for line in config.read_text().splitlines() if f"  {field}:" in line)
    config.write_text(config.read_text().replace(old, f"  {field}: {value}"))
    with tarfile.open(tmp_path / "bad.nemo", "w") as file:
        file.add(tmp_path / "parts", arcname=".")
    with pytest.raises(InputError, match=f"bad.nemo: .*{said}"):
        checkpoints.load(tmp_path / "bad.nemo", SETTINGS)


@pytest.mark.fault("absurd sizes in a configuration")
@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**6}, {"hidden_size": 10**30}, {"vocab_size": -1},
        {"intermediate_size": None}, {"max_position_embeddings": 1e9}, {"num_attention_heads": {}},
        {"layer_norm_eps": float("nan")}, {"layer_norm_eps": 1e-300 * 0}, {"hidden_size": True},
    ],
)  # fmt: skip
def test_absurd_sizes_in_a_folder_are_refused(change, tmp_path):
    path = tiny_folder(tmp_path / "m") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (field,) = change
    with pytest.raises(InputError, match=f"config.json: {field} is ") as error:
        checkpoints.load(path.parent, SETTINGS)
    assert len(str(error.value)) < 300 + len(str(path))


@pytest.mark.fault("JSON nested too deeply")
def test_a_configuration_nested_too_deeply_is_refused(tmp_path):
    path = tiny_folder(tmp_path / "m") / "config.json"
    path.write_text('{"a":' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(InputError, match="config.json: not a valid model configuration"):
        checkpoints.load(path.parent, SETTINGS)


@pytest.mark.fault("NUL, control characters or half characters in names")
@pytest.mark.parametrize("name", ["a\0b", "a\nb", "a\ud800b", "a\x1b[31m"])
@pytest.mark.parametrize("field", ["run", "bioasq_dir", "model", "squad_file"])
def test_a_name_that_no_file_can_have_is_refused(field, name):
    with pytest.raises(InputError, match=f"{field}: .* contains a control character"):
        from_parameters(**{field: name})


@pytest.mark.fault("HTML, formulas or invisible characters in texts")
def test_html_in_names_and_configurations_has_no_effect_in_a_report(tmp_path):
    odd = "a <img src=x onerror=alert(1)> `|b"
    folder = tiny_folder(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"odd": f"```\n{odd}\n```"}, indent=1))
    (folder / odd.replace("/", "")).write_text("x")
    shutil.move(folder, tmp_path / odd)
    page = write_report(odd, tmp_path / odd, tmp_path / "r.md", SETTINGS).read_text("utf-8")
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    assert "<img" not in markdown.render(page) and page.count("<img") >= 3


@pytest.mark.fault("HTML, formulas or invisible characters in texts")
def test_lists_in_a_table_are_text():
    html = tables.table({"a": [["<b>bold</b>"], {"<i>": 1}, None, 2.5]}).to_html()
    assert "<b>" not in html and "&lt;b&gt;bold" in html and "&lt;i&gt;" in html


@pytest.mark.fault("a gold answer of 50,000 letters")
def test_a_gold_answer_of_any_length_is_compared_only_at_its_beginning(monkeypatch):
    compared = []
    whole = convert._trigrams
    monkeypatch.setattr(convert, "_trigrams", lambda text: compared.append(text) or whole(text))
    long = "".join(chr(97 + n % 26) for n in range(50_000))
    snippet = Snippet(f"{long[1:]} is not it")
    question = Question("q", "Which?", "factoid", (snippet,), (), ((long,),))
    _, (drop,) = convert.convert([question])
    assert drop.reason == "answer in no context" and drop.nearest == long[1:]
    assert compared and max(map(len, compared)) <= 200
