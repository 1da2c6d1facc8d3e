"""What a notebook shows of completions: text as text, marked where it should be, without a network."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import backtracking as bt
from backtracking.core.markup import COUNTS, FOLD, OTHER, SHOWN, visible
from backtracking.faces.notebook import show_tokens
from tests.browser import chromium, needs_chromium
from tests.faces.traces import ATTACK, EVIL, completion


class Read(HTMLParser):
    """The tags of a piece of HTML, its text, and the text of each mark with its style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.marks: list[tuple[str | None, str | None, str]] = []
        self._mark: dict[str, str | None] | None = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._mark = dict(attrs) if tag == "mark" else self._mark

    def handle_data(self, data):
        self.text += data
        if self._mark is not None:
            self.marks.append((self._mark["style"], self._mark["title"], data))
            self._mark = None


def test_a_completion_shows_its_text_and_marks_its_triggers():
    read = Read(completion(EVIL)._repr_html_())
    assert visible(EVIL) in read.text
    assert set(read.tags) == {"div", "b", "mark"}
    assert read.marks == [
        (COUNTS, "strict trigger, counts", "Wait"),
        (OTHER, "strict trigger, does not count: noun", "wait"),
    ]
    assert "1 trigger (and 1 that do not count)" in read.text


@pytest.mark.parametrize("text", ["\ud800 Wait", "\x00\x1b\x7f\x85", "\u202e\u2066", "&amp; <b>"])
def test_every_text_can_be_written_to_a_notebook(text):
    page = completion(text, condition=ATTACK)._repr_html_()
    page.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert "<script" not in page
    assert visible(text) in Read(page).text
    assert len(visible(text)) == len(text)


def test_long_texts_are_folded_and_whole():
    text = "x" * (FOLD + 1)
    read = Read(completion(text)._repr_html_())
    assert read.tags[:2] == ["details", "summary"]
    assert text in read.text
    assert "details" not in Read(completion("x" * FOLD)._repr_html_()).tags


def test_a_sequence_shows_the_first_and_says_how_many_there_are():
    rows = bt.Completions(completion(f"Wait, {number}.", sample=number) for number in range(SHOWN + 5))
    read = Read(rows._repr_html_())
    assert read.tags.count("details") == SHOWN
    assert read.text.startswith(f"{SHOWN + 5} completions of 1 conditions; the first {SHOWN}:")
    assert "Wait, 19." in read.text
    assert "Wait, 20." not in read.text


def test_tokens_are_shaded_by_their_values_and_say_them():
    made = completion(f"ab{ATTACK}", finish="length")
    values = np.zeros(len(made.ids))
    values[:3] = 2.0, -1.0, np.nan
    page = show_tokens(made, values)._repr_html_()
    spans = re.findall(r'<span title="([^"]*)" style="([^"]*)">([^<]*)</span>', page)
    assert len(spans) == len(made.ids)
    assert spans[0] == (f"token 0, id {ord('a')}: 2", spans[0][1], "a")
    assert spans[0][1].startswith("background:rgba(230,159,0,0.60)")
    assert spans[1][1].startswith("background:rgba(86,180,233,0.30)")
    assert spans[2][:2] == (f"token 2, id {ord('<')}: no value", "")
    assert ATTACK not in page
    assert "http" not in page
    with pytest.raises(bt.InputError, match="give one for each of"):
        show_tokens(made, [1.0])


@needs_chromium
def test_circuitsvis_draws_without_a_network_and_reads_no_token_as_html(tmp_path):
    tokens = completion(f"{ATTACK}</script>&amp;", finish="length")
    page = show_tokens(tokens, np.linspace(-1, 1, len(tokens.ids)), circuitsvis=True)._repr_html_()
    whole = completion(f"{ATTACK}</script>", finish="length", ids=(7,) * (len(ATTACK) + 9))
    one = bt.Completion(0, 0, "v", "c", (1,), (5, 6), whole.text, "length", (0, len(ATTACK)))
    page += show_tokens(one, [0.5, -0.5], circuitsvis=True)._repr_html_()
    (tmp_path / "cell.html").write_text(f"<!doctype html><meta charset=utf-8><link rel=icon href='data:,'>{page}")
    with chromium() as browser:
        opened = browser.open((tmp_path / "cell.html").as_uri())
        opened.wait_for("document.body.innerText.includes('window.pwned')")
        assert opened.evaluate("typeof window.pwned") == "undefined"
        assert opened.outside_requests() == []
        assert opened.errors == []
