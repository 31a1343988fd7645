"""Trained models on the Hugging Face hub: the folders of ``save_pretrained`` and ``flowkit export``, uploaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowkit.artifacts import INFO, find_run
from flowkit.config import plugins
from flowkit.errors import UserError

#: What marks a folder that may be shared: a model's, an adapter's, an export's.
_SHARED = (INFO, "adapter.json", "export.json")


def push_to_hub(
    name: str | Path, repository: str, *, private: bool = True, message: str = "Upload with FlowKit"
) -> str:
    """Upload a model folder, an adapter's or an export's, and return the address of the commit.

    Args:
        name: the folder, or a pretrained name. A run is not one: its folder also holds the optimiser's state.
        repository: ``user/name``; made if it does not exist.
        private: whether a new repository is seen by its owner alone.
        message: of the commit.

    Raises:
        UserError: the folder is none of these, huggingface_hub is missing, nobody is logged in, or the hub refuses.
    """
    folder = find_run(name)
    if not any((folder / mark).is_file() for mark in _SHARED):
        raise UserError(f"{folder} is no model folder: write one with save_pretrained, or an export")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UserError(f"the repository is named user/name, not {repository!r}")
    api = _api()
    try:
        api.whoami()
    except Exception as error:  # errors of its own and of its network library
        raise UserError(f"nobody is logged in to the hub (hf auth login): {plugins.one_line(error)[:200]}") from error
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message=message)
    except Exception as error:
        raise UserError(f"{repository}: the hub refuses: {plugins.one_line(error)[:300]}") from error
    return str(getattr(done, "commit_url", done))


def _api() -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UserError("the hub needs the package huggingface_hub: pip install huggingface_hub") from None
    return HfApi()
