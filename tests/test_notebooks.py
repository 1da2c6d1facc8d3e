"""Every notebook runs, in a reader's order, on the embedded model; what is committed is thin and without output."""

import ast
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
QUESTIONS = (
    "tour", "sample_and_detect", "logit_lens", "ablation_scan", "targeted_vs_random", "formatting", "baseline_metrics",
    "subset_sweep", "scale_sweep", "continuation_ablation", "word_or_behaviour", "published_claims_regraded",
    "activations", "patching", "circuit", "steering", "lead_time",
)  # fmt: skip
MOST_CODE_CELLS, MOST_LINES, MOST_LINES_OF_A_CELL = 11, 45, 12
NO_MODEL = {"11_published_claims_regraded"}
NO_WIDGETS = "IProgress not found"
"""tqdm says so once where ipywidgets is not installed."""
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Every notebook's cells after they ran, by name; one kernel runs them all, so that torch is imported once.

    Between notebooks it forgets every name. It works in an empty folder with the same data folders around it.
    """
    work = tmp_path_factory.mktemp("notebooks") / "repository"
    work.mkdir()
    (work / "data").symlink_to(ROOT / "data")
    (work.parent / "shared").symlink_to(ROOT.parent / "shared")
    cells, places = [], {}
    for path in NOTEBOOKS:
        own = nbformat.read(path, as_version=4).cells
        places[path] = slice(len(cells) + 1, len(cells) + 1 + len(own))
        cells += [nbformat.v4.new_code_cell("%reset -f"), *own]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    whole = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(
        whole, timeout=240, allow_errors=True, kernel_name="python3", resources={"metadata": {"path": str(work)}}
    )
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    client.execute(env=os.environ | offline | {"PYTHONPATH": python_path})
    return {path: whole.cells[place] for path, place in places.items()}


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.mark.timeout(900)
@each_notebook
def test_a_notebook_runs_and_ends_in_a_conclusion_with_numbers(path, executed):
    cells = [cell for cell in executed[path] if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not ["\n".join(output.traceback) for output in outputs if output.output_type == "error"]
    complaints = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not [text for text in complaints if NO_WIDGETS not in text]
    conclusion = printed(cells[-1])
    if path.stem in NO_MODEL and "No folder of the published study" in printed(cells[0]):
        assert conclusion.strip() == "Nothing to grade."
        return
    assert len(re.findall(r"\d", conclusion)) > 3, conclusion
    figures = [output for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert figures


@each_notebook
def test_a_committed_notebook_holds_no_output_and_asks_one_question(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[-1].cell_type == "code"


@each_notebook
def test_a_notebook_is_thin(path):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert len(cells) <= MOST_CODE_CELLS
    assert sum(len(cell.splitlines()) for cell in cells) <= MOST_LINES
    assert max(len(cell.splitlines()) for cell in cells) <= MOST_LINES_OF_A_CELL
    assert all(len(line) <= 120 for cell in cells for line in cell.splitlines())
    logic = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.While, ast.Try, ast.With)
    for cell in cells:
        assert not [node for node in ast.walk(ast.parse(cell)) if isinstance(node, logic)], cell


@each_notebook
def test_one_line_of_the_first_cell_names_the_model(path):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    naming = [line for cell in cells for line in cell.splitlines() if "organism" in line]
    if path.stem in NO_MODEL:
        assert naming == []
        return
    assert len(naming) == 1
    assert naming[0].startswith('MODEL = "organism"')
    assert naming[0] in cells[0]


def test_every_question_has_its_notebook():
    assert [path.stem for path in NOTEBOOKS] == [f"{number:02d}_{name}" for number, name in enumerate(QUESTIONS)]
