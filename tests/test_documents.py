"""What README and CLAUDE.md name exists, and what README shows runs."""

import ast
import doctest
import re
import subprocess
from pathlib import Path

import pytest
import typer

from backtracking.faces.commands import app

ROOT = Path(__file__).parents[1]


DOCUMENTS = [
    *("README.md", "CLAUDE.md", "AGENTS.md", "docs/cluster.md"),
    *("backtracking/model/sampling/CLAUDE.md", "backtracking/measures/CLAUDE.md"),
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_only_files_that_exist(document):
    named = re.findall(
        r"`?\b((?:backtracking|notebooks|tests|configs|figures|tools)/[\w./-]+)", (ROOT / document).read_text()
    )
    assert named or document == "AGENTS.md"
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


def snippets(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def shell_lines(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def documented(node: ast.AST) -> str:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return (isinstance(node, kinds) and ast.get_docstring(node)) or ""


def docstrings(path: Path) -> list[str]:
    return [text for node in ast.walk(ast.parse(path.read_text())) if (text := documented(node))]


def test_the_snippets_of_the_readme_run(capsys):
    found = snippets((ROOT / "README.md").read_text())
    assert len(found) == 2
    exec(compile("\n".join(found), "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "head off" in shown
    assert "Receipt(intervention='mlp.3*0', positions=" in shown


def test_the_snippets_of_docstrings_run(capsys):
    found = [
        (path, snippet)
        for path in sorted((ROOT / "backtracking").rglob("*.py"))
        for text in docstrings(path)
        for snippet in snippets(text)
    ]
    assert ROOT / "backtracking" / "__init__.py" in [path for path, _ in found]
    for path, snippet in found:
        exec(compile(snippet, str(path), "exec"), {})
    assert "head off" in capsys.readouterr().out


def test_the_examples_of_docstrings_print_what_they_say():
    run, failures = 0, []
    finder, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
    for path in sorted((ROOT / "backtracking").rglob("*.py")):
        for text in docstrings(path):
            test = finder.get_doctest(text, {}, path.name, str(path), 0)
            if test.examples:
                run += 1
                runner.run(test, out=failures.append)
    assert failures == []
    assert run >= 3


@pytest.mark.parametrize("document", ["README.md", "CLAUDE.md", "docs/cluster.md", "tried.md", "card"])
def test_command_lines_in_documents_parse(document):
    """Every `backtracking ...` line is one that the command line accepts, of files that exist."""
    places = {
        "tried.md": "backtracking/model/organism/tried.md",
        "card": "backtracking/model/organism/weights/README.md",
    }
    text = (ROOT / places.get(document, document)).read_text()
    lines = [line for line in shell_lines(text) if line.startswith("backtracking ")]
    lines += re.findall(r"`(backtracking [a-z][^`]*)`", text)
    assert lines or document != "README.md"
    for line in lines:
        command, words = typer.main.get_command(app), line.split()[1:]
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        if "--" in line:
            command.make_context(line, words)
        assert [word for word in words if word.endswith(".yaml") and not (ROOT / word).is_file()] == []


def test_no_committed_file_names_a_registry_or_holds_a_token():
    hosts = ("pypi" + ".org", "pythonhosted" + ".org", "registry.npm" + "js", "download.pytorch" + ".org")
    token = re.compile(r"\b(?:hf|ghp|github_pat|sk-ant|sk)[_-][A-Za-z0-9]{30,}")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    committed = [ROOT / name for name in listed.split("\0") if name]
    assert ROOT / "README.md" in committed
    for path in committed:
        text = path.read_text(errors="replace") if path.is_file() else ""
        assert not token.search(text), path
        assert not [host for host in hosts if host in text], path
