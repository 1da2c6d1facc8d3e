"""A project whose `.env` holds secrets, as the working directory."""

import pytest

from tests.workspace.planted import ENV


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "WANDB_API_KEY", "GITHUB_TOKEN", "GH_TOKEN", "BACKTRACKING_GIT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in ENV.items()), encoding="utf-8")
    (folder / ".env").chmod(0o600)
    monkeypatch.chdir(folder)
    return folder
