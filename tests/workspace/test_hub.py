"""Fetching from a Hub on localhost that refuses, cuts, stalls, lies and asks to wait."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

from backtracking.core.errors import InputError
from backtracking.workspace import hub as hub_module
from backtracking.workspace.hub import fetch_model
from tests.hub_server import SHA, Fault, hub_server

FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": bytes(range(256)) * 4000,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"a pickle",
    "onnx/model.safetensors": b"another format",
}
TAKEN = ("config.json", "model.safetensors", "tokenizer.json")
TOKEN = "hf_" + "a" * 34


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with one model; this process's settings point to it and to an empty cache."""
    with hub_server() as server:
        server.models["us/tiny"] = dict(FILES)
        for name, value in {
            "ENDPOINT": server.address, "HF_HUB_OFFLINE": False,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": True, "DOWNLOAD_CHUNK_SIZE": 1000,
            "HF_HUB_DOWNLOAD_TIMEOUT": 0.4, "HF_TOKEN_PATH": str(tmp_path / "token"),
        }.items():  # fmt: skip
            monkeypatch.setattr(constants, name, value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        huggingface_hub.utils.disable_progress_bars()
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()


@pytest.fixture
def naps(monkeypatch):
    """The waits of this library and of huggingface_hub, which take no time."""
    found = []
    clock = SimpleNamespace(sleep=found.append, time=lambda: 0.0, perf_counter=lambda: 0.0)
    monkeypatch.setattr(hub_module, "time", clock)
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)
    monkeypatch.setattr("huggingface_hub.file_download.time", clock)
    return found


def refused(hub, fault, *, name="us/tiny"):
    """The one line that a fault ends in."""
    hub.faults["us/tiny"] = fault
    with pytest.raises(InputError) as caught:
        fetch_model(name)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    return str(caught.value)


def test_a_model_is_pinned_to_a_commit_and_no_pickle_comes_with_it(hub, tmp_path):
    found = fetch_model("us/tiny")
    assert (found.revision, found.files, found.checked, found.mended) == (SHA, TAKEN, True, ())
    assert {path.name: path.read_bytes() for path in found.folder.iterdir()} == {name: FILES[name] for name in TAKEN}
    assert found.size == sum(len(FILES[name]) for name in TAKEN)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.read_bytes() == b"a pickle"]


def test_offline_finds_what_is_whole_and_asks_nobody(hub):
    with pytest.raises(InputError, match="not whole in the local cache.*run backtracking fetch model us/tiny"):
        fetch_model("us/tiny", offline=True)
    fetched = fetch_model("us/tiny")
    hub.requests.clear()
    found = fetch_model("us/tiny", offline=True)
    assert (found.folder, found.files, found.checked) == (fetched.folder, fetched.files, False)
    assert hub.requests == []
    (found.folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="not whole"):
        fetch_model("us/tiny", offline=True)


def test_a_file_that_is_whole_is_not_fetched_again(hub):
    folder = fetch_model("us/tiny").folder
    (folder / "tokenizer.json").unlink()
    hub.requests.clear()
    fetch_model("us/tiny")
    bodies = [path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]
    assert bodies == [] or all(path.endswith("tokenizer.json") for path in bodies)
    assert (folder / "tokenizer.json").read_bytes() == FILES["tokenizer.json"]


def test_a_gated_model_names_its_page_and_whether_a_token_was_sent(hub, monkeypatch):
    gate = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"no access for {TOKEN}"}
    for status in (401, 403):
        message = refused(hub, Fault("status", status=status, headers=gate))
        assert f"{status}, no token was sent" in message
        assert f"accept its terms at {hub.address}/us/tiny, then set HF_TOKEN" in message
        assert not any("authorization" in {key.lower() for key in headers} for _, _, headers in hub.requests)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    message = refused(hub, Fault("status", status=403, headers=gate))
    assert "a token was sent" in message
    assert any(headers.get("authorization") == f"Bearer {TOKEN}" for _, _, headers in hub.requests)


def test_a_refused_token_is_said_and_never_shown(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    headers = {"X-Error-Message": "Invalid credentials in Authorization header"}
    message = refused(hub, Fault("status", status=401, headers=headers))
    assert "the token that was sent is refused (401)" in message
    assert "/settings/tokens" in message


def test_an_unknown_model_gets_the_nearest_name_and_an_unknown_revision_its_page(hub):
    with pytest.raises(InputError, match=r"knows no model us/tinny \(404, no token was sent\).*did you mean us/tiny\?"):
        fetch_model("us/tinny")
    with pytest.raises(InputError, match="has no revision 'v9'; its branches and commits are at .*/us/tiny/tree/main"):
        fetch_model("us/tiny", revision="v9")
    with pytest.raises(InputError, match="'a/b/c' is no name on the Hub"):
        fetch_model("a/b/c")
    assert fetch_model("us/tiny", revision="v1").revision == SHA


def test_a_model_without_safetensors_is_refused(hub):
    hub.models["us/tiny"] = {"config.json": b"{}", "pytorch_model.bin": b"a pickle"}
    assert "has no safetensors" in refused(hub, Fault("status", times=0))
    hub.models["us/tiny"] = {"pytorch_model.bin": b"a pickle"}
    assert "holds none of *.safetensors" in refused(hub, Fault("status", times=0))


@pytest.mark.parametrize("where", ["api", "body"])
def test_a_wait_that_the_hub_asks_for_is_kept(hub, naps, where):
    hub.faults["us/tiny"] = Fault("status", times=2, where=where, status=429, headers={"Retry-After": "7"})
    assert fetch_model("us/tiny").files == TAKEN
    wait = 7.0 if where == "api" else 8.0  # huggingface_hub adds a second
    assert naps == [wait, wait]


def test_a_wait_beyond_the_limit_is_refused_at_once(hub, naps):
    for where in ("api", "body"):
        message = refused(hub, Fault("status", where=where, status=429, headers={"Retry-After": "3600"}))
        assert "asks to wait 3600 s" in message
        assert "more than the 120 s this command waits" in message
        assert "HF_TOKEN allows more requests" in message
    assert naps == []
    message = refused(hub, Fault("status", where="api", status=429, headers={"RateLimit": '"api";r=0;t=900'}))
    assert "asks to wait 900 s" in message


def test_waits_add_up_to_the_limit(hub, naps):
    message = refused(hub, Fault("status", where="api", status=429, headers={"Retry-After": "50"}))
    assert "asks to wait 50 s" in message
    assert naps == [50.0, 50.0]


def test_a_cut_connection_is_taken_up_where_it_broke(hub, naps):
    hub.faults["us/tiny"] = Fault("cut", times=3)
    found = fetch_model("us/tiny")
    assert (found.folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    size = len(FILES["model.safetensors"])
    assert hub.ranges() == [f"bytes={size // 2}-", f"bytes={size * 3 // 4}-", f"bytes={size * 7 // 8}-"]


def test_a_slow_hub_is_waited_for_and_a_silent_one_is_named(hub, naps):
    hub.faults["us/tiny"] = Fault("trickle", times=1, seconds=0.2)
    assert fetch_model("us/tiny").files == TAKEN
    shutil.rmtree(constants.HF_HUB_CACHE)
    message = refused(hub, Fault("stall", seconds=0.6))
    assert "was silent for 0.4 s" in message
    assert "raise HF_HUB_DOWNLOAD_TIMEOUT" in message


def test_a_wrong_checksum_is_fetched_again_once(hub):
    hub.faults["us/tiny"] = Fault("corrupt", times=1)
    with pytest.warns(UserWarning, match="wrong checksum, fetched again: model.safetensors"):
        found = fetch_model("us/tiny")
    assert found.mended == ("model.safetensors",)
    assert (found.folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_checksum_that_stays_wrong_leaves_no_file(hub, tmp_path):
    with pytest.warns(UserWarning, match="wrong checksum"):
        message = refused(hub, Fault("corrupt"))
    assert "wrong, also when fetched again; the file was removed" in message
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    assert max(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()) < 10_000


def test_a_damaged_file_of_the_cache_is_mended(hub):
    folder = fetch_model("us/tiny").folder
    (folder / "model.safetensors").resolve().write_bytes(b"x" * len(FILES["model.safetensors"]))
    with pytest.warns(UserWarning, match="wrong checksum"):
        fetch_model("us/tiny")
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_too_little_space_is_said_before_anything_is_fetched(hub, monkeypatch):
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    message = refused(hub, Fault("status", times=0))
    assert "needs 0.00 GiB more at" in message
    assert "set HF_HOME to a folder on another disk" in message
    assert not [path for _, path, _ in hub.requests if "/resolve/" in path]


def test_a_disk_that_fills_up_is_said(hub, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    assert "the disk is full at" in refused(hub, Fault("status", times=0))


def test_no_network_and_a_hub_that_breaks_down_are_told_apart(hub, monkeypatch, naps):
    assert "the Hub answers 503" in refused(hub, Fault("status", status=503))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the connection to the Hub at http://127.0.0.1:9 failed" in refused(hub, Fault("status", times=0))
    monkeypatch.setattr(constants, "ENDPOINT", "nonsense")
    assert "HF_ENDPOINT is 'nonsense'" in refused(hub, Fault("status", times=0))


def test_the_command_works_through_the_endpoint_of_the_environment(hub, tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"question": ["One and one?", "Two and two?"], "answer": ["1+1\n#### 2", "2+2\n#### 4"]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    card = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: main/test-*\n---\n"
    hub.datasets["openai/gsm8k"] = {
        "README.md": card.encode(), "main/test-00000.parquet": (tmp_path / "t.parquet").read_bytes()
    }  # fmt: skip
    hub.faults["us/gated"] = Fault("status", status=403, headers={"X-Error-Code": "GatedRepo"})
    code = (
        "import sys\nfrom backtracking.faces.commands import app\nfrom backtracking.core.errors import InputError\n"
        "for line in sys.stdin.read().splitlines():\n    try:\n        app(line.split(), standalone_mode=False)\n"
        "    except InputError as error:\n        print('INPUT', error)\n"
    )
    lines = ("dataset gsm8k", "dataset gsm8k --offline", "dataset gsm8k --split train", "model us/tiny",
             "model us/tiny --offline", "model us/gated")  # fmt: skip
    environment = os.environ | {
        "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], input="\n".join(f"fetch {line}" for line in lines), env=environment,
        cwd=tmp_path, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "2 problems at data/processed/gsm8k.jsonl"
    assert said[2] == said[0]
    assert "INPUT cannot read configuration 'main' and split 'train'" in said[4]
    assert said[6].startswith(f"commit {SHA}; checksums agree")
    assert said[9].startswith(f"commit {SHA}; offline")
    assert said[11].startswith("INPUT the model us/gated is gated (403, a token was sent)")
    assert TOKEN not in done.stdout + done.stderr
    file = tmp_path / "data" / "processed" / "gsm8k.jsonl"
    assert [json.loads(line)["gold"] for line in file.read_text().splitlines()] == ["2", "4"]
    source = json.loads(file.with_name("gsm8k.jsonl.source.json").read_text())
    assert (source["source"], source["revision"], source["problems"]) == ("openai/gsm8k", SHA, 2)
    assert source["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
