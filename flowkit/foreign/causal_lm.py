"""Causal language models of the package ``transformers`` as networks of trajectories."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.nn.causal_transformer import PointCoder
from flowkit.nn.network import NetworkSpec

__all__ = ["TransformersCausal"]


class TransformersCausal(PointCoder):
    """A causal model of ``transformers`` (GPT-NeoX, Llama, ...) over the points of trajectories, in the place of
    :class:`flowkit.nn.causal_transformer.CausalTransformer`: it reads our tokens instead of words, with its own cache.

    Weights begin at random; nothing is downloaded. Pretrained ones may be loaded into ``network.model``.

    Args:
        spec: what the objective asks for.
        model: ``model_type`` of its configuration: ``gpt_neox``, ``llama``, ...
        config: further entries of that configuration: ``hidden_size``, ``num_hidden_layers``, ``num_attention_heads``,
            ``intermediate_size``, ...
        tokens: of each point.
        frequencies: sines and as many cosines of the time.
        labels, vectors: see :class:`PointCoder`.

    Raises:
        UserError: transformers is not installed, or refuses the configuration.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        model: str = "gpt_neox",
        config: dict[str, Any] | None = None,
        tokens: int = 1,
        frequencies: int = 4,
        labels: dict[str, int] | None = None,
        vectors: dict[str, int] | None = None,
    ) -> None:
        sizes = {
            "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256,
            "vocab_size": 8, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, **(config or {}),
        }  # fmt: skip
        network = _model(model, sizes)
        super().__init__(
            spec, width=network.config.hidden_size, tokens=tokens, frequencies=frequencies, labels=labels,
            vectors=vectors,
        )  # fmt: skip
        # Words are never read: their table would be a parameter without a gradient.
        network.set_input_embeddings(nn.Identity())
        self.model = network

    def forward_points(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """See :class:`PointCoder`."""
        front = self.prefix(inputs[0].shape[0], cond)
        tokens = torch.cat([front, self.embed(inputs, times)], 1)
        hidden = self.model(inputs_embeds=tokens, use_cache=False).last_hidden_state
        return self.read(hidden[:, front.shape[1] :])

    def begin(self, rows: int, cond: Cond) -> Any:
        """See :class:`flowkit.nn.sequence.SequenceNetwork`; the memory is changed in place."""
        front = self.prefix(rows, cond)
        if not front.shape[1]:
            return None
        return self._advance(front, None).past_key_values

    def extend(
        self, memory: Any, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond
    ) -> tuple[dict[str, Tensor], Any]:
        """See :class:`flowkit.nn.sequence.SequenceNetwork`."""
        out = self._advance(self.embed(inputs, times), memory)
        return self.read(out.last_hidden_state), out.past_key_values

    def _advance(self, tokens: Tensor, memory: Any) -> Any:
        with warnings.catch_warnings():
            # Releases from 5.40 on call it ``cache``; those before know no other name.
            warnings.filterwarnings("ignore", "`past_key_values` is deprecated")
            return self.model(inputs_embeds=tokens, past_key_values=memory, use_cache=True)


def _model(kind: str, sizes: dict[str, Any]) -> Any:
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise UserError(
            "TransformersCausal needs the package transformers: pip install 'flowkit-fm[transformers]', or use "
            "CausalTransformer"
        ) from error
    try:
        return AutoModel.from_config(AutoConfig.for_model(kind, **sizes))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"TransformersCausal: transformers makes no model {kind!r} of these sizes: {reason[:200]}"
        ) from error
