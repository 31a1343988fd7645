"""The frozen codec of a trained autoencoder, for methods that work in its latent space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from domains.video.codec.autoencoder import VQAutoencoder
from flowkit.errors import UserError
from flowkit.nn.codec import LatentCodec
from flowkit.random import RandomSource


class TrainedCodec(LatentCodec):
    """Latents are the encoder's output before quantisation, unscaled, as in RIVER; decoding quantises first.

    In a recipe ``codec: {class_path: TrainedCodec, init_args: {run: runs/my-codec}}`` is enough: reading the recipe
    writes the network's sizes out from that run, and the weights are read before training. What is trained on it holds
    both, and never reads the run again.

    Args:
        network: the autoencoder; its weights count only where there is no ``run``.
        run: where its weights are: the run folder, pretrained name or ``save_pretrained`` folder of a
            :class:`FrameAutoencoder`. Empty: the network as it is.
        normalise: bring each channel of the latents to mean 0 and deviation 1 over training frames. RIVER does without;
            useful where an autoencoder's latents are far from the noise's scale of 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: VQAutoencoder, *, run: str = "", normalise: bool = False) -> None:
        super().__init__()
        self.network, self.run, self.normalise = network, run, normalise
        self.register_buffer("mean", torch.zeros(network.latent, 1, 1))
        self.register_buffer("std", torch.ones(network.latent, 1, 1))

    @classmethod
    def write_out(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments of a recipe with the network's sizes, from the run's own recipe where they are not given.

        Raises:
            UserError: neither is given, there is no such run, or it holds no autoencoder of frames.
        """
        if given.get("network") is not None:
            return given
        if not given.get("run"):
            raise UserError("TrainedCodec: name the run of a trained autoencoder in codec.init_args.run")
        return {**given, "network": _network_of(str(given["run"]))}

    @classmethod
    def from_run(cls, run: str | Path, *, normalise: bool = False) -> TrainedCodec:
        """The codec of a trained autoencoder, with its weights; for use without a recipe. Statistics for ``normalise``
        come with :meth:`adapt`.

        Raises:
            UserError: there is no such run, or it holds no autoencoder of frames.
        """
        _network_of(run)
        return cls(_trained_network(run), normalise=normalise)

    def adapt(self, images: Callable[[], Float[Tensor, "n c h w"]]) -> None:
        """Read the weights, and take the channels' statistics.

        Raises:
            UserError: there is no such run, or its weights are damaged or of another network.
        """
        if self.run:
            self._read_weights()
        if not self.normalise:
            return
        with torch.no_grad():
            latents = torch.cat([self.network.encode(part) for part in images().to(self.mean.device).split(64)])
        self.mean.copy_(latents.mean((0, 2, 3)).reshape(-1, 1, 1))
        self.std.copy_(latents.std((0, 2, 3)).clamp_min(1e-6).reshape(-1, 1, 1))

    def _read_weights(self) -> None:
        mine = _trained_network(self.run).state_dict()
        wanted = self.network.state_dict()
        strange = [n for n in sorted({*mine, *wanted}) if n not in mine or n not in wanted]
        strange += [n for n in sorted({*mine} & {*wanted}) if mine[n].shape != wanted[n].shape]
        if strange:
            raise UserError(
                f"the autoencoder of {self.run} has other sizes than codec.init_args.network says (first: "
                f"{strange[0]}): leave network out, then it is taken from the run"
            )
        self.network.load_state_dict(mine)

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        return self.network.shape(channels, height, width)

    def encode(
        self, images: Float[Tensor, "n c h w"], generator: RandomSource | None = None
    ) -> Float[Tensor, "n C H W"]:
        # In full precision whatever the training's: prediction must meet the latents that training saw.
        with torch.autocast(images.device.type, enabled=False):
            latents = self.network.encode(images.float())
            return (latents - self.mean) / self.std if self.normalise else latents

    def decode(self, latents: Float[Tensor, "n C H W"]) -> Float[Tensor, "n c h w"]:
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float()
            return self.network.decode(latents * self.std + self.mean if self.normalise else latents)


def _trained_network(run: str | Path) -> VQAutoencoder:
    """The autoencoder of a run with its weights, adapters that it was fitted by added to them.

    Raises:
        UserError: there is no such run, or its weights are damaged.
    """
    from flowkit import adapters
    from flowkit.artifacts import from_pretrained

    task: Any = from_pretrained(run).task
    adapters.merge(task)
    return task.network


def _network_of(run: str | Path) -> Any:
    """The ``network`` of the run's recipe: plain data.

    Raises:
        UserError: see :meth:`TrainedCodec.write_out`.
    """
    from flowkit.artifacts import describe_run
    from flowkit.config.yamlfile import read_yaml

    path = Path(describe_run(run)["recipe"])
    task = (read_yaml(path) or {}).get("task") or {}
    kind = str(task.get("class_path", "nothing")).rpartition(".")[2]
    if kind != "FrameAutoencoder":
        raise UserError(f"{run} holds no autoencoder of frames: its task is {kind}")
    return task["init_args"]["network"]
