"""What README and CLAUDE.md name exists, and what README shows runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("document", ["README.md", "CLAUDE.md", "AGENTS.md"])
def test_documents_name_only_files_that_exist(document):
    named = re.findall(
        r"`?\b((?:backtracking|notebooks|tests|configs|figures|tools)/[\w./-]+)", (ROOT / document).read_text()
    )
    assert named
    assert [path for path in named if not (ROOT / path.rstrip("./")).exists()] == []


def test_the_tree_in_the_readme_names_every_layer():
    text = (ROOT / "README.md").read_text()
    for folder in sorted(path.parent.name for path in (ROOT / "backtracking").glob("*/__init__.py")):
        assert re.search(rf"^\s+{folder}/", text, flags=re.MULTILINE), folder


def test_make_verbs_in_the_documents_exist():
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for document in ("README.md", "CLAUDE.md"):
        assert set(re.findall(r"make (\w+)", (ROOT / document).read_text())) <= verbs
    assert {"help", "setup", "demo", "test", "check", "lint", "format", "doctor", "smoke", "notebook"} <= verbs


def test_the_snippets_of_the_readme_run(capsys):
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(snippets) == 2
    exec(compile("\n".join(snippets), "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "head off" in shown
    assert "Receipt(intervention='mlp.3*0', positions=" in shown


def test_the_snippet_of_the_package_runs(capsys):
    import backtracking

    (snippet,) = re.findall(r"```python\n(.*?)```", backtracking.__doc__ or "", flags=re.DOTALL)
    exec(compile(snippet, "backtracking", "exec"), {})
    assert "head off" in capsys.readouterr().out


def test_no_committed_file_names_a_registry_or_holds_a_token():
    hosts = ("pypi" + ".org", "pythonhosted" + ".org", "registry.npm" + "js", "download.pytorch" + ".org")
    token = re.compile(r"\b(?:hf|ghp|github_pat|sk-ant|sk)[_-][A-Za-z0-9]{30,}")
    skipped = {".venv", ".git", "runs", ".ruff_cache", ".pytest_cache"}
    for path in ROOT.rglob("*"):
        if path.is_file() and not skipped & set(path.relative_to(ROOT).parts) and path.suffix in {
            ".py", ".md", ".toml", ".lock", ".sh", ".yaml", "", ".jinja", ".example",
        }:  # fmt: skip
            text = path.read_text(errors="replace")
            assert not token.search(text), path
            assert not [host for host in hosts if host in text], path
