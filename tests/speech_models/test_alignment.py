"""Monotonic alignment search: exact against all compositions, three implementations alike; what durations give."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ragged import ragged

from domains.speech.alignment import align, align_torch, log_prior, path, spread, token_of_frame

IMPLEMENTATIONS = {"package": align, "torch": align_torch}


def best_by_trying_all(value: torch.Tensor) -> list[int]:
    """Durations of the best of all monotonic surjective paths."""
    tokens, frames = value.shape
    scores = {}
    for cuts in itertools.combinations(range(1, frames), tokens - 1):
        edges = (0, *cuts, frames)
        lengths = tuple(b - a for a, b in itertools.pairwise(edges))
        scores[lengths] = sum(float(value[i, edges[i] : edges[i + 1]].double().sum()) for i in range(tokens))
    return list(max(scores, key=lambda lengths: scores[lengths]))


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_equals_brute_force_for_all_small_sizes(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for tokens in range(1, 5):
        for frames in range(tokens, 9):
            value = torch.randn(6, tokens, frames, generator=generator)
            lengths = torch.full((6,), tokens), torch.full((6,), frames)
            found = IMPLEMENTATIONS[name](value, *lengths)
            assert found.tolist() == [best_by_trying_all(v) for v in value]


def test_a_tie_stays_on_the_token() -> None:
    value, lengths = torch.zeros(1, 3, 6), (torch.tensor([3]), torch.tensor([6]))
    assert align(value, *lengths).tolist() == align_torch(value, *lengths).tolist() == [[1, 1, 4]]


def test_ragged_batches_are_aligned_row_by_row() -> None:
    value, tokens, frames = ragged()
    together = align(value, tokens, frames)
    for i in range(8):
        alone = align(value[i : i + 1, : tokens[i], : frames[i]], tokens[i : i + 1], frames[i : i + 1])
        assert together[i, : tokens[i]].tolist() == alone[0].tolist()
    assert together.sum(1).tolist() == frames.tolist()
    real = torch.arange(40) < tokens[:, None]
    assert (together[real] >= 1).all()
    assert (together[~real] == 0).all()
    assert torch.equal(together, align_torch(value, tokens, frames))


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_fewer_frames_than_tokens_does_not_break(name: str) -> None:
    found = IMPLEMENTATIONS[name](torch.randn(2, 5, 7), torch.tensor([5, 5]), torch.tensor([3, 7]))
    assert found[0].tolist() == [0, 0, 1, 1, 1]
    assert found[1].sum() == 7


KERNEL = """
import torch
torch.set_num_threads(1)
from domains.speech.alignment import align_torch, align
from domains.speech.alignment_kernel import align_triton
from ragged import ragged
value, tokens, frames = ragged(1, batch=5, most=36, longest=50)
expected = align(value, tokens, frames)
assert torch.equal(align_triton(value, tokens, frames), expected)
by_frame = value[:2].transpose(1, 2).contiguous().transpose(1, 2)
assert torch.equal(align_triton(by_frame, tokens[:2], frames[:2]), expected[:2])
short = torch.randn(1, 5, 3), torch.tensor([5]), torch.tensor([3])
assert torch.equal(align_triton(*short), align_torch(*short))
one = torch.randn(1, 1, 1), torch.tensor([1]), torch.tensor([1])
assert align_triton(*one).tolist() == [[1]]
"""


def test_triton_kernel_equals_the_package() -> None:
    pytest.importorskip("triton")
    # A process of its own: Triton decides at import whether it interprets.
    folders = [str(Path(__file__).parent), os.getcwd(), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(folders),
    }
    done = subprocess.run(
        [sys.executable, "-c", KERNEL], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_log_prior_is_the_gaussian_log_density() -> None:
    generator = torch.Generator().manual_seed(0)
    mu, mel = torch.randn(2, 3, 80, generator=generator), torch.randn(2, 80, 5, generator=generator)
    normal = torch.distributions.Normal(mu[:, :, None], 1.0)
    expected = normal.log_prob(mel.transpose(1, 2)[:, None]).sum(3)
    assert torch.allclose(log_prior(mu, mel), expected, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = log_prior(mu, mel)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-4)


def test_path_of_durations() -> None:
    durations = torch.tensor([[2, 0, 3, 1], [1, 1, 0, 0]])
    found = path(durations, 7)
    assert torch.equal(found.sum(2), durations.float())
    assert found.sum(1).tolist() == [[1, 1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0, 0]]
    assert token_of_frame(durations, 6)[0].tolist() == [0, 0, 2, 2, 2, 3]


def test_fractional_durations_compare_the_frame_with_the_sum() -> None:
    assert token_of_frame(torch.tensor([[1.5, 1.5, 0.75]]), 4).tolist() == [[0, 0, 1, 2]]


def test_spread_equals_the_matrix_product() -> None:
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(2, 4, 8, generator=generator, requires_grad=True)
    durations = torch.tensor([[2, 1, 3, 1], [4, 1, 1, 1]])
    product = mu.transpose(1, 2) @ path(durations, 7)
    assert torch.equal(spread(mu, token_of_frame(durations, 7)), product)
