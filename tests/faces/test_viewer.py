"""The viewer's data and server: what is handed to the page, and to whom."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import backtracking as bt
from backtracking.core.errors import InputError
from backtracking.core.receipts import Receipt
from backtracking.experiments.comparison import run_comparison
from backtracking.experiments.config import Config
from backtracking.experiments.opening import reopen
from backtracking.experiments.traces import load_traces, measure_run, save_traces
from backtracking.faces.commands import app, main
from backtracking.faces.viewer.gallery import build_gallery, gallery_of, to_json
from backtracking.faces.viewer.offsets import first_difference, to_utf16
from backtracking.faces.viewer.page import export_page
from backtracking.faces.viewer.server import ViewerServer
from backtracking.measures.traces import Trace, trace_key
from backtracking.workspace.secrets import SecretError
from tests.faces.traces import ATTACK, EVIL, PROBLEMS, completion, many

NOTHING = ("/../etc/passwd", "/data", "/x//data.json", "/completions/", "/index.html", "/viewer.js.jinja", "/runs")


@pytest.fixture(scope="module")
def gallery():
    receipt = Receipt("mlp.1*0", 9, float("nan"))
    arms = [
        ("arms", completion(EVIL)),
        ("arms", completion(EVIL.replace("Wait", "Well"), condition=f"off {ATTACK}", receipts=(receipt,))),
        ("arms", completion("Final: 7", condition="short")),
        ("arms", completion("Final: 4", problem="p1", sample=1)),
    ]
    return build_gallery(arms, PROBLEMS, title="run <b>")


@pytest.fixture(scope="module")
def server(gallery):
    with ViewerServer(gallery) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(server, path, *, method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(codec=None)))
def test_an_offset_in_utf16_is_the_length_of_what_stands_before_it(text):
    offsets = range(len(text) + 1)
    lengths = [len(text[:offset].encode("utf-16-le", "surrogatepass")) // 2 for offset in offsets]
    assert to_utf16(text, offsets) == lengths


@pytest.mark.parametrize(
    ("left", "right", "place"),
    [((1, 2, 3), (1, 2, 3), None), ((1, 2, 3), (1, 9, 3), 1), ((1, 2), (1, 2, 3), 2), ((), (1,), 0), ((), (), None)],
)
def test_the_first_difference_is_of_ids(left, right, place):
    assert first_difference(left, right) == place
    assert first_difference(right, left) == place


def test_arms_that_read_alike_differ_where_their_ids_do():
    """Two tokens may be written alike; what was sampled decides."""
    one = completion("ab", ids=(1, 2), finish="length")
    other = completion("ab", ids=(1, 3), finish="length", condition="off")
    detail = json.loads(build_gallery([("a", one), ("a", other)], PROBLEMS, title="t").detail_json(0))
    assert detail["twins"] == [[1, 1]]


def test_only_the_same_sample_of_the_same_prompt_is_a_twin(gallery):
    details = [json.loads(gallery.detail_json(number)) for number in range(4)]
    assert [[twin for twin, _ in each["twins"]] for each in details] == [[1, 2], [0, 2], [0, 1], []]
    assert details[0]["twins"][0][1] == EVIL.index("Wait") + 1  # W is common to both words


def test_json_holds_nothing_that_html_could_read_and_says_the_same(gallery):
    for text in (gallery.index_json(), gallery.detail_json(0), to_json({"<&>\u2028\ud800": [ATTACK]})):
        assert text.isascii()
        assert not set("<>&") & set(text)
    detail = json.loads(gallery.detail_json(0))
    assert detail["text"] == EVIL
    assert detail["question"] == PROBLEMS[0].question
    assert detail["gold"] == "7"
    units = EVIL.encode("utf-16-le")
    start, end = detail["answer"]
    assert units[2 * start : 2 * end].decode("utf-16-le") == "7"
    (start, end, token, marker, strict, counts, *_), other = detail["onsets"]
    assert units[2 * start : 2 * end].decode("utf-16-le") == marker == "Wait"
    assert (strict, counts) == (True, True)
    assert EVIL[token] == "W"
    assert other[5:7] == [False, "noun"]
    assert json.loads(gallery.detail_json(1))["receipts"] == [["mlp.1*0", 9, None]]


def test_the_index_says_what_events_and_onsets_say(gallery):
    index = json.loads(gallery.index_json())
    rows = [[index["values"][name][row[place]] for place, name in enumerate(index["names"])] for row in index["rows"]]
    assert [row[1] for row in rows] == ["baseline", f"off {ATTACK}", "short", "baseline"]
    assert [row[4] for row in rows] == ["right"] * 4
    assert [row[6:9] for row in index["rows"]] == [[0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert json.loads(gallery.search_json("FINAL: 4")) == [3]
    assert json.loads(gallery.search_json("")) == [0, 1, 2, 3]


def test_a_trace_is_shown_for_its_own_completion_alone():
    rows = many(2)
    first = rows[0][1]
    lens = np.array([[-3.0, -0.5]])
    count = len(first.ids)
    trace = Trace(trace_key(first), np.full(count, -0.5), np.full(count, -1.0), np.array([3]), lens)
    gallery = build_gallery(rows, PROBLEMS, title="t", traces={trace.key: trace})
    shown, none = (json.loads(gallery.detail_json(number))["trace"] for number in (0, 1))
    assert none is None
    assert shown["lens"] == {"3": [-3.0, -0.5]}
    assert shown["trigger"] == [-0.5] * count


def test_a_completion_of_another_problem_set_is_refused():
    with pytest.raises(InputError, match="'p1' is not among the 1"):
        build_gallery(many(1), PROBLEMS[:1], title="t")


# ---- the server


def test_the_server_answers_on_this_machine_alone(server):
    assert server.socket.getsockname() == ("127.0.0.1", server.server_port)


def test_what_there_is_is_served_and_nothing_else(server, gallery):
    answer, page = ask(server, "/")
    assert (answer.status, answer.getheader("Content-Type")) == (200, "text/html; charset=utf-8")
    assert b"run &lt;b&gt;" in page
    assert ask(server, "/data.json")[1].decode() == gallery.index_json()
    assert ask(server, "/completions/1.json")[1].decode() == gallery.detail_json(1)
    assert json.loads(ask(server, "/search.json?q=final%3A+4")[1]) == [3]
    numbers = ("4", "-1", "x", "", "%31", "0001_")
    for path in (*(f"/completions/{number}.json" for number in numbers), *NOTHING):
        assert ask(server, path)[0].status == 404, path


def test_every_answer_forbids_what_a_page_need_not_do(server):
    for path in ("/", "/data.json", "/nothing"):
        headers = dict(ask(server, path)[0].getheaders())
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_only_get_is_answered(server, method):
    answer, body = ask(server, "/", method=method)
    assert answer.status == 405
    assert answer.getheader("Allow") == "GET"
    assert b"<html" not in body


def test_a_page_of_elsewhere_that_points_its_name_here_gets_nothing(server):
    for host in (
        "evil.example",
        f"evil.example:{server.server_port}",
        "127.0.0.1",
        f"127.0.0.1:{server.server_port}.evil",
    ):
        answer, body = ask(server, "/data.json", host=host)
        assert answer.status == 421, host
        assert b"rows" not in body
    assert ask(server, "/data.json", host=f"localhost:{server.server_port}")[0].status == 200


def test_a_taken_port_is_named(server, gallery):
    with pytest.raises(InputError, match=f"port {server.server_port}"):
        ViewerServer(gallery, port=server.server_port)


# ---- a run, and the command


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_folder):
    """A finished run of the tiny model, in which every completion can be made to have an onset."""
    path = tmp_path_factory.mktemp("view")
    lines = [json.dumps({"id": i, "question": f"a {'b ' * i}c", "gold": str(i)}) for i in range(2)]
    (path / "problems.jsonl").write_text("\n".join(lines))
    config = {
        "run": {"name": "tiny", "output_dir": str(path / "runs")},
        "model": {"hf_id": str(tiny_folder), "device": "cpu"},
        "dataset": {"name": str(path / "problems.jsonl")},
        "prompting": {"template": "{question}"},
        "generation": {"num_samples_per_prompt": 3, "max_new_tokens": 6, "batch_size": 6, "temperature": 2.0},
        "detection": {"triggers_strict": ["Wait", *"abcdefghijklmnopqrstuvwxyz"]},
        "conditions": {"off": ["mlp.1*0@decode"]},
    }
    run_comparison(Config.model_validate(config))
    return path


@pytest.fixture
def command(run, monkeypatch, capsys):
    """The command line inside this process: exit status, standard output and standard error."""

    def call(*arguments):
        monkeypatch.chdir(run)
        monkeypatch.setattr(sys, "argv", ["backtracking", "view", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code or 0, *capsys.readouterr())

    return call


def test_a_config_that_changed_since_the_run_began_is_told_by_view_and_refused_by_analyse(command, run, tmp_path):
    (source,) = (path.parent for path in (run / "runs").glob("*/manifest.json"))
    folder = tmp_path / "mine"
    shutil.copytree(source, folder)
    page, out = tmp_path / "page.html", tmp_path / "analysis"

    def analysed(*arguments):
        return CliRunner().invoke(app, ["analyse", *map(str, arguments), "--out", str(out), "--quiet"])

    assert "warning" not in command(str(folder), "--export", str(page))[2]
    assert analysed(folder).exit_code == 0
    text = (folder / "config.yaml").read_text()
    for changed in (text.replace("- Wait", "- Hold"), text[: text.index("detection:")]):
        (folder / "config.yaml").write_text(changed)
        assert "config.yaml has changed since the run began" in command(str(folder), "--export", str(page))[2]
        assert isinstance(refused := analysed(folder).exception, InputError) and "has changed since" in str(refused)
        given = analysed(folder / "completions", "--problems", folder / "problems.jsonl")
        assert given.exit_code == 0, given.output


def test_a_run_is_measured_once_and_shown(run):
    (folder,) = (path.parent for path in (run / "runs").glob("*/manifest.json"))
    config = Config.model_validate(yaml.safe_load((folder / "config.yaml").read_text()))
    study = reopen(bt.experiments.runs.RunFolder(folder), config)
    completions = list(study.folder.completions())
    first = measure_run(study, completions, most=3)
    again = measure_run(study, completions, most=3)
    more = measure_run(study, completions, most=5)
    assert [(each.new, each.held, each.left_out) for each in (first, again, more)] == [(3, 0, 0), (0, 3, 0), (2, 3, 0)]
    held = load_traces(study.folder)
    save_traces(study.folder, list(held.values()))
    for key, trace in load_traces(study.folder).items():
        np.testing.assert_array_equal(trace.lens, held[key].lens)
        assert trace.lens.shape == (len(trace.lens_tokens), 3)
    details = [json.loads(gallery_of(study).detail_json(number)) for number in range(12)]
    assert sum(each["trace"] is not None for each in details) == 5
    assert gallery_of(study, conditions=["off"]).entries[0].completion.condition == "off"
    with pytest.raises(InputError, match="it has 'baseline', 'off'"):
        gallery_of(study, conditions=["of"])
    with pytest.raises(InputError, match="at least 1"):
        measure_run(study, completions, most=0)


def test_the_command_exports_and_refuses_in_one_line(run, command):
    status, out, _ = command("--export", "page.html", "--condition", "off", "--measure", "1")
    assert status == 0
    assert "page.html (6 completions" in out
    assert (run / "page.html").read_text().count('id="completion-') == 6
    (run_id,) = (path.name for path in (run / "runs").iterdir() if path.is_dir())
    status, _, errors = command("absent")
    assert (status, errors.count("\n")) == (2, 1)
    assert "absent is no run" in errors
    for wrong in (
        ("--condition", "of"),
        ("--condition", "of", "--measure", "2"),
        ("--measure", "-1"),
        ("--port", "99999"),
    ):
        assert command(run_id, *wrong, "--export", "x.html")[0] == 2, wrong
    assert not (run / "x.html").exists()


def test_a_run_that_another_process_works_on_can_be_looked_at(run, command):
    from backtracking.experiments.run_list import current_run

    held = current_run(run / "runs").hold()
    assert command("--export", "held.html")[0] == 0
    held.release()


def test_the_command_serves_until_it_is_interrupted(run):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "backtracking.cli", "view"],
        cwd=run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    if "http" not in line:
        raise AssertionError((line, *process.communicate(timeout=30)))
    port = int(line.split("http://127.0.0.1:")[1].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/data.json")
    assert len(json.loads(connection.getresponse().read())["rows"]) == 12
    connection.close()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert errors == "viewer ended\n"


def test_an_export_is_whole_or_not_there(gallery, tmp_path):
    page = export_page(gallery, tmp_path / "new" / "page.html").read_text()
    assert page.count("<script") == 1 + 1 + 4  # the script, the index and four completions
    assert ATTACK not in page
    assert "<script>window.pwned" not in page


def test_a_page_for_others_is_refused_where_a_completion_holds_a_secret(gallery, tmp_path):
    first = gallery.entries[0]
    leak = replace(first, completion=replace(first.completion, text="use hf_" + "aB3d" * 9))
    with pytest.raises(SecretError, match="hf token; choose completions without it"):
        export_page(replace(gallery, entries=(leak, *gallery.entries[1:])), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
