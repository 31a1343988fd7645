"""What goes to the hub, with a hub that only remembers."""

from __future__ import annotations

import inspect
import sys
import types
from pathlib import Path

import pytest

from flowkit.errors import UserError
from flowkit.hub import push_to_hub


class Hub:
    def __init__(self) -> None:
        self.logged_in, self.made, self.uploaded = True, [], []

    def whoami(self) -> dict[str, str]:
        if not self.logged_in:
            raise RuntimeError("401 Unauthorised")
        return {"name": "somebody"}

    def create_repo(self, name: str, **options: object) -> None:
        self.made.append((name, options))

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
        self.uploaded.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))
        return f"hub/{repo_id}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    remembered = Hub()
    module = types.SimpleNamespace(HfApi=lambda: remembered)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)  # pyright: ignore[reportArgumentType]
    return remembered


def test_a_model_folder_is_uploaded_whole_and_private(hub: Hub) -> None:
    assert push_to_hub("policy/fork", "somebody/fork") == "hub/somebody/fork"
    assert hub.made == [("somebody/fork", {"private": True, "exist_ok": True})]
    assert {"config.yaml", "flowkit.json", "model.safetensors", "README.md"} <= set(hub.uploaded[0][1])


def test_the_hubs_own_package_takes_what_it_is_given() -> None:
    real = pytest.importorskip("huggingface_hub").HfApi
    inspect.signature(real.create_repo).bind(None, "somebody/fork", private=True, exist_ok=True)
    inspect.signature(real.upload_folder).bind(None, repo_id="a/b", folder_path="x", commit_message="y")
    inspect.signature(real.whoami).bind(None)


def test_what_is_no_model_stays_here(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name, repository, said in (
        (tmp_path, "somebody/run", "is no model folder"),
        ("policy/fork", "fork", "user/name"),
    ):
        with pytest.raises(UserError, match=said):
            push_to_hub(name, repository)
    hub.logged_in = False
    with pytest.raises(UserError, match="nobody is logged in"):
        push_to_hub("policy/fork", "somebody/fork")
    assert not hub.made
    assert not hub.uploaded


def test_the_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        push_to_hub("policy/fork", "somebody/fork")
