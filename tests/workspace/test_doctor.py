"""The doctor names what is amiss, with a remedy, and shows no secret; torch need not be there."""

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backtracking.workspace import machine_checks, package_checks
from backtracking.workspace.doctor import examine
from backtracking.workspace.machine_checks import machine_findings
from backtracking.workspace.package_checks import package_findings
from backtracking.workspace.project_checks import project_findings

ROOT = Path(__file__).parents[2]
TOKEN = "ghp_" + "aB3d" * 9


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, capture_output=True)


def by_name(findings) -> dict:
    return {finding.what: finding for finding in findings}


def test_a_healthy_checkout_has_nothing_bad(project):
    git("init", "-q")
    found = by_name(project_findings(project))
    assert {finding.verdict for finding in found.values()} <= {"ok", "note"}
    assert found[".env"].verdict == "ok"
    assert found["remote"].value == "none"
    assert "git remote add" in found["remote"].remedy


def test_what_is_amiss_in_a_checkout_is_named_and_no_value_shown(project):
    git("init", "-q")
    (project / "notes.txt").write_text(f"one\n{TOKEN}\n")
    git("add", "-f", "notes.txt", ".env")
    git("remote", "add", "origin", f"https://me:{TOKEN}@example.com/x.git")
    found = by_name(project_findings(project))
    assert found["secrets"].verdict == "bad" and "notes.txt:2: github token" in found["secrets"].value
    assert found["remote"].verdict == "bad" and "set-url" in found["remote"].remedy
    assert found[".env"].verdict == "bad" and "rm --cached" in found[".env"].remedy
    git("rm", "--cached", "-q", ".env")
    (project / ".env").chmod(0o644)
    again = by_name(project_findings(project))
    assert again[".env"].value == "others can read it (mode 644)" and again[".env"].remedy.startswith("chmod 600")
    assert TOKEN not in repr(found) + repr(again)


def test_a_token_is_present_or_not_and_never_shown(project, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    found = by_name(project_findings(project))
    assert (found["GITHUB_TOKEN"].value, found["HF_TOKEN"].value) == ("present", "not set")
    assert found["git"].value.endswith("is in no git checkout")
    assert TOKEN not in repr(found)


def test_without_torch_the_doctor_says_so(project, monkeypatch):
    load, version = importlib.import_module, importlib.metadata.version

    def without_torch(name, *rest):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'")
        return load(name, *rest)

    def no_version(name):
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(machine_checks.importlib, "import_module", without_torch)
    monkeypatch.setattr(package_checks.metadata, "version", no_version)
    found = by_name(examine(project))
    assert (found["torch"].verdict, found["torch"].value, found["torch"].remedy) == ("bad", "missing", "run make setup")
    assert found["torch build"].verdict == "bad"
    assert found["memory"].verdict in ("ok", "bad")


def test_the_command_line_starts_where_torch_cannot_be_imported(project):
    """A torch that fails on import stands before the real one."""
    (project / "torch.py").write_text("raise ImportError('no torch on this machine')\n")
    path = f"{project}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "-m", "backtracking.cli", "doctor", "--json"],
        cwd=project, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    found = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 1
    assert "no torch on this machine" in found["torch build"]["value"]
    assert found["Python"]["verdict"] == "ok"


def test_versions_are_held_against_the_lock(project, monkeypatch):
    lines = [
        "numpy==0.0.1 \\",
        "    --hash=sha256:00",
        f"pandas=={importlib.metadata.version('pandas')}",
        "no-such-thing==1",
    ]
    lines.append("other==2 ; sys_platform == 'nowhere'")
    (project / "requirements.lock").write_text("\n".join(lines))
    found = by_name(package_findings(project))["versions"]
    assert found.verdict == "note"
    assert found.value.startswith("2 of 3 packages are not as locked: numpy ")
    assert "no-such-thing is missing" in found.value


def test_the_hub_is_asked_unless_offline(project, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in by_name(machine_findings(project))["Hub"].value
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found = by_name(machine_findings(project))["Hub"]
    assert found.verdict == "note" and "cannot be reached" in found.value and "HF_ENDPOINT" in found.remedy


def test_an_unwritable_cache_is_bad(project, monkeypatch):
    monkeypatch.setattr(machine_checks.os, "access", lambda path, mode: "hf" not in str(path))
    (project / "hf").mkdir()
    monkeypatch.setenv("HF_HOME", str(project / "hf"))
    assert by_name(machine_findings(project))["HF_HOME"].verdict == "bad"


@pytest.mark.parametrize("name", ["guard", "snapshot", "backup", "restore", "doctor"])
def test_every_command_explains_itself(name):
    from typer.testing import CliRunner

    from backtracking.faces.commands import app

    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0 and len(done.output) > 200
