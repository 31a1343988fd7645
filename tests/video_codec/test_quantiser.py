"""The quantiser's mathematics: nearest codes, straight-through gradients, where beta lies, averages, restarts."""

from __future__ import annotations

import pytest
import torch

from domains.video.codec import quantiser as module
from domains.video.codec.quantiser import VectorQuantiser, perplexity
from flowkit.errors import UserError
from flowkit.random import Rows


def latents(b=3, c=4, side=5, seed=0):
    return torch.randn(b, c, side, side, generator=torch.Generator().manual_seed(seed))


def quantiser(codes=16, channels=4, **options):
    torch.manual_seed(0)
    return VectorQuantiser(codes, channels, **{"patience": 0, **options})


def rows(z):
    return z.permute(0, 2, 3, 1).flatten(0, 2)


def test_the_nearest_code_is_the_nearest(monkeypatch):
    q, z = quantiser(), latents()
    expected = torch.cdist(rows(z).double(), q.codebook.double()).argmin(1)
    assert torch.equal(q.nearest(rows(z)), expected)
    monkeypatch.setattr(module, "_DISTANCES", 50)  # in pieces of three vectors
    assert torch.equal(q.nearest(rows(z)), expected)
    assert torch.equal(q.codes_of(z).flatten(), expected)
    assert q.nearest(torch.empty(0, 4)).shape == (0,)


def test_near_codes_are_told_apart_and_a_vector_means_the_same_alone():
    q = quantiser(codes=2)
    # A matrix product in float32 would lose the difference beside squares of 1e6.
    q.codebook.copy_(torch.tensor([[1000.0, 0, 0, 0], [1000.001, 0, 0, 0]]))
    z = torch.tensor([[1000.0004, 0, 0, 0], [1000.0009, 0, 0, 0]])
    assert q.nearest(z).tolist() == [0, 1]
    q, z = quantiser(), rows(latents())
    assert torch.equal(torch.cat([q.nearest(one[None]) for one in z]), q.nearest(z))


@pytest.mark.parametrize("update", ["average", "gradient"])
def test_values_are_the_codes_and_gradients_the_latents(update):
    q, z = quantiser(update=update), latents().requires_grad_(True)
    out = q(z)
    assert torch.equal(out.latents.detach(), q.vectors(out.codes).detach())
    weight = latents(seed=1)
    (out.latents * weight).sum().backward()
    assert torch.equal(z.grad, weight)
    assert q.codebook.grad is None or not q.codebook.grad.any()


def test_each_term_moves_its_own_side():
    q, z = quantiser(update="gradient"), latents().requires_grad_(True)
    out = q(z)
    e = q.vectors(out.codes).detach()
    (grad,) = torch.autograd.grad(out.commitment.sum(), z, retain_graph=True)
    assert torch.allclose(grad, 2 * (z - e).detach() / z[0].numel())
    assert torch.autograd.grad(out.commitment.sum(), q.codebook, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(out.codebook.sum(), z, retain_graph=True, allow_unused=True) == (None,)
    (grad,) = torch.autograd.grad(out.codebook.sum(), q.codebook)
    expected = torch.zeros_like(grad).index_add_(0, out.codes.flatten(), 2 * rows(e - z.detach()) / z[0].numel())
    assert torch.allclose(grad, expected, atol=1e-6)
    assert torch.allclose(out.commitment, out.codebook)


def test_averages_equal_their_closed_form():
    q, z, decay, steps = quantiser(codes=64, decay=0.8), latents(), 0.8, 4
    # Latents at fixed codes: shifted towards them, so that every step chooses alike.
    codes = q.codes_of(z)
    start = q.codebook.clone()
    z = 0.05 * z + q.vectors(codes)
    n = torch.bincount(codes.flatten(), minlength=64).float()
    total = torch.zeros(64, 4).index_add_(0, codes.flatten(), rows(z))
    for _ in range(steps):
        assert torch.equal(q(z).codes, codes)
        q.after_step()
    kept = decay**steps
    counts, sums = kept + (1 - kept) * n, kept * start + (1 - kept) * total
    expected = torch.where((n > 0)[:, None], sums / counts[:, None], start)
    assert torch.allclose(q.counts, counts)
    assert torch.allclose(q.codebook, expected, atol=1e-6)
    assert (n == 0).any()


def test_micro_batches_of_a_step_count_as_one_batch():
    whole, parts = quantiser(patience=3), quantiser(patience=3)
    z = latents(b=4)
    whole(z, generator=Rows(7, total=4))
    for first in (0, 2):
        parts(z[first : first + 2], generator=Rows(7, first=first, total=4))
    whole.after_step()
    parts.after_step()
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, parts.state_dict()[name], atol=1e-6), name


def test_dead_codes_restart_where_the_error_is():
    q = quantiser(codes=8, channels=1, patience=2, update="gradient")
    q.codebook.data = torch.arange(8.0)[:, None] + 100
    q.codebook.data[0] = 0.0
    q.idle.zero_()
    # Nearly all is background, which code 0 stands for exactly.
    z = torch.zeros(1, 1, 10, 10)
    z[0, 0, 0, :8] = torch.arange(1.0, 9.0) / 10
    for step in range(3):
        assert set(q(z, generator=Rows(step)).codes.flatten().tolist()) == {0}
        before = q.codebook.clone()
        q.after_step()
        if step < 2:
            assert torch.equal(q.codebook[1:], before[1:])
    moved = q.codebook.detach()[1:].flatten()
    assert len(moved.unique()) == 7
    assert set(moved.tolist()) <= set(z[0, 0, 0, :8].tolist())
    assert q.idle.tolist() == [0] * 8


def test_before_the_first_step_all_codes_are_dead():
    q, z = quantiser(patience=50), latents(b=8)
    q(z)
    q.after_step()
    chosen = q.counts != 1.0
    assert all(any(torch.equal(code, row) for row in rows(z)) for code in q.codebook[~chosen])


def test_nothing_is_learnt_in_evaluation_or_when_told():
    q, z = quantiser(patience=1), latents()
    before = {name: value.clone() for name, value in q.state_dict().items()}
    q(z, learn=False)
    q.eval()(z)
    q.after_step()
    assert all(torch.equal(value, before[name]) for name, value in q.state_dict().items())


def test_codes_with_gradients_restart_too():
    q = quantiser(codes=4, update="gradient", patience=1)
    z = latents(b=1)
    for _ in range(3):
        q(z)
        q.after_step()
    assert len(set(q.codes_of(z).flatten().tolist())) == 4


def _process(rank, store, folder, update, patience):
    """One of two processes with half of the batch each; writes its codebook."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    q, z = quantiser(update=update, patience=patience), latents(b=4)[2 * rank : 2 * rank + 2]
    for step in range(3):
        q(z, generator=Rows(step, first=2 * rank, total=4))
        q.after_step()
    torch.save(q.state_dict(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("update", "patience"), [("average", 0), ("gradient", 1)])
def test_two_processes_share_one_codebook(tmp_path, update, patience):
    context = torch.multiprocessing.get_context("fork")
    arguments = (tmp_path / "store", tmp_path, update, patience)
    workers = [context.Process(target=_process, args=(rank, *arguments)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    if not patience:  # restarts are drawn from the first process's latents
        whole = quantiser(update=update, patience=patience)
        for _ in range(3):
            whole(latents(b=4))
            whole.after_step()
        assert all(torch.allclose(value, one[name], atol=1e-6) for name, value in whole.state_dict().items())


def test_perplexity():
    assert float(perplexity(torch.arange(8), 8)) == pytest.approx(8.0)
    assert float(perplexity(torch.zeros(5, dtype=torch.int64), 8)) == pytest.approx(1.0)


@pytest.mark.parametrize("options", [{"codes": 1}, {"decay": 1.0}, {"patience": -1}])
def test_mistakes_get_one_line(options):
    with pytest.raises(UserError, match="VectorQuantiser") as caught:
        quantiser(**options)
    assert "\n" not in str(caught.value)
