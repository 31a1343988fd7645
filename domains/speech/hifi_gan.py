"""HiFi-GAN as a vocoder, from the package transformers.

Kong, Kim and Bae 2020, "HiFi-GAN: Generative Adversarial Networks for Efficient and High Fidelity Speech Synthesis"
(arXiv 2010.05646); of the network, ``SpeechT5HifiGan`` of transformers is taken.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from domains.speech.features import MelConfig
from domains.speech.vocoder import Vocoder
from flowkit.errors import UserError
from flowkit.random import RandomSource


class HifiGan(Vocoder):
    """A HiFi-GAN that transformers saved (``SpeechT5HifiGan.save_pretrained``): one call, no search for phases.

    In a recipe, or at the command line of a trained voice::

        vocoder: {class_path: HifiGan, init_args: {folder: my-hifi-gan}}

    Bins, sample rate and hop are compared with the voice's; window, edges and floor are not written down in such a
    folder, so a network that was trained on other mels than ``mel`` describes is heard, not refused. Its weights stay
    in the folder: a voice's checkpoints do not hold them, its exports do. Nothing is downloaded and nothing unpickled.

    Args:
        mel: settings of the mels.
        folder: with ``config.json`` and ``model.safetensors``.
        logarithm: of the mels that the network was trained on: ``natural`` as ours and HiFi-GAN's own, or ``decimal``
            as SpeechT5's.

    Raises:
        UserError: transformers is not installed; the folder is missing, damaged, of another network or made for other
            mels.
    """

    def __init__(
        self, mel: MelConfig | None = None, *, folder: str, logarithm: Literal["natural", "decimal"] = "natural"
    ) -> None:
        super().__init__()
        self.config = mel or MelConfig()
        if logarithm not in ("natural", "decimal"):
            raise UserError(f"HifiGan: logarithm is natural or decimal, not {logarithm!r}")
        self.factor = 1.0 / math.log(10.0) if logarithm == "decimal" else 1.0
        self.network: Any = _network(Path(folder), self.config).requires_grad_(False).eval()

    def forward(
        self, mel: Float[Tensor, "b bins frames"], generator: RandomSource | None = None
    ) -> Float[Tensor, "b samples"]:
        """See :class:`Vocoder`. Nothing is random, and gradients reach the mel."""
        if mel.shape[1] != self.config.bins:
            raise UserError(f"HifiGan is set to {self.config.bins} mel bins and was given {mel.shape[1]}")
        return self.network(mel.float().transpose(1, 2) * self.factor)


def _network(folder: Path, mel: MelConfig) -> Any:
    """The network in a folder, if it fits the mels."""
    try:
        from transformers import SpeechT5HifiGan
    except ImportError as error:
        raise UserError(
            f"HifiGan needs the package transformers ({' '.join(str(error).split())}): pip install "
            "'flowkit-fm[transformers]', or use GriffinLim"
        ) from error
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"HifiGan: {folder} has no config.json: transformers' save_pretrained makes such a folder")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        kind = str(said.get("model_type"))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if kind != "speecht5_hifigan":
        raise UserError(f"HifiGan: {folder} holds a model of type {kind!r}, not speecht5_hifigan")
    try:
        network = SpeechT5HifiGan.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
    except Exception as error:  # transformers raises many kinds
        raise UserError(f"the weights in {folder} cannot be used: {' '.join(str(error).split())[:300]}") from error
    known = network.config
    for given, wanted, what in (
        (known.model_in_dim, mel.bins, "mel bins"),
        (known.sampling_rate, mel.sample_rate, "samples a second"),
        (math.prod(known.upsample_rates), mel.hop, "samples a frame"),
    ):
        if given != wanted:
            raise UserError(f"HifiGan: {folder} was made for {given} {what}, the voice's mels have {wanted}")
    for rate, kernel in zip(known.upsample_rates, known.upsample_kernel_sizes, strict=True):
        if kernel < rate or (kernel - rate) % 2:
            raise UserError(f"HifiGan: {folder}: a kernel of {kernel} at rate {rate} gives no whole number of samples")
    return network
