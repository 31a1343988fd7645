"""The claim that matters: the alignment is found without being told, and the decoder samples instead of averaging.

On the toy language a symbol has two possible loudnesses. Their mean is neither, and the mean is all that mu can say; a
sample must choose.
"""

from __future__ import annotations

import pytest
import torch
from toy import LOUDNESSES, ToyData, ToySamples, decoder, patterns, toy_task

from domains.speech.matcha import Matcha
from domains.speech.models.text_encoder import EncoderSizes
from flowkit.objectives.objective import Networks
from flowkit.random import Rows, mix_seed
from flowkit.solvers.sampler import Sampler
from flowkit.train.ema import EMA

BATCH = 24


def train(steps: int) -> Matcha:
    torch.manual_seed(0)
    task = toy_task(
        encoder=EncoderSizes(
            width=32, filter_width=64, layers=1, prenet_layers=1, duration_width=32, prenet_dropout=0.0
        )
    )
    task.networks = Networks.build(task.objective.needs(), lambda spec: decoder(spec, channels=[64]))
    data = ToyData(4096)
    task.adapt(data)
    samples = data.split("train")
    parameters = dict(task.named_parameters())
    optimiser, ema = torch.optim.Adam(parameters.values()), EMA(parameters, 0.98)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        rows = torch.randint(0, len(samples), (BATCH,), generator=generator).tolist()
        loss = task(samples.batch(rows), step=step, generator=Rows(mix_seed(0, step), 0, BATCH))
        optimiser.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        ema.update()
    ema.copy_to_weights()
    return task.eval()


@torch.no_grad()
def judge(task: Matcha, samples: ToySamples) -> tuple[float, float, float]:
    """Share of exact durations; share of tokens whose loudness is within 15 % of a true one, in samples and in mu."""
    raw = samples.batch(range(len(samples)))
    keep = torch.arange(raw["tokens"].shape[1]) < raw["token_lengths"][:, None]
    aligned = task.align(raw)
    exact = (aligned.durations == raw["durations"])[keep].float().mean()
    pattern = patterns()[raw["tokens"]].gather(1, aligned.token[:, :, None].expand(-1, -1, 8)).transpose(1, 2)
    solution = task.generate(
        aligned.mu, aligned.real, None, sampler=Sampler(steps=20), generator=Rows(0, 0, len(samples))
    )

    def share(mel: torch.Tensor) -> float:
        loudness = (task.denormalise(mel) * pattern).sum(1) / pattern.square().sum(1) * aligned.real[:, 0]
        per_token = torch.zeros(keep.shape).scatter_add_(1, aligned.token, loudness) / aligned.durations.clamp_min(1)
        true = torch.tensor(LOUDNESSES)
        return float(((per_token[keep][:, None] - true).abs() / true < 0.15).any(1).float().mean())

    return float(exact), share(solution.x), share(aligned.mu)


def test_alignment_is_found_and_samples_leave_the_mean() -> None:
    exact, sampled, mean = judge(train(120), ToyData().split("test"))
    assert exact >= 0.95
    assert mean <= 0.20
    assert sampled >= 2 * mean + 0.1


@pytest.mark.slow
def test_samples_are_bimodal() -> None:
    exact, sampled, mean = judge(train(1500), ToyData().split("test"))
    assert exact >= 0.95
    assert sampled >= 0.80
    assert mean <= 0.20
