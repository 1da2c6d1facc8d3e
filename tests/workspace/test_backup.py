"""Nothing is lost with a machine: half a run goes to a git remote and is finished in another clone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from backtracking.core.completions import Completions
from backtracking.core.errors import InputError
from backtracking.experiments.comparison import run_comparison
from backtracking.experiments.config import load_config
from backtracking.experiments.run_list import current_run
from backtracking.faces.commands import app
from backtracking.workspace import backup as job
from backtracking.workspace.backup import backup
from backtracking.workspace.git import GitError, Repository, access_to, askpass_script, repository, token_variable
from backtracking.workspace.remotes import explained, may_pass
from backtracking.workspace.restoration import restore

TOKEN = "ghp_" + "aB3d" * 9


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def remote(tmp_path):
    folder = tmp_path / "remote.git"
    subprocess.run(["git", "init", "-q", "--bare", str(folder)], check=True)
    return folder


def clone(remote: Path, folder: Path) -> Path:
    subprocess.run(["git", "clone", "-q", str(remote), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture
def config(tiny_folder):
    return {
        "run": {"name": "tiny", "seed": 3, "output_dir": "runs"},
        "model": {"hf_id": str(tiny_folder), "device": "cpu"},
        "dataset": {"name": "problems.jsonl"},
        "prompting": {"template": "{question}"},
        "generation": {"num_samples_per_prompt": 3, "max_new_tokens": 6, "batch_size": 2, "temperature": 2.0},
        "conditions": {"mlp off": ["mlp.1*0@decode"]},
    }


@pytest.fixture
def first(project, remote, config, tmp_path, monkeypatch):
    """A clone with a commit, a staged file, a changed file and a new one."""
    folder = clone(remote, tmp_path / "first")
    git(folder, "config", "user.email", "a@b.c")
    git(folder, "config", "user.name", "a")
    lines = [json.dumps({"id": i, "question": f"a {'b ' * i}c", "gold": str(i)}) for i in range(4)]
    (folder / "problems.jsonl").write_text("\n".join(lines))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / ".gitignore").write_text("runs/\nsnapshots/\n.env\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    git(folder, "push", "-q", "origin", "HEAD")
    (folder / "staged.txt").write_text("staged")
    git(folder, "add", "staged.txt")
    (folder / "config.yaml").write_text(yaml.safe_dump(config) + "# changed\n")
    (folder / "new.txt").write_text("new")
    monkeypatch.chdir(folder)
    return folder


def state(folder: Path) -> tuple[str, ...]:
    """All of the checkout that a backup must leave alone."""
    return (
        git(folder, "status", "--porcelain=v2", "--branch"), git(folder, "rev-parse", "HEAD"),
        git(folder, "ls-files", "--stage"), git(folder, "diff"), git(folder, "stash", "list"),
        (folder / ".git" / "config").read_text(), (folder / ".git" / "HEAD").read_text(),
    )  # fmt: skip


def interrupted(monkeypatch, after: int) -> None:
    """Run the config of the working directory until some units are written."""
    saved, count = Completions.save, iter(range(100))

    def dying(self, path, **given):
        if next(count) == after:
            raise KeyboardInterrupt
        saved(self, path, **given)

    with monkeypatch.context() as patch:
        patch.setattr(Completions, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            run_comparison(load_config("config.yaml"))


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "tables").iterdir())}


def test_half_a_run_is_finished_in_a_second_clone_with_the_same_tables(first, remote, tmp_path, monkeypatch):
    interrupted(monkeypatch, after=2)
    unfinished = current_run("runs").path
    assert len(list((unfinished / "completions").iterdir())) == 2
    before = state(first)
    saved = backup(unfinished)
    assert state(first) == before
    assert saved.branch == f"backups/{unfinished.name}"
    assert git(remote, "rev-parse", saved.branch) == saved.commit
    assert git(remote, "log", "--format=%s", saved.branch).startswith(f"Backup of {unfinished.name}: ")

    whole = run_comparison(load_config("config.yaml")).folder.path  # here the machine is not lost after all
    second = clone(remote, tmp_path / "second")
    monkeypatch.chdir(second)
    back = restore()
    assert back.complete and back.folder == Path("runs") / unfinished.name
    assert len(list((back.folder / "completions").iterdir())) == 2
    assert git(second, "status", "--porcelain") == "" and git(second, "branch", "--show-current") in ("main", "master")
    continued = run_comparison(load_config("config.yaml"), resume=True)
    assert continued.folder.run_id == unfinished.name
    assert tables(continued.folder.path) == tables(first / whole)
    assert [c.ids for c in continued.completions] == [c.ids for c in run_parts(first / whole)]

    again = backup(continued.folder.path)  # the second machine carries the branch on
    assert again.new and git(remote, "rev-parse", f"{again.commit}^") == saved.commit
    assert not backup(continued.folder.path).new, "what is saved already is not saved twice"


def run_parts(folder: Path) -> list:
    return [row for part in sorted((folder / "completions").iterdir()) for row in Completions.load(part)]


def test_the_commands_do_the_same(first, remote, tmp_path, monkeypatch):
    interrupted(monkeypatch, after=1)
    runner = CliRunner()
    done = runner.invoke(app, ["snapshot"], catch_exceptions=False)
    assert done.exit_code == 0 and "snapshot: snapshots/" in done.output
    done = runner.invoke(app, ["backup", "--remote", "origin", "--branch", "mine/saved"], catch_exceptions=False)
    assert done.exit_code == 0 and "pushed: mine/saved at origin, commit" in done.output
    name = current_run("runs").run_id
    monkeypatch.chdir(clone(remote, tmp_path / "second"))
    done = runner.invoke(app, ["restore", "--branch", "mine/saved"], catch_exceptions=False)
    assert done.exit_code == 0 and f"restored: runs/{name}" in done.output
    assert current_run("runs").run_id == name


@pytest.fixture
def run(first):
    folder = first / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}\n")
    return folder


def test_what_cannot_be_done_is_one_clear_line(run, first, remote, tmp_path, monkeypatch):
    waits: list[float] = []
    with pytest.raises(InputError, match="no remote 'other'; known: origin"):
        backup(run, remote="other")
    with pytest.raises(InputError, match="is checked out; give another --branch"):
        backup(run, branch=git(first, "branch", "--show-current"))
    with pytest.raises(InputError, match="is no name of a branch"):
        backup(run, branch="a..b")
    hook = remote / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho no more room >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(InputError, match="remote 'origin' rejected the branch 'backups/one'"):
        backup(run, wait=waits.append)
    assert waits == [], "a rejection is not tried again"
    with pytest.raises(InputError, match="which run of the remote origin?|no saved run"):
        restore()
    git(first, "remote", "set-url", "origin", str(tmp_path / "gone.git"))
    with pytest.raises(InputError, match="is not there; look at git remote -v"):
        backup(run, wait=waits.append)
    git(first, "remote", "remove", "origin")
    with pytest.raises(InputError, match="no remote 'origin'; there is none; add one with git remote add"):
        backup(run)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is in no git repository"):
        backup(run)


def test_without_a_network_it_is_tried_again_and_the_snapshot_kept(run, first, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    git(first, "remote", "set-url", "origin", "http://127.0.0.1:9/x.git")
    waits: list[float] = []
    with pytest.raises(InputError, match="cannot be reached; the snapshot is kept") as raised:
        backup(run, wait=waits.append)
    assert waits == [1, 2, 4]
    assert (first / "snapshots" / "one" / "snapshot.json").is_file()
    assert TOKEN not in str(raised.value)


def test_a_race_with_another_machine_loses_neither(run, first, remote, monkeypatch):
    """Between looking and pushing another machine pushes: the next try is built on what it pushed."""
    other = backup(run).commit
    (run / "report.md").write_text("newer\n")
    looks, tip = iter(range(9)), job.tip
    monkeypatch.setattr(job, "tip", lambda *given: None if next(looks) == 0 else tip(*given))
    waits: list[float] = []
    saved = backup(run, wait=waits.append)
    assert waits == [1]
    assert git(remote, "rev-parse", f"{saved.commit}^") == other


def test_an_address_with_credentials_is_refused(run, first):
    git(first, "remote", "set-url", "origin", f"https://me:{TOKEN}@example.com/x.git")
    for act in (lambda: backup(run), lambda: restore("one")):
        with pytest.raises(InputError, match="holds credentials; take them out with git remote set-url") as raised:
            act()
        assert TOKEN not in str(raised.value)


def test_the_token_stands_in_no_argument_script_or_configuration(run, first, monkeypatch):
    """Every command git is given is recorded, with what it was told on the way."""
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    monkeypatch.setenv("GIT_TRACE", "1")
    url = "https://github.com/someone/something.git"
    git(first, "remote", "set-url", "origin", url)
    commands, scripts, real = [], [], subprocess.run

    def recorded(command, **options):
        commands.append(command)
        if (script := options["env"].get("GIT_ASKPASS")) and "push" in command:
            scripts.append(Path(script).read_text())
            assert Path(script).stat().st_mode & 0o077 == 0
            assert options["env"]["GIT_TERMINAL_PROMPT"] == "0" and "GIT_TRACE" not in options["env"]
            asked = [real([script, what], capture_output=True, text=True, env=options["env"]).stdout for what in ASKED]
            assert asked == ["x-access-token\n", f"{TOKEN}\n"], "git gets it by asking"
        if {"push", "fetch", "ls-remote"} & set(command):
            return subprocess.CompletedProcess(command, 0, b"", b"")
        return real(command, **options)

    monkeypatch.setattr(subprocess, "run", recorded)
    backup(run)
    assert len(scripts) == 1
    assert any("push" in command for command in commands)
    assert "credential.helper=" in next(command for command in commands if "push" in command)
    everything = repr(commands) + scripts[0] + (first / ".git" / "config").read_text()
    assert TOKEN not in everything and "$GITHUB_TOKEN" in scripts[0]
    for path in (first / "snapshots").rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


ASKED = ("Username for 'https://github.com':", "Password for 'https://x-access-token@github.com':")


def test_a_token_goes_only_to_its_own_host(monkeypatch):
    for name in ("GITHUB_TOKEN", "GH_TOKEN", "HF_TOKEN", "BACKTRACKING_GIT_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    assert token_variable("https://github.com/a/b.git") == "GITHUB_TOKEN"
    assert token_variable("https://huggingface.co/a/b") == "HF_TOKEN"
    assert token_variable("https://github.com.example.org/a/b.git") == "BACKTRACKING_GIT_TOKEN"
    monkeypatch.delenv("BACKTRACKING_GIT_TOKEN")
    assert token_variable("https://example.org/a/b.git") is None
    for url in ("git@github.com:a/b.git", "ssh://git@github.com/a/b.git", "/a/b.git", "file:///a/b.git"):
        assert token_variable(url) is None
        with access_to(url) as access:
            assert access.variables == {}, "the user's own helpers stay"
    assert "GH_TOKEN" in askpass_script("GH_TOKEN")


def test_words_of_git_are_explained():
    for words, said, again in (
        ("fatal: Authentication failed for 'https://x/'", "refused the access", False),
        ("fatal: could not read Password", "refused the access", False),
        ("fatal: unable to access: Could not resolve host: x", "cannot be reached", True),
        ("! [remote rejected] a (protected branch hook declined)", "rejected the branch", False),
    ):
        assert may_pass(GitError(words)) is again, words
        assert said in str(explained(GitError(words), "origin", "b"))


def test_git_works_where_nobody_is_named(run, first, monkeypatch):
    git(first, "config", "--unset", "user.email")
    git(first, "config", "--unset", "user.name")
    monkeypatch.setenv("HOME", str(first.parent))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    assert backup(run).new
    assert isinstance(repository(), Repository)


def test_bad_input_is_exit_status_2_without_a_traceback(run, first):
    done = subprocess.run(
        [sys.executable, "-m", "backtracking.cli", "backup", "one", "--remote", "nowhere"],
        cwd=first, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr == "backtracking: no remote 'nowhere'; known: origin\n"
