"""Exports made on the way, and kept: a model is exported once for each sampler."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch

from flowkit.artifacts import Artifact
from flowkit.caching import cache_root
from flowkit.errors import UserError
from flowkit.export.runtime import Exported, is_export
from flowkit.export.write import describe, write_export
from flowkit.version import __version__


def cached_export(artifact: Artifact, *, runtime: str = "onnx", tell: Callable[[str], object] = len) -> Exported:
    """The export of a loaded model for its sampler: the one in the cache, or a fresh one.

    It lies in ``$FLOWKIT_CACHE/exports`` (``flowkit`` in the user's cache folder otherwise), named after the hash of
    weights, recipe and sampler.

    Raises:
        UserError: see :func:`flowkit.export.write.write_export`.
    """
    folder = cache_folder() / f"{runtime}-{export_key(artifact)}"
    if not is_export(folder):
        tell(f"exporting to {folder}, once for this model and sampler: this takes a while")
        about = {"source": str(artifact.folder)}
        try:
            write_export(folder, artifact.task, artifact.sampler, formats=(runtime,), about=about)
        except UserError:
            # Another process was faster; its export is as good.
            if not is_export(folder):
                raise
    return Exported(folder, runtime=runtime)


def cache_folder() -> Path:
    """Where such exports lie."""
    return cache_root() / "exports"


def export_key(artifact: Artifact) -> str:
    """A hash of what the programs of a loaded model depend on.

    Raises:
        UserError: it cannot be exported.
    """
    digest = hashlib.sha256()
    told = [describe(artifact.sampler), artifact.recipe.dump(), __version__, torch.__version__]
    digest.update(json.dumps(told, sort_keys=True).encode())
    tensors = artifact.task.state_dict(keep_vars=True)
    own = {id(tensor) for tensor in tensors.values()}
    # Programs may hold networks that lie outside the model: a vocoder's.
    for name, program in artifact.task.exports(artifact.sampler).programs.items():
        further = program.module.state_dict(prefix=f"{name}:", keep_vars=True)
        tensors |= {key: tensor for key, tensor in further.items() if id(tensor) not in own}
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]
