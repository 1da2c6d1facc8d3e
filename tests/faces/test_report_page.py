"""The page of a report: one file, no network, every figure drawn, readable by all, narrow or wide, light or dark."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from backtracking.core.completions import Completions
from backtracking.experiments.comparison import run_comparison
from backtracking.experiments.config import Config, load_config
from backtracking.faces.comparison_report import compose
from backtracking.faces.methods import phase_methods
from backtracking.faces.report import write_pages
from backtracking.faces.report_content import Grid
from backtracking.faces.run_figures import figures_of_run
from tests.browser import chromium, needs_chromium
from tests.faces import tables

TEXT = f"{tables.EVIL} 🙂 \u202eright to left\u202c {'long ' * 2000}"


@pytest.fixture(scope="module")
def page(tmp_path_factory, tiny_folder):
    """A report with every kind of figure, a long table, and text that a page must not run."""
    path = tmp_path_factory.mktemp("page")
    lines = [json.dumps({"id": i, "question": f"a {'b ' * i}c", "gold": str(i)}) for i in range(3)]
    (path / "problems.jsonl").write_text("\n".join(lines))
    config = {
        "run": {"name": "page", "output_dir": str(path / "runs")},
        "model": {"hf_id": str(tiny_folder), "device": "cpu"},
        "dataset": {"name": str(path / "problems.jsonl")},
        "generation": {"num_samples_per_prompt": 2, "max_new_tokens": 5, "batch_size": 6, "temperature": 2.0},
        "conditions": {tables.EVIL: ["mlp.1*0@decode"]},
    }
    result = run_comparison(Config.model_validate(config))
    report = compose(replace(result, completions=Completions(replace(row, text=TEXT) for row in result.completions)))
    many = Grid("Many rows", "A long table.", ("a", "b"), tuple((str(n), tables.EVIL) for n in range(40)))
    report = replace(report, grids=(*report.grids, many), methods=phase_methods(result.config))
    folder = tables.run_folder(path / "made-up")
    return write_pages(
        report, lambda theme: figures_of_run(folder, example=(tables.strip(), 6), theme=theme), result.folder.path
    )


class Elements(HTMLParser):
    """The elements of a page, their addresses, ids and heading texts; a script's text is not looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        self.ids += [str(value) for name, value in attrs if name == "id"]


def test_the_page_refers_to_nothing_outside_itself_and_is_small(page):
    text = page[1].read_text()
    assert page[1].stat().st_size <= 6_000_000
    elements = Elements()
    elements.feed(text)
    assert elements.addresses
    assert [address for address in elements.addresses if not address.startswith(("#", "data:"))] == []
    assert "default-src 'none'" in text
    assert len(elements.ids) == len(set(elements.ids))
    assert {address[1:] for address in elements.addresses if address.startswith("#")} <= set(elements.ids)
    assert text.count("plotly.js v") == text.count("<script>/**")


def test_page_and_markdown_show_the_same_sections_in_order(page):
    markdown, text = page[0].read_text(), page[1].read_text()
    sections = ("Figures", "Tables", "Methods", "What this rests on", "Examples")
    grids = ("Conditions", "Against the baseline", "Triggers found", "Self-check of the model", "Receipts",
             "Grading ledger", "Provenance")  # fmt: skip
    for names, mark, tag in ((sections, "## ", "h2"), (grids, "### ", "h3")):
        assert re.findall(rf"^{mark}({'|'.join(names)})$", markdown, flags=re.MULTILINE) == list(names)
        assert re.findall(rf"<{tag}[^>]*>({'|'.join(names)})</{tag}>", text) == list(names)
    for name in tables.FIGURES:
        assert f"figures/{name}.html" in markdown
    assert "seed 0, problem, sample and position" in markdown
    assert "Holm" in markdown


def test_a_long_table_is_folded_and_a_short_one_is_not(page):
    text = page[1].read_text()
    assert "<summary>40 rows</summary>" in text
    assert text.count("<details>") == text.count(" rows</summary>") + 1
    assert "<summary>2 rows" not in text


def test_methods_name_the_parameters_of_the_run():
    said = " ".join(phase_methods(load_config("configs/demo.yaml")))
    for value in ("seed 42", "4 completions per problem", "temperature 0.7", "20 sets of sites", "up to 80 first",
                  "−5 points", "every attention head", "0.05 nats"):  # fmt: skip
        assert value in said


@needs_chromium
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_without_network_draws_every_figure_and_complains_of_nothing(page, width):
    with chromium() as browser:
        opened = browser.open(page[1].as_uri(), width=width)
        assert (
            opened.evaluate("[...document.querySelectorAll('.plot')].filter(p => p.querySelector('.main-svg')).length")
            == 13
        )
        assert opened.evaluate("document.querySelectorAll('.plot .main-svg').length") >= 13
        # The text of a model is text: nothing of it became an element.
        assert opened.evaluate("[...document.scripts].filter(s => s.textContent.startsWith('alert')).length") == 0
        assert opened.evaluate("document.querySelector('pre').textContent") == TEXT
        assert opened.evaluate("document.querySelectorAll('table b, li b, pre b').length") == 0
        assert not opened.overflows()
        opened.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert opened.serious_violations() == []
        assert opened.errors == []
        assert opened.outside_requests() == []


@needs_chromium
def test_page_and_figures_follow_the_readers_dark_mode(page):
    ground = "getComputedStyle(document.body).backgroundColor"
    paper = "document.querySelector('.plot')._fullLayout.paper_bgcolor"
    with chromium() as browser:
        opened = browser.open(page[1].as_uri(), width=400, dark=True)
        assert (opened.evaluate(ground), opened.evaluate(paper)) == ("rgb(13, 17, 23)", "#0d1117")
        assert opened.serious_violations() == []
        shown = "[...document.querySelector('#figure-rates-by-condition .plot').data[0].x]"
        before = opened.evaluate(shown)
        light = [{"name": "prefers-color-scheme", "value": "light"}]
        opened.send("Emulation.setEmulatedMedia", features=light)
        opened.wait_for(f"{paper} === '#ffffff'")
        assert opened.evaluate(ground) == "rgb(255, 255, 255)"
        assert opened.evaluate(shown) == before
        assert opened.errors == []
