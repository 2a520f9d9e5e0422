"""Every message that docs/troubleshooting.md quotes is one that the kit really prints."""

import ast
import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ANY = "…"  # in a quoted message: whatever differs; in a template: a value


def rows(first):
    """Yield the cells of each row in the tables whose first column has this title."""
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.M):
        lines = [re.split(r" *\| *", line)[1:-1] for line in table.splitlines()]
        if lines[0][0] == first:
            yield from lines[2:]


def strings(code):
    """Yield the texts in Python code; the values in an f-string become ``ANY``.

    A name that the same file gives to a text, such as a shared remedy, is replaced by this text.
    """
    nodes = list(ast.walk(ast.parse(code)))
    named = {}
    for node in (node for node in nodes if isinstance(node, ast.Assign)):
        if isinstance(node.targets[0], ast.Name) and (text := as_text(node.value, {})):
            named[node.targets[0].id] = text
    yield from filter(None, (as_text(node, named) for node in nodes))


def as_text(node, named):
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(as_text(part, named) or ANY for part in node.values)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
        return named.get(node.value.id)
    return None


def printed():
    """All texts in the kit's code, notebooks and shell scripts, on one line each."""
    folders = ("src/helpers", "data_scripts")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        yield from strings(path.read_text(encoding="utf-8"))
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "code":
                yield from strings(cell.source)
    for name in ("Makefile", "data_scripts/workshop/install.sh"):
        text = (ROOT / name).read_text(encoding="utf-8")
        yield re.sub(r'"?\s*\\\n\s*"?', " ", text)  # echo "one part" \ "the next part"


def occurs(message, text):
    """Whether the fixed parts of a message follow one another in a text."""
    at = 0
    for part in (part.strip() for part in message.split(ANY)):
        found = text.find(part, at) if len(part) > 2 else at
        if found < 0:
            return False
        at = found + len(part)
    return True


def test_the_kit_prints_every_message_on_the_page():
    texts = {" ".join(text.split()) for text in printed()}
    quoted = [row[0].strip("`") for row in rows("message")]
    assert len(quoted) > 50
    unknown = [m for m in quoted if not any(occurs(m, text) for text in texts)]
    assert not unknown, "\n".join(unknown)


def test_a_message_that_the_kit_does_not_print_is_found_out():
    texts = ["run: … is not a plain folder name"]
    assert occurs("run: … is not a plain folder name", texts[0])
    assert not occurs("run: … is not a plain file name", texts[0])
    assert not occurs("is not a plain folder name … run:", texts[0])


def test_messages_of_the_kit_and_of_other_programs_are_told_apart():
    for row in rows("message"):
        assert re.fullmatch("`[^`]+`", row[0]), row[0]
    for row in rows("symptom"):
        assert len(row) == 3 and all(row), row
    assert sum(1 for _ in rows("message")) + sum(1 for _ in rows("symptom")) == sum(
        line.startswith("| ") for line in PAGE.splitlines()
    ) - PAGE.count("\n|---")
