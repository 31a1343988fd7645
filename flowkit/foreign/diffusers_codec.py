"""Autoencoders of the package ``diffusers`` as frozen codecs: ``AutoencoderKL`` and ``VQModel``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError, nearest
from flowkit.nn.codec import LatentCodec
from flowkit.random import RandomSource, normal_like

_KINDS = ("AutoencoderKL", "VQModel")


class DiffusersCodec(LatentCodec):
    """An autoencoder that was saved by diffusers (``save_pretrained``), or one of given sizes with random weights.

    In a recipe ``codec: {class_path: DiffusersCodec, init_args: {folder: my-vae}}`` is enough: reading the recipe
    writes the folder's ``config.json`` out, and the weights are read before training. What is trained on it holds both,
    and never reads the folder again. Nothing is downloaded and nothing unpickled.

    Latents are scaled as diffusers' pipelines scale them: (z - shift_factor) * scaling_factor, or where the
    configuration has them (z - latents_mean) / latents_std * scaling_factor. ``VQModel`` quantises when it decodes.

    Args:
        config: what ``config.json`` holds; ``_class_name`` is AutoencoderKL or VQModel.
        folder: with ``config.json`` and weights; empty: random weights. In folders of whole pipelines it is the folder
            ``vae`` or ``vqvae``.
        sample: training draws latents from AutoencoderKL's posterior; otherwise, and always in prediction, they are its
            mean.
        scale: scale the latents; False leaves them as the encoder gives them.

    Raises:
        UserError: diffusers is not installed, or the configuration is of another network or broken.
    """

    shift: Tensor
    factor: Tensor

    def __init__(self, config: dict[str, Any], *, folder: str = "", sample: bool = False, scale: bool = True) -> None:
        super().__init__()
        self.config, self.folder, self.sample, self.scale = config, folder, sample, scale
        self.kind = str(config.get("_class_name", ""))
        if self.kind not in _KINDS:
            raise UserError(f"DiffusersCodec: config._class_name is {self.kind!r}; {nearest(self.kind, _KINDS)}")
        if sample and self.kind != "AutoencoderKL":
            raise UserError(f"DiffusersCodec: {self.kind} has no posterior to sample from: leave sample out")
        self.draws = sample
        try:
            self.network: Any = _class(self.kind).from_config(config)
        except (TypeError, ValueError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"DiffusersCodec: {self.kind} refuses its config: {reason}") from error
        known = self.network.config
        self.colours = int(known["in_channels"])
        self.channels = int(known.get("vq_embed_dim") or known["latent_channels"])
        self.side = 2 ** (len(known["block_out_channels"]) - 1)
        shift, factor = _scaling(known, self.channels) if scale else (torch.zeros(1), torch.ones(1))
        self.register_buffer("shift", shift.reshape(-1, 1, 1))
        self.register_buffer("factor", factor.reshape(-1, 1, 1))

    @classmethod
    def write_out(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments of a recipe with the configuration, from the folder where it is not given.

        Raises:
            UserError: there is no such folder, or no configuration in it.
        """
        if given.get("config") is not None or not given.get("folder"):
            return given
        path = _existing(str(given["folder"]))
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
        return {**given, "config": config}

    def adapt(self, images: Callable[[], Float[Tensor, "n c h w"]]) -> None:
        """Read the weights from the folder.

        Raises:
            UserError: they are missing, damaged or of other sizes.
        """
        if not self.folder:
            return
        folder = _existing(self.folder).parent
        try:
            stored = _class(self.kind).from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
            )
            self.network.load_state_dict(stored.state_dict())
        except Exception as error:  # diffusers raises many kinds
            raise UserError(f"the weights in {folder} cannot be used: {' '.join(str(error).split())[:300]}") from error

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        if channels != self.colours:
            raise UserError(f"DiffusersCodec: this {self.kind} reads {self.colours} channels, not {channels}")
        if height % self.side or width % self.side:
            raise UserError(
                f"DiffusersCodec: pictures of {height} x {width} do not divide by the autoencoder's factor {self.side}"
            )
        return self.channels, height // self.side, width // self.side

    def encode(
        self, images: Float[Tensor, "n c h w"], generator: RandomSource | None = None
    ) -> Float[Tensor, "n C H W"]:
        # In full precision whatever the training's: prediction must meet the latents that training saw.
        with torch.autocast(images.device.type, enabled=False):
            found = self.network.encode(images.float())
            if self.kind == "VQModel":
                latents = found.latents
            else:
                law = found.latent_dist
                drawn = self.sample and generator is not None
                latents = law.mean + law.std * normal_like(law.mean, generator) if drawn else law.mean
            return (latents - self.shift) * self.factor

    def decode(self, latents: Float[Tensor, "n C H W"]) -> Float[Tensor, "n c h w"]:
        with torch.autocast(latents.device.type, enabled=False):
            return self.network.decode(latents.float() / self.factor + self.shift).sample


def _class(kind: str) -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise UserError(
            f"DiffusersCodec needs the package diffusers ({' '.join(str(error).split())}): pip install "
            "'flowkit-fm[diffusers]'"
        ) from error
    return getattr(diffusers, kind)


def _existing(folder: str) -> Path:
    """The folder's ``config.json``."""
    path = Path(folder) / "config.json"
    if path.is_file():
        return path
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder; diffusers' save_pretrained makes one, and nothing is downloaded")
    inner = [name for name in ("vae", "vqvae", "movq") if (Path(folder) / name / "config.json").is_file()]
    way_out = f"the autoencoder is in {Path(folder) / inner[0]}" if inner else "it is no folder of save_pretrained"
    raise UserError(f"{folder} has no config.json: {way_out}")


def _scaling(config: Mapping[str, Any], channels: int) -> tuple[Tensor, Tensor]:
    """Shift and factor of the latents: one number, or one a channel."""
    factor = torch.tensor([float(config.get("scaling_factor") or 1.0)])
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        return torch.tensor(mean).float().reshape(-1), factor / torch.tensor(std).float().reshape(-1)
    shift = torch.tensor([float(config.get("shift_factor") or 0.0)])
    return shift.repeat(channels), factor.repeat(channels)
