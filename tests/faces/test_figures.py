"""Figures carry the numbers of their table, say n and interval, and escape what others wrote."""

import inspect
import json
import logging
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from backtracking.core.errors import InputError
from backtracking.faces import figures as draw
from backtracking.faces.figures import saving
from backtracking.faces.figures.style import palette
from backtracking.faces.run_figures import figures_of_run, find_run
from backtracking.measures.onset_positions import onset_positions
from tests.browser import needs_chromium
from tests.faces import tables


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tables.run_folder(tmp_path_factory.mktemp("runs") / "made-up")


@pytest.fixture(scope="module", params=["light", "dark"])
def every(request, folder):
    return figures_of_run(folder, example=(tables.strip(), 6), theme=request.param)


def interval_of(trace, axis: str) -> tuple[np.ndarray, np.ndarray]:
    values, bars = np.array(trace[axis]), trace[f"error_{axis}"]
    return values - np.array(bars["arrayminus"]), values + np.array(bars["array"])


def assert_carries(trace, table, columns: dict[str, str], *, scale: float = 100.0) -> None:
    for axis, name in columns.items():
        np.testing.assert_allclose(trace[axis], scale * table[name])
        low, high = interval_of(trace, axis)
        np.testing.assert_allclose(low, scale * table[f"{name}_low"])
        np.testing.assert_allclose(high, scale * table[f"{name}_high"])


def test_every_table_of_a_run_has_its_figure(every):
    assert set(every) == tables.FIGURES


def test_captions_say_model_n_and_the_kind_of_interval(every):
    numbers = {"ablation_scan": "n = 80 onsets of 50", "logit_lens": "n = 80 onsets and 79 controls",
               "token_strip": "n = 1 completion of 13", "onset_positions": "n = 30 first onsets",
               "answer_flows": "completions with an onset", "formatting": "n = 240 completions of 60 problems",
               "rates_by_condition": "n = 240 completions of 60 problems"}  # fmt: skip
    for name, figure in every.items():
        caption = figure.layout.meta["caption"]
        assert caption.startswith("made-up <model>; "), name
        assert numbers.get(name, "n = 240 pairs") in caption, name
        assert re.search(
            r"95 % intervals clustered by problem|no interval|intervals in the table|tests clustered", caption
        )
        assert "&lt;model&gt;" in figure.layout.title.text


def test_titles_and_captions_are_wrapped_for_a_narrow_window(every):
    for figure in every.values():
        for line in figure.layout.title.text.split("<br>"):
            assert len(re.sub(r"</?sub>|&\w+;", "", line)) <= 58


def test_the_two_themes_differ_in_colour_and_in_nothing_that_was_measured(folder):
    light, dark = (figures_of_run(folder, example=(tables.strip(), 6), theme=theme) for theme in ("light", "dark"))
    for name in light:
        pair = [json.loads(figure.to_json()) for figure in (light[name], dark[name])]
        assert pair[0]["layout"]["template"] != pair[1]["layout"]["template"]
        for first, second in zip(pair[0]["data"], pair[1]["data"], strict=True):
            for key in ("x", "y", "z", "error_x", "error_y", "base", "text", "customdata"):
                strip = [{k: v for k, v in each[key].items() if k != "color"} if isinstance(each.get(key), dict)
                         else each.get(key) for each in (first, second)]  # fmt: skip
                assert strip[0] == strip[1], (name, key)


def test_rates_and_differences_are_those_of_the_table():
    table = tables.conditions()
    backtracking, right = draw.rates_by_condition(table).data
    assert_carries(backtracking, table, {"x": "backtracking"})
    assert_carries(right, table, {"x": "right"})
    table = tables.paired()
    figure = draw.paired_differences(table)
    for trace, name in zip(figure.data, ("backtracking", "accuracy"), strict=True):
        assert_carries(trace, table, {"x": name})
        filled = [colour == trace.marker.line.color for colour in trace.marker.color]
        assert filled == (table[f"{name}_p_holm"] <= 0.05).tolist()
    assert [shape.x0 for shape in figure.layout.shapes] == [0, -5.0]


def test_the_scan_shows_each_cell_once_with_a_star_where_q_is_small():
    figure = draw.scan_by_layer(tables.scan())
    cells = figure.data[0]
    assert list(cells.y) == ["attn", "mlp", "head 3"]
    assert [list(line) for line in cells.z] == [[-0.5, -2.0], [0.25, 0.0], [None, -1.5]]
    assert [["★" in mark for mark in line] for line in cells.text] == [[False, True], [True, False], [False, True]]
    assert cells.zmax == -cells.zmin == 2.0


def test_the_attribution_shows_layers_and_heads_with_a_star_where_q_is_small():
    cells = draw.attribution_by_layer(tables.attribution()).data[0]
    assert list(cells.y) == ["attn", "mlp", "head 0"]
    assert [list(line) for line in cells.z] == [[-0.25, 1.5], [0.0, -3.0], [-0.5, 1.25]]
    assert [["★" in mark for mark in line] for line in cells.text] == [[False, True], [False, True], [False, False]]
    assert cells.zmax == -cells.zmin == 3.0


def test_an_attribution_without_controls_is_drawn_empty():
    table = tables.attribution().assign(difference=float("nan"), q=float("nan"), pairs=0)
    cells = draw.attribution_by_layer(table).data[0]
    assert {value for line in cells.z for value in line} == {None}


def test_lens_curves_and_bands_are_those_of_the_table():
    table = tables.lens()
    band, curve, control_band, control = draw.lens_by_layer(table).data
    for trace, around, name in ((curve, band, "event"), (control, control_band, "control")):
        np.testing.assert_array_equal(trace.y, table[name])
        np.testing.assert_array_equal(around.y[:6], table[f"{name}_high"])
        np.testing.assert_array_equal(around.y[6:], table[f"{name}_low"][::-1])


def test_the_trade_off_shades_what_is_above_the_margin_and_tells_verdicts_apart():
    table = tables.trade()
    figure = draw.tradeoff_plane(table)
    traces = {trace.name: trace for trace in figure.data if trace.name}
    assert list(traces) == ["non-inferior", "undecided", "inferior", "flagged"]
    assert len({trace.marker.symbol for trace in traces.values()}) == 4
    for verdict, trace in traces.items():
        rows = table[table["non_inferior"] == verdict]
        assert_carries(trace, rows, {"x": "reduction", "y": "accuracy"})
    region = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    assert region.y0 == -5.0
    assert region.y1 >= 100 * table["accuracy_high"].max()
    targeted = next(t for t in draw.targeted_among_random(tables.random_draws()).data if "selected" in t.name)
    assert_carries(targeted, tables.random_draws().iloc[:1], {"x": "backtracking", "y": "accuracy"})


def test_answer_flows_add_up_to_100_and_show_no_bar_where_there_was_no_onset():
    figure = draw.answer_flows(tables.flows())
    assert sum(len(trace.x) for trace in figure.data) == 3 * 6
    totals = np.zeros(3)
    for trace in figure.data:
        totals[list(trace.y)] += trace.x
    np.testing.assert_allclose(totals, 100)
    fixed = figure.data[0]
    np.testing.assert_allclose(fixed.x, [40, 50, 0])
    assert "n = 10" in figure.layout.yaxis.ticktext[0]


def test_rows_are_as_high_as_the_longest_label():
    table = tables.flows()
    heights = []
    for name in ("ban", "targeted ablation of all the selected sites"):
        renamed = table.assign(condition=table["condition"].replace({"baseline": name}))
        figure = draw.answer_flows(renamed.loc[renamed["condition"] == name])
        lines = max(label.count("<br>") + 1 for label in figure.layout.yaxis.ticktext)
        rows = len(figure.layout.yaxis.ticktext)
        room = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b - 40
        assert room / rows >= 16 * lines
        heights.append(room)
    assert heights[1] > heights[0]


def test_event_positions_show_every_onset_at_its_share():
    found = onset_positions(tables.events())
    figure = draw.event_positions(found)
    for trace, group in zip(figure.data, found.groups, strict=True):
        np.testing.assert_allclose(trace.x, [100 * onset.share for onset in group.onsets])
    assert figure.layout.yaxis.ticktext[2] == "ban<br>10 of 20"


def test_the_onsets_of_a_run_are_listed_as_its_other_figures_list_the_conditions(tmp_path):
    folder = tables.run_folder(tmp_path / "run")
    file = folder.path / "events.parquet"
    pd.read_parquet(file).iloc[::-1].to_parquet(file)
    figures = figures_of_run(folder)
    listed = [label.rpartition("<br>")[0] for label in figures["onset_positions"].layout.yaxis.ticktext]
    assert listed == list(figures["rates_by_condition"].layout.yaxis.ticktext)
    assert listed[0] == "baseline"


def test_the_token_strip_shows_every_token_in_order_and_frames_the_onset():
    read = tables.strip()
    bars, text = draw.token_strip(read, onset=6).data
    np.testing.assert_allclose(bars.marker.color, read.probability)
    shown = "".join(text.text).replace("\u00a0", " ").replace("&lt;", "<").replace("&gt;", ">")
    assert shown == "".join(read.tokens).replace("\n", "↵") + "∎"
    assert [index for index, width in enumerate(bars.marker.line.width) if width > 1] == [6]
    ends = np.array(bars.base) + np.array(bars.x)
    assert max(ends) <= 50
    part = draw.token_strip(read, onset=6, around=4)
    assert len(part.data[0].x) == 4
    assert "tokens 4 to 7 of 13" in part.layout.meta["caption"]


def test_what_others_wrote_is_never_markup(every):
    for name, figure in every.items():
        figure = go.Figure(figure)
        figure.layout.meta = None
        text = figure.to_json()
        assert "<script" not in text, name
        assert "\\u003cscript" not in text, name
        assert "<model>" not in text, name


def test_an_unknown_theme_and_an_unknown_run_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="no theme 'sepia'"):
        inspect.unwrap(palette)("sepia")
    with pytest.raises(InputError, match="no run 'absent'"):
        find_run("absent", tmp_path)
    assert find_run("made-up", folder.path.parent).path == folder.path


def test_pages_share_one_plotly_and_the_json_reads_back(tmp_path, every):
    written = draw.save_figures(every, tmp_path, formats=("html", "json"))
    assert len(written) == 2 * len(every)
    page = (tmp_path / "logit_lens.html").read_text()
    assert 'src="plotly.min.js"' in page
    assert len(page) < 100_000
    assert (tmp_path / "plotly.min.js").stat().st_size > 1_000_000
    assert go.Figure(json.loads((tmp_path / "logit_lens.json").read_text())) == every["logit_lens"]


def test_without_a_chrome_that_is_said_once_and_the_rest_is_written(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-such-browser"))
    saving._say_once.cache_clear()
    figure = draw.lens_by_layer(tables.lens())
    with caplog.at_level(logging.WARNING, "backtracking.figures"):
        for name in ("one", "two"):
            written = draw.save_figure(figure, tmp_path, name)
            assert {path.name for path in written} == {f"{name}.html", f"{name}.json"}
    assert len(caplog.records) == 1
    assert "no SVG or PNG" in caplog.text


@needs_chromium
def test_pictures_are_drawn_by_one_chrome_for_all(tmp_path, folder):
    figures = figures_of_run(folder, example=(tables.strip(), 6))
    some = {name: figures[name] for name in ("token_strip", "tradeoff")}
    written = draw.save_figures(some, tmp_path, formats=("svg", "png"))
    assert {path.name for path in written} == {f"{name}.{kind}" for name in some for kind in ("svg", "png")}
    picture = ElementTree.parse(tmp_path / "tradeoff.svg").getroot()
    assert picture.get("width") == "760"
    assert ElementTree.parse(tmp_path / "token_strip.svg").getroot().get("width") == "560"
    assert "What less backtracking costs" in (tmp_path / "tradeoff.svg").read_text()
    assert (tmp_path / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
