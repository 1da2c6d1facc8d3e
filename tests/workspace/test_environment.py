"""Caches lie inside the project, `.env` is read, and what is set already stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backtracking.workspace import environment
from backtracking.workspace.environment import CACHES, prepare_environment
from backtracking.workspace.paths import project_root

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clean(monkeypatch):
    """No cache variable is set, no library that reads them counts as loaded, and all is put back."""
    for name in (*CACHES, "HF_TOKEN_PATH", "SOME_VALUE"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setattr(environment, "_READS_AT_IMPORT", {})


def test_caches_point_into_the_nearest_project(tmp_path, clean, monkeypatch):
    inner = tmp_path / "project" / "deep" / "er"
    inner.mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").touch()
    monkeypatch.setenv("WANDB_DIR", "/somewhere/else")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "token").write_text("a login")
    found = prepare_environment(inner)
    assert found.root == tmp_path / "project" == project_root(inner)
    assert found.set_here == ("HF_HOME", "TORCH_HOME", "MPLCONFIGDIR")
    assert os.environ["HF_HOME"] == str(tmp_path / "project" / ".cache" / "huggingface")
    assert Path(os.environ["TORCH_HOME"]).is_dir()
    assert os.environ["WANDB_DIR"] == "/somewhere/else"
    assert os.environ["HF_TOKEN_PATH"] == str(tmp_path / ".cache" / "huggingface" / "token"), "a login stays valid"


def test_the_env_file_is_read_and_never_wins(tmp_path, clean, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "of the shell")
    (tmp_path / ".env").write_text("HF_TOKEN=of the file\nSOME_VALUE=7\nTORCH_HOME=/given\n")
    found = prepare_environment(tmp_path)
    assert found.env_file == tmp_path / ".env"
    assert (os.environ["HF_TOKEN"], os.environ["SOME_VALUE"]) == ("of the shell", "7")
    assert os.environ["TORCH_HOME"] == "/given" and "TORCH_HOME" not in found.set_here


def test_a_library_that_is_loaded_already_is_named_and_left_alone(tmp_path, clean, monkeypatch):
    monkeypatch.setattr(environment, "_READS_AT_IMPORT", {"HF_HOME": "json"})
    (tmp_path / ".env").touch()
    found = prepare_environment(tmp_path)
    assert found.too_late == ("HF_HOME",) and "HF_HOME" not in os.environ


def test_importing_the_package_sets_nothing_and_loads_nothing_heavy(tmp_path):
    (tmp_path / ".env").write_text("SOME_VALUE=7\n")
    code = (
        "import os, sys; before = dict(os.environ); import backtracking as bt; assert dict(os.environ) == before; "
        "assert 'torch' not in sys.modules; bt.prepare_environment(); assert os.environ['SOME_VALUE'] == '7'; "
        "assert 'huggingface_hub' not in sys.modules; print(bt.prepare_environment().root)"
    )
    kept = {name: value for name, value in os.environ.items() if name not in CACHES} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=kept, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path), done.stderr
    assert (tmp_path / ".cache" / "huggingface").is_dir()


def test_every_public_name_is_where_the_stub_says():
    import backtracking

    assert len(backtracking.__all__) > 80
    for name in backtracking.__all__:
        assert getattr(backtracking, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'smaple'"):
        _ = backtracking.smaple
