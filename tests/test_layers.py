"""Each layer imports only from the layers above it; the entry and the package's list import all."""

import ast
from pathlib import Path

import pytest

LAYERS = ["core", "workspace", "model", "measures", "experiments", "faces"]
PACKAGE = Path(__file__).parents[1] / "backtracking"
MODULES = [path for layer in LAYERS for path in sorted((PACKAGE / layer).rglob("*.py"))]


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            names.append(node.module or "")
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name.split(".")[0] == "backtracking"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_up_the_list(path):
    own = LAYERS.index(path.relative_to(PACKAGE).parts[0])
    for name in imported(path):
        parts = name.split(".")
        assert len(parts) > 1, f"{path} imports the whole package"
        assert LAYERS.index(parts[1]) <= own, f"{path} imports {name}"


def test_every_folder_of_the_package_is_a_layer():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(LAYERS)


def test_core_knows_no_model():
    for path in (PACKAGE / "core").glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"torch", "transformers", "transformer_lens"}, path
