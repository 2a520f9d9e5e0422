"""The explorer in Chromium: what a reader sees, the keys, and its speed with 10,000 questions."""

import json
import random

import pytest
from browser import chromium
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_run import HOSTILE, one_question, small_run

from helpers.data.mini import DATA
from helpers.views import explorer

# The texts of elements as a reader sees them, with codes turned back into characters.
READ = """
window.read = (node, labels = false) => {
  const copy = node.cloneNode(true);
  if (!labels) copy.querySelectorAll(".tag, .sr").forEach(part => part.remove());
  copy.querySelectorAll(".code").forEach(code => code.replaceWith(
    code.title ? "" : String.fromCodePoint(parseInt(code.textContent.slice(2), 16))));
  return copy.textContent;
};
window.texts = (query, labels) => [...document.querySelectorAll(query)].map(n => read(n, labels));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture
def show(browser, tmp_path):
    """``show(page)`` opens a page in the browser and returns the browser."""

    def open_page(text, fragment=""):
        path = tmp_path / "explorer.html"
        path.write_text(text, encoding="utf-8")
        browser.seconds = browser.open(path, fragment)
        browser.run(READ)
        return browser

    return open_page


def choose(page, label, option):
    """Choose an option of the menu with this label by its text, without the number behind it."""
    label, option = json.dumps(label), json.dumps(option)
    page.run(
        f"""{{ const field = [...document.querySelectorAll("label")]
          .find(node => node.firstChild.data === {label});
        const select = field.querySelector("select"), options = [...select.options];
        select.value = options.find(one => one.text.startsWith({option})).value;
        select.dispatchEvent(new Event("change")); }}"""
    )


def test_marks_labels_and_bars(show, tmp_path):
    page = show(explorer.page(small_run(tmp_path / "one")))
    assert page.run("texts('h2')") == ["Which <b>cytokine</b> costs $5 or $6?"]
    assert page.run("texts('.chip')") == ["TNF-α␣", "tumor ␣necrosis factor"]
    assert page.run("texts('.text .gold', true)") == ["gold TNF-α (end of gold) "]
    assert page.run("texts('.snippet .best')") == ["IL-6", "TNF-α"]
    assert page.run("texts('.text')")[1] == "𝒳 𝒴 Only TNF-α helps </script>."
    bars = page.run(
        "[...document.querySelectorAll('.seg i')].map(i => [i.parentNode.textContent, i.title])"
    )
    assert bars[:2] == [["IL", "starts here: 75%"], ["6", "ends here: 75%"]]
    assert ["TNF", "starts here: 90%"] in bars and ["TNF", "ends here: 30%"] in bars
    rows = page.run("texts('.snippet:last-child details tr')")
    assert "1TNF-α60%" in rows and "TNF90%30%" in rows and "α60%" in rows
    assert page.run("[...document.querySelectorAll('h4 a')].map(a => a.href)") == [
        "https://example.org/1"
    ]
    assert page.run("texts('.systems tbody tr')")[1] == "2✓ tumor ␣necrosis factor"
    assert page.run("document.querySelector('.bar').ariaLabel") == "snippet 1 100%"


def test_keys_step_and_leave_text_fields_alone(show, tmp_path):
    page = show(explorer.page(small_run(tmp_path / "one")))
    where = "document.querySelector('#count').textContent"
    assert page.run(where) == "Question 1 of 3 (3 in total)"
    for key, place in [("j", 2), ("ArrowRight", 3), ("j", 3), ("k", 2), ("ArrowLeft", 1)]:
        page.press(key)
        assert page.run(where).startswith(f"Question {place} of 3"), key
    page.press("ArrowDown")  # moves only if the list has the focus
    assert page.run(where).startswith("Question 1 of 3")
    page.press("Escape")
    page.press("ArrowDown")
    assert page.run("[document.activeElement.ariaCurrent, document.activeElement.tabIndex]") == [
        "true",
        0,
    ]
    page.press("/")
    page.press("j")
    assert page.run(where).startswith("No question")  # "j" was typed into the field
    assert (
        page.run("document.querySelector('main').textContent")
        == "No question matches these filters."
    )


def test_filters_and_comparison(show, tmp_path):
    run = small_run(tmp_path / "one")
    page = show(explorer.page(run, small_run(tmp_path / "two", swapped=True)))
    listed = "texts('#list button > span:last-child').map(text => text.split('b1')[0])"
    assert page.run("document.querySelector('#totals').textContent").startswith(
        "3 questions: 0 right, 1"
    )
    choose(page, "why the first answer is wrong", "other type")
    assert page.run(listed) == ["Which acid?", "Which metal?"]
    choose(page, "where the gold answer is", "only inside a word")
    assert page.run(listed) == ["Which acid?"]
    assert page.run("texts('.text .tag', true)") == ["gold inside a word", "model"]
    page.run(
        "[...document.querySelectorAll('button')].find(b => b.textContent === 'Show all').click()"
    )
    choose(page, "compared with two", "flipped")
    assert page.run(listed) == ["Which <b>cytokine</b> costs $5 or $6?"]
    assert page.run("texts('.systems h3')") == [
        "Answers of one: right at rank 2", "Answers of two: right",
    ]  # fmt: skip
    assert "two: TNF-α with 60%" in page.run("texts('.snippet h4')")[1]
    choose(page, "compared with two", "wrong in both")
    choose(page, "order", "highest score")
    assert page.run(listed) == ["Which acid?", "Which metal?"]


def test_a_link_opens_its_question_even_if_the_answer_is_right(show, browser, tmp_path):
    page = explorer.page(small_run(tmp_path / "one", swapped=True))
    assert show(page).run("texts('h2')") == ["Which acid?"]  # the first wrong one
    show(page, "#id=q1").wait("texts('h2')[0] === 'Which <b>cytokine</b> costs $5 or $6?'")
    assert show(page, "#id=%E0").run("texts('h2').length") == 1  # not an address that we wrote
    browser.press("j")
    browser.wait("location.hash === '#id=q2'")


def test_every_control_has_a_name_and_nothing_overflows(show, tmp_path):
    page = show(explorer.page(small_run(tmp_path / "one"), small_run(tmp_path / "two")))
    controls = "[...document.querySelectorAll('button, select, input')]"
    names = page.run(f"{controls}.map(n => n.textContent || n.closest('label').textContent)")
    assert len(names) > 10 and all(names)
    for width in (1400, 800):
        page.size(width, 900)
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.run("document.querySelector('main').scrollWidth") <= width
    page.size(1400, 900)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.sampled_from(HOSTILE) | st.text(max_size=6), min_size=1, max_size=6).map("".join)
)
def test_every_text_is_shown_as_it_is(show, text):
    page = show(explorer.render(one_question(text)))
    assert page.run("texts('h2, #list button > span > bdi')") == [text, text]
    assert page.run("texts('.text')") == [text]
    assert page.run("texts('#filters option').some(shown => shown.startsWith('hacked'))") is False
    assert page.run("window.hacked") is None
    assert (
        page.run("document.querySelectorAll('main img, main script, main a[href^=java]').length")
        == 0
    )
    invisible = r"/[\u200b\u200d\u202e\u2066\ufeff\u00a0\u00ad\u3164\u0000\u2028]/"
    assert page.run(f"{invisible}.test(document.querySelector('main').textContent)") is False


def many(count):
    """``content`` for so many questions, with texts of BioASQ-mini mixed by chance."""
    chance = random.Random(0)
    training = json.loads((DATA / "BioASQ-training-mini.json").read_text())["questions"]
    words = sorted({w for q in training for s in q["snippets"] for w in s["text"].split()})

    def text(size):
        return " ".join(chance.choices(words, k=size))

    def result():
        answers = [{"text": text(3), "right": False, "score": 0.5, "parts": [(0, 0.25), (1, 0.25)]}
                   for _ in range(5)]  # fmt: skip
        return {"rank": chance.randrange(6), "labels": [f"place {chance.randrange(4)}",
                f"failure {chance.randrange(6)}"], "answers": answers}  # fmt: skip

    def snippet():
        context = text(28)  # the mean length of a golden snippet of 7b
        spans = [f"{low} {low + 12} 0.{chance.randrange(10**4):04}" for low in range(0, 132, 12)]
        document = f"https://example.org/{chance.random()}"
        return {"text": context, "document": document, "times": 1, "golds": [(5, 15)],
                "inside": False, "other": (text(3), 0.5), "spans": " ".join(spans)}  # fmt: skip

    questions = [
        {"id": f"{n:024x}", "batch": f"b{n % 5}", "question": text(11), "golds": [text(2), text(3)],
         **result(), "other": result(), "snippets": [snippet() for _ in range(4)]}
        for n in range(count)
    ]  # fmt: skip
    axes = list(explorer.AXES.values())
    return {"run": "r", "other": "o", "merge": "sum", "axes": axes, "questions": questions}


ACTIONS = [
    "clear() || refilter()",
    "tests[0][0].value = tests[0][0].options[1].value, refilter()",
    "tests[1][0].value = tests[1][0].options[1].value, refilter()",
    "tests[4][0].value = tests[4][0].options[1].value, refilter()",
    "clear(), search.value = 'deficien', refilter()",
    "search.value = 'e', refilter()",
    "search.value = 'the of deficien', refilter()",
    "clear(), order.selectedIndex = 1, refilter()",
    "go(at + 50)",
]


def test_10000_questions_stay_small_and_fast(show, browser):
    """Times are CPU seconds of all Chromium processes, because other programs may be running.

    The best of three attempts counts. Each action is repeated five times, with its layout.
    """
    text = explorer.render(many(10_000))
    assert len(text) < 20_000_000

    def seconds(call, *given):
        before = browser.cpu_seconds()
        call(*given)
        return browser.cpu_seconds() - before

    opened = min(seconds(show, text) for _ in range(3))
    repeat = "for (let n = 0; n < 5; n++) {{ {}; document.body.offsetHeight; }}"
    slowest = max(
        min(seconds(browser.run, repeat.format(action)) / 5 for _ in range(3)) for action in ACTIONS
    )
    print(f"{len(text) / 1e6:.1f} MB, opens in {opened:.2f} s, filters in {slowest:.3f} s")
    # Twice of what we promise (2 s and 0.1 s), because a processor may be slow or busy.
    assert opened < 4
    assert slowest < 0.2
