"""The viewer's page in a browser without a network: what a model wrote is text, and thousands of rows scroll."""

import threading
from contextlib import contextmanager

import numpy as np
import pytest

from backtracking.core.receipts import Receipt
from backtracking.faces.viewer.gallery import Gallery, build_gallery
from backtracking.faces.viewer.page import export_page
from backtracking.faces.viewer.server import ViewerServer
from backtracking.measures.traces import Trace, trace_key
from tests.browser import chromium, needs_chromium
from tests.faces.traces import ATTACK, EVIL, PROBLEMS, completion, many

pytestmark = needs_chromium
EMOJI = "\U0001f600\U0001f600 Wait, \u2603 it is 7.\nFinal: 7"


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def gallery():
    receipt = Receipt(f"mlp.1*0 {ATTACK}", 9, -0.5)
    first = completion(EMOJI)
    count = len(first.ids)
    trigger = np.log(np.linspace(0.1, 0.9, count))
    trace = Trace(
        trace_key(first), trigger, trigger - 1, np.array([3]), np.log([[0.25, 0.5, float(np.exp(trigger[3]))]])
    )
    arms = [
        ("arms", first),
        ("arms", completion(EMOJI.replace("Wait", "Well"), condition=f"off {ATTACK}", receipts=(receipt,))),
        ("arms", completion(EVIL, sample=1)),
        ("arms", completion("wait time " * 10_000, sample=2, finish="length")),
        ("arms", completion("", sample=3)),
        ("other", completion("Final: 5", problem="p1", sample=1, condition="off")),
    ]
    return build_gallery(arms, PROBLEMS, title=f"run {ATTACK}", traces={trace.key: trace})


@pytest.fixture(scope="module")
def exported(gallery, tmp_path_factory):
    return export_page(gallery, tmp_path_factory.mktemp("viewer") / "page.html").as_uri()


def opened(browser, url, **options):
    page = browser.open(url, **options)
    page.wait_for("document.querySelector('.text') !== null")
    return page


@contextmanager
def served(gallery):
    with ViewerServer(gallery) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


def shown(page):
    return page.evaluate("document.querySelector('.text').textContent")


def test_what_a_model_wrote_is_shown_as_text(browser, exported):
    page = opened(browser, exported)
    texts = {}
    for number in range(6):
        page.evaluate(f"go({number}); draw().then(() => 0)")
        texts[number] = shown(page)
    visible = (
        EVIL.replace("\x00", "\u2400").replace("\x07", "\u2407").replace("\x1b", "\u241b").replace("\u202e", "\ufffd")
    )
    assert texts[2] == f"{visible}end"
    assert len(texts[3]) == 100_000
    assert texts[4] == "end"
    assert page.evaluate("typeof window.pwned") == "undefined"
    assert (
        page.evaluate("document.querySelectorAll('.text script, .text img, header img, nav img, h2 img').length") == 0
    )
    assert page.evaluate("document.querySelector('h1').textContent") == f"run {ATTACK}"
    page.evaluate("go(0); draw().then(() => 0)")
    assert page.evaluate("document.getElementById('question').textContent").startswith(ATTACK)
    assert ATTACK in page.evaluate("document.getElementById('list').textContent")
    assert ATTACK in page.evaluate("document.getElementById('filter-condition').textContent")
    assert page.errors == []
    assert page.outside_requests() == []
    assert len(page.requests) == 1  # the file alone; the icon is data in it
    assert not page.overflows()


def test_places_are_right_after_letters_of_two_units(browser, exported):
    page = opened(browser, exported)
    assert (
        page.evaluate("[...document.querySelectorAll('.counts')].slice(0, 4).map(m => m.textContent).join('')")
        == "Wait"
    )
    assert page.evaluate("document.querySelector('.text .answer').textContent") == "7"
    assert page.evaluate("state.panes[0].pieces[1].element.textContent") == "\U0001f600"


def test_a_token_tells_what_it_is_and_what_was_measured(browser, exported):
    page = opened(browser, exported)
    page.press("n")
    tip = page.evaluate("document.getElementById('tip').textContent")
    share = np.exp(np.linspace(0, 0, 1))[0] * (0.1 + 0.8 * 3 / len(EMOJI))
    assert "token 3 of" in tip
    assert '"W"' in tip
    assert f"id {ord('W') % 500}; position 6 in the full sequence" in tip
    assert 'strict trigger "Wait" in the reasoning: counts' in tip
    assert f"probability of a trigger here {100 * share:.1f} %" in tip
    assert "layer 025.0 %" in tip
    assert "layer 150.0 %" in tip
    assert page.evaluate("document.getElementById('said').textContent").startswith("token 3 of")
    page.press("ArrowRight")
    assert "not read here" in page.evaluate("document.getElementById('tip').textContent")
    page.press("Escape")
    assert page.evaluate("document.getElementById('tip').hidden")
    page.press("j")
    page.wait_for("document.querySelector('h2 + ul').textContent.includes('receipt')")
    page.press("ArrowRight")
    assert "not measured" in page.evaluate("document.getElementById('tip').textContent")


def test_the_key_of_the_shading_is_shown_where_something_was_measured_and_is_shaded(browser, exported):
    page = opened(browser, exported)
    key = "document.getElementById('legend-shade')"
    assert page.evaluate(f"{key}.hidden") is False
    assert page.evaluate(f"{key}.textContent").split() == ["chance", "of", "a", "trigger", "there:", "0", "1"]
    assert page.evaluate(f"{key}.querySelector('i').getBoundingClientRect().width") > 40
    page.evaluate("document.getElementById('shade').click()")
    assert page.evaluate(f"{key}.hidden") is True
    page.evaluate("document.getElementById('shade').click()")
    page.press("j")
    page.wait_for("document.querySelector('h2 + ul').textContent.includes('receipt')")
    assert page.evaluate(f"{key}.hidden") is True


def test_hovering_shows_the_token_under_the_pointer_and_why_a_trigger_does_not_count(browser, exported):
    page = opened(browser, exported)
    page.evaluate("go(2); draw().then(() => 0)")
    place = page.evaluate(
        "(() => { const e = document.querySelector('.text .other'); e.scrollIntoView({block: 'center'});"
        " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    page.send("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    page.wait_for("!document.getElementById('tip').hidden")
    tip = page.evaluate("document.getElementById('tip').textContent")
    assert 'strict trigger "Wait" in the reasoning: does not count, noun' in tip


def test_two_arms_stand_side_by_side_with_the_first_differing_token_marked(browser, exported):
    page = opened(browser, exported)
    page.press("d")
    page.wait_for("document.querySelectorAll('.text').length === 2")
    difference = page.evaluate("document.getElementById('difference').textContent")
    assert difference == f"First difference at token 4: id {ord('a')} here, id {ord('e')} there."
    assert page.evaluate("[...document.querySelectorAll('.text .first')].map(e => e.textContent)") == ["a", "e"]
    left, right = page.evaluate(
        "[...document.querySelectorAll('#panes section')].map(e => e.getBoundingClientRect().left)"
    )
    assert left < right
    page.press("d")
    page.wait_for("document.querySelectorAll('.text').length === 1")


@pytest.mark.parametrize(
    ("name", "value", "places"),
    [
        ("condition", "off", [5]), ("verdict", "wrong", [5]), ("problem", "p1", [5]), ("finish", "length", [3]),
        ("group", "arms", [0, 1, 2, 3, 4]), ("onsets", "counted", [0, 2]), ("onsets", "none", [1, 3, 4, 5]),
        ("onsets", "others", [2, 3]), ("measured", "1", [0]),
    ],
)  # fmt: skip
def test_a_filter_leaves_what_it_says(browser, exported, name, value, places):
    page = opened(browser, exported)
    page.evaluate(
        f"(() => {{ const s = document.getElementById('filter-{name}');"
        f" const o = [...s.options].find(o => o.textContent === '{value}' || o.value === '{value}');"
        " s.value = o.value; s.dispatchEvent(new Event('change')); })()"
    )
    assert page.evaluate("state.chosen") == places
    assert page.evaluate("document.getElementById('count').textContent") == f"{len(places)} of 6 completions"


def test_keys_move_search_and_help(browser, exported):
    page = opened(browser, exported)
    for key, place in (("j", 1), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0), ("k", 0)):
        page.press(key)
        assert page.evaluate("state.place") == place, key
    page.press("?")
    assert page.evaluate("document.getElementById('help').open")
    page.press("Escape")
    page.wait_for("!document.getElementById('help').open")
    page.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    for letter in "WELL":
        page.press(letter)
    page.wait_for("state.chosen.length === 1")
    assert page.evaluate("state.chosen") == [1]
    page.press("Escape")
    assert page.evaluate("document.activeElement.id") != "search"


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_can_be_used_by_everyone(browser, exported, width, dark):
    page = opened(browser, exported, width=width, dark=dark)
    page.evaluate("document.getElementById('filters').open = true")
    assert page.serious_violations() == []
    page.press("d")
    page.wait_for("document.querySelectorAll('.text').length === 2")
    page.press("n")
    assert page.serious_violations() == []
    page.press("?")
    assert page.serious_violations() == []
    assert not page.overflows()
    assert page.errors == []


def test_five_thousand_completions_scroll_with_few_of_them_in_the_page(browser):
    some = build_gallery(many(50), PROBLEMS, title="many")
    with served(Gallery(some.title, some.entries * 100, some.problems, some.traces)) as url:
        scrolled(opened(browser, url))


def scrolled(page):
    assert page.evaluate("document.getElementById('count').textContent") == "5000 of 5000 completions"
    seen = set()
    for share in (0, 0.3, 0.7, 1):
        page.evaluate(f"(l => {{ l.scrollTop = {share} * l.scrollHeight; }})(document.getElementById('list'))")
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        rows = page.evaluate("[...document.querySelectorAll('.row')].map(e => e.id)")
        assert 5 < len(rows) < 60
        seen |= set(rows)
    assert {"row-0", "row-4999"} <= seen
    started = page.evaluate("performance.now()")
    page.evaluate("document.getElementById('filter-onsets').value = 'counted'; applyFilters(); 0")
    assert page.evaluate("state.chosen.length") == 100 * len(range(0, 50, 3))
    for _ in range(20):
        page.press("j")
    assert page.evaluate("state.place") == 20
    assert page.evaluate("performance.now()") - started < 5000
    assert page.errors == []


def test_the_served_page_is_the_same_and_asks_for_one_completion_at_a_time(browser, gallery):
    with served(gallery) as url:
        page = opened(browser, url)
        assert shown(page) == f"{EMOJI}end"
        page.press("/")
        for letter in "well":
            page.press(letter)
        page.wait_for("state.chosen.length === 1")
        asked = [each.removeprefix(url) for each in page.requests]
    assert {"", "data.json", "completions/0.json"} <= set(asked)
    assert [each for each in asked if each.startswith("search.json")]
    assert "completions/3.json" not in asked
    assert page.errors == []
    assert page.outside_requests() == []
