"""How a policy is judged during training: errors on held-out windows, episodes in its environment, pictures, films."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from flowkit.errors import UserError, nearest
from flowkit.present import Picture, Text
from flowkit.random import Rows, mix_seed
from flowkit.solvers.sampler import Sampler

if TYPE_CHECKING:
    from domains.policy.task import PolicyTask
    from flowkit.data import RawBatch, Samples
    from flowkit.tasks import Presentation

#: Held-out windows that are looked at, evenly spread over the split, and how many at once.
_WINDOWS, _BATCH = 1024, 256
#: Windows and chunks of a picture.
_SHOWN, _CHUNKS = 4, 8


@torch.no_grad()
def judge(
    task: PolicyTask, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
) -> dict[str, float]:
    """Measures on held-out windows (at most ``limit`` and 1024, evenly spread) and in the environment.

    Returns:
        ``action_rmse``: root mean square error of the actions that would be carried out, normalised units (where
        demonstrations disagree it cannot vanish); ``nfe``, ``nfe_p95`` and ``network_calls`` per decision; ``failed``:
        share of the solves that did not arrive; ``sigma0_p10``, ``_p50``, ``_p90`` of the predicted spread where there
        is one; and with ``rollout_episodes`` what :func:`domains.policy.evaluation.evaluate_rollouts` measures (its
        ``nfe`` as ``rollout_nfe``), with the test split on the starts of evaluations, else on those for choosing
        settings.
    """
    found: dict[str, float] = {}
    count = min(len(samples), _WINDOWS, len(samples) if limit is None else limit)
    if count:
        found |= _windows(task, samples, count, sampler=sampler, seed=seed)
    if task.rollout_episodes and task.environment:
        found |= _episodes(task, sampler=sampler, seed=seed, test=getattr(samples, "name", "") == "test")
    return found


def _windows(task: PolicyTask, samples: Samples, count: int, *, sampler: Sampler, seed: int) -> dict[str, float]:
    chosen = np.linspace(0, len(samples) - 1, count).astype(np.int64)
    error = weight = 0.0
    columns: dict[str, list[Tensor]] = {"nfe": [], "network_calls": [], "failed": [], "sigma0": []}
    for first in range(0, count, _BATCH):
        raw = _moved(task, samples.batch(chosen[first : first + _BATCH].tolist()))
        # Keyed by the window's place: the noise does not depend on how the split is cut into batches.
        noise = Rows(mix_seed(seed, 0xAC7), first=first, total=count)
        plan = task.plan(raw, sampler=sampler, generator=noise)
        scale, real = task.normaliser.action_scale, raw["real"][:, : task.execute, None].float()
        wrong = (plan.actions - raw["actions"])[:, : task.execute] * scale
        error += float((wrong.square() * real).sum())
        weight += float(real.sum()) * task.actions
        columns["nfe"].append(plan.evaluations.double())
        columns["network_calls"].append(plan.network_calls.double())
        columns["failed"].append((plan.solution.status != 0).double())
        if plan.sigma0 is not None:
            columns["sigma0"].append(plan.sigma0.double())
    joined = {name: torch.cat(parts) for name, parts in columns.items() if parts}
    found = {"action_rmse": (error / max(weight, 1.0)) ** 0.5}
    found |= {name: float(joined[name].mean()) for name in ("nfe", "network_calls", "failed")}
    found["nfe_p95"] = float(joined["nfe"].quantile(0.95))
    if "sigma0" in joined:
        found |= {f"sigma0_p{p}": float(joined["sigma0"].quantile(p / 100)) for p in (10, 50, 90)}
    return found


def _episodes(task: PolicyTask, *, sampler: Sampler, seed: int, test: bool) -> dict[str, float]:
    from domains.policy.evaluation import evaluate_rollouts
    from domains.policy.rollout import EVALUATION_STARTS, TUNING_STARTS

    found = evaluate_rollouts(
        task.pipeline(sampler), task.environment, episodes=task.rollout_episodes, seed=seed, envs=task.rollout_envs,
        first_start=EVALUATION_STARTS if test else TUNING_STARTS,
    )  # fmt: skip
    if not test:  # times would make the records of a resumed run differ from those of an undisturbed one
        found = {name: value for name, value in found.items() if not name.startswith("latency")}
    return {f"rollout_{name}" if name in ("nfe", "nfe_p95") else name: value for name, value in found.items()}


@torch.no_grad()
def exhibit(task: PolicyTask, samples: Samples, *, sampler: Sampler, seed: int = 0) -> dict[str, Presentation]:
    """Planned chunks beside the demonstrated one at a few held-out observations, and a film where there is an
    environment that rollouts use."""
    shown: dict[str, Presentation] = {}
    if len(samples):
        # By the golden ratio: spread over the split, and at different steps where all episodes are equally long.
        chosen = (np.arange(1, _SHOWN + 1) * 0.618034 % 1 * len(samples)).astype(np.int64)
        raw = _moved(task, samples.batch(chosen.tolist()))
        planned = [_chunks(task, raw, row, _CHUNKS, sampler=sampler, seed=seed) for row in range(len(chosen))]
        titles = [
            f"episode {int(e)}, step {int(s)}"
            for e, s in zip(raw["episode"].tolist(), raw["step"].tolist(), strict=True)
        ]
        shown["chunks"] = chunk_picture(planned, titles, list(raw["actions"].cpu().numpy()), execute=task.execute)
    if task.rollout_episodes and task.environment:
        shown |= _films(task, min(task.rollout_episodes, 2), sampler=sampler, seed=seed)
    return shown


@torch.no_grad()
def take(
    task: PolicyTask, n: int, *, sampler: Sampler, seed: int = 0, request: Mapping[str, Any]
) -> dict[str, Presentation]:
    """A film of ``n`` episodes where there is an environment, and a picture of ``n`` chunks for one observation.

    That is the ``state`` in ``request`` (numbers, or text with commas), else the middle of the training data's states
    (with grey images).

    Raises:
        UserError: the request holds something else, or a state of another size.
    """
    for key in request:
        if key != "state":
            raise UserError(f"a policy knows no request {key!r}: {nearest(str(key), ['state'])}")
    size, device = task.spec.state, task.device
    state = task.normaliser.states(torch.zeros(size, device=device))
    if "state" in request:
        state = torch.tensor(_numbers(request["state"], size), dtype=torch.float32, device=device)
    raw: RawBatch = {"state": state.expand(1, task.history, size)}
    for name, (height, width) in task.spec.images.items():
        raw[f"image/{name}"] = torch.full((1, task.history, height, width, 3), 128, dtype=torch.uint8, device=device)
    chunks = _chunks(task, raw, 0, n, sampler=sampler, seed=seed)
    title = "state " + " ".join(f"{value:.3g}" for value in state.tolist()[:6]) + (" ..." if size > 6 else "")
    shown: dict[str, Presentation] = {"chunks": chunk_picture([chunks], [title], execute=task.execute)}
    if task.environment:
        shown |= _films(task, n, sampler=sampler, seed=seed)
    return shown


def _numbers(given: Any, size: int) -> list[float]:
    try:
        numbers = [float(v) for v in (given.split(",") if isinstance(given, str) else np.ravel(given))]
    except (TypeError, ValueError):
        raise UserError(f"state={given!r} is no list of numbers: write them with commas between") from None
    if len(numbers) != size or not np.isfinite(numbers).all():
        raise UserError(f"state needs {size} finite numbers, {len(numbers)} are given")
    return numbers


def _chunks(task: PolicyTask, raw: RawBatch, row: int, n: int, *, sampler: Sampler, seed: int) -> np.ndarray:
    """``n`` planned chunks (n, horizon, actions) for one row of a batch."""
    names = ["state", *(f"image/{name}" for name in task.spec.images)]
    parts = {name: raw[name][row : row + 1].expand(n, *raw[name].shape[1:]) for name in names}
    plan = task.plan(parts, sampler=sampler, generator=Rows(mix_seed(seed, 0x5A3, row), total=n))
    return plan.actions.float().cpu().numpy()


def _moved(task: PolicyTask, raw: RawBatch) -> RawBatch:
    return {name: value.to(task.device) if isinstance(value, Tensor) else value for name, value in raw.items()}


def _films(task: PolicyTask, n: int, *, sampler: Sampler, seed: int) -> dict[str, Presentation]:
    """``n`` episodes on the starts that settings are chosen on, as a film; a text says why where there can be none."""
    from importlib.util import find_spec

    from domains.policy.film import contact_sheet, film, tiled
    from domains.policy.rollout import TUNING_STARTS

    try:
        films = film(task.pipeline(sampler), task.environment, range(TUNING_STARTS, TUNING_STARTS + n), seed=seed)
    except UserError as error:
        return {"episodes": Text(f"no film: {error}")}
    if not films:
        return {}
    # Without PyAV there is no mp4, and a training must not end for that.
    return {"episodes": contact_sheet(films) if find_spec("av") is None else tiled(films)}


def chunk_picture(
    planned: list[np.ndarray], titles: list[str], demonstrated: list[np.ndarray] | None = None, *, execute: int
) -> Picture:
    """Chunks of actions over their steps: a row of panels for each observation, a panel for each entry (at most 6).

    Args:
        planned: (n, horizon, A) for each observation.
        titles: of the observations.
        demonstrated: (horizon, A) for each, drawn in black.
        execute: steps that are carried out; the rest is shaded.
    """
    from matplotlib.figure import Figure

    entries = min(planned[0].shape[2], 6)
    figure = Figure(figsize=(max(3.2 * entries, 4.5), 2.2 * len(planned)), layout="constrained")
    panels = figure.subplots(len(planned), entries, squeeze=False, sharex=True, sharey="col")
    for row, chunks in enumerate(planned):
        for entry, axes in enumerate(panels[row]):
            steps = np.arange(chunks.shape[1])
            axes.plot(steps, chunks[:, :, entry].T, color="tab:blue", alpha=0.6, linewidth=1)
            if demonstrated is not None:
                axes.plot(steps, demonstrated[row][:, entry], color="black", linewidth=1.5)
            axes.axvspan(execute - 0.5, len(steps) - 0.5, color="0.9", zorder=0)
            axes.set_title(f"{titles[row]}: action {entry}" if entry == 0 else f"action {entry}", fontsize=8)
            axes.tick_params(labelsize=7)
    return Picture.of_figure(figure)
