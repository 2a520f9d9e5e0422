"""Behavior that all command lines share."""

import runpy
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "data_scripts"


@pytest.mark.parametrize(
    ("name", "work", "arguments"),
    [
        ("bioasq_to_squad", "convert_files", ["t.json", "--output", "o.json"]),
        ("score_system", "read_system", ["x", "--gold", "g.json", "--answers", "a.json"]),
        ("make_bioasq_mini", "bioasq_mini.generate.make", ["--to", "folder"]),
    ],
)
def test_a_key_that_stops_a_command_gives_one_line(monkeypatch, capsys, name, work, arguments):
    def stop(*_, **__):
        raise KeyboardInterrupt

    main = runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"]
    if "." in work:
        monkeypatch.setattr(work, stop)
    else:
        monkeypatch.setitem(main.__globals__, work, stop)
    assert main(arguments) == 130
    assert capsys.readouterr().err.startswith(f"\n{name}.py: stopped")
