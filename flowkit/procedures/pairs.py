"""Making pairs: solve a trained field from draws of its source, and keep both ends.

The pairs (Z_0, Z_1 = solution at t = 1) are the coupling of the next rectification (Liu et al. 2022, "Flow Straight and
Fast", arXiv 2209.03003). A shard is a function of (seed, number of the shard): its noise is keyed by the place of the
pair in the store, so a generation that was killed goes on and ends equal to an undisturbed one.

Part of the pairs may run the other way, from real data at t = 1 to their noise at t = 0 ("forward pairs" of Kim et al.
2024, "Simple ReFlow", arXiv 2410.07815): then x1 is real. Which pairs, is a function of their number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowkit import atomic
from flowkit.couplings.coupling import Batch
from flowkit.errors import UserError, writing
from flowkit.objectives.objective import Networks, Objective
from flowkit.paths.affine import AffinePath
from flowkit.procedures.pair_store import FORMAT, MANIFEST, PairStore, file_digest, read_manifest, shard_problem
from flowkit.procedures.projection import excess_kurtosis, project_noise
from flowkit.random import Rows, mix_seed
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solver import Solution, Status
from flowkit.sources.source import Source

#: Folded into the seed of the noise, so that no other draw of the same seed repeats it.
_NOISE = 0x9A125

#: Numbers of pairs -> a batch of as many samples: x1 gives the shape (and the data, where pairs are inverted), the
#: condition and the weight are stored with the pairs. Must be a function of the numbers alone.
Inputs = Callable[[Sequence[int]], Batch]


@dataclass(frozen=True)
class PairPlan:
    """How many pairs, and in which portions.

    Args:
        pairs: how many; 30 000 do in the plane, a million for images.
        shard: pairs of one file.
        batch: pairs solved together.
        seed: of the noise.
        inverted: share of batches that run from real data back to noise, in [0, 1].
        project: make the noise of inverted pairs normal (:mod:`flowkit.procedures.projection`), shard by shard.
    """

    pairs: int = 30_000
    shard: int = 4096
    batch: int = 256
    seed: int = 0
    inverted: float = 0.0
    project: bool = False

    def __post_init__(self) -> None:
        if min(self.pairs, self.shard, self.batch) < 1:
            raise UserError(f"pairs {self.pairs}, shard {self.shard}, batch {self.batch}: each must be at least 1")
        if not 0.0 <= self.inverted <= 1.0:
            raise UserError(f"inverted {self.inverted}: it is a share of the pairs, from 0 to 1")
        if self.project and not self.inverted:
            raise UserError("project puts the noise of inverted pairs right, and none are inverted: say --inverted 0.5")
        if 0.0 < self.inverted < 1.0 and self.shard % self.batch:
            raise UserError(
                f"inverted {self.inverted}: whole batches are inverted, so a shard must hold whole batches, and "
                f"{self.shard} is no multiple of {self.batch}"
            )

    def record(self) -> dict[str, Any]:
        """For the manifest; settings that are off, and that older stores do not know, are left out."""
        return {name: value for name, value in asdict(self).items() if name != "project" or value}

    def runs_backward(self, first: int) -> bool:
        """Whether the batch that begins with pair ``first`` is inverted: evenly spread, in the asked proportion."""
        number = first // self.batch
        return int((number + 1) * self.inverted + 1e-9) > int(number * self.inverted + 1e-9)


def generate_pairs(
    folder: str | Path,
    objective: Objective,
    networks: Networks,
    inputs: Inputs,
    *,
    plan: PairPlan,
    sampler: Sampler,
    provenance: Mapping[str, Any],
    lengths: Callable[[Sequence[int]], np.ndarray | None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PairStore:
    """Fill a store, or go on with one that was begun by the same call; returns the finished store.

    Args:
        folder: of the store; made where it is missing.
        objective, networks: of the teacher, in evaluation mode.
        inputs: conditions and shapes by number of the pair.
        plan: how many pairs, and in which portions.
        sampler: how to solve; accurately, since the student learns the error too. Its temperature scales x0.
        provenance: for the record, plain data; must name the ``teacher`` by the hash of its weights. What was begun
            with another record is refused.
        lengths: length of each sample by number of the pair: those of a shard are then sorted, which saves padding.
        on_progress: called with (pairs done, pairs asked) after every batch.

    Raises:
        UserError: the folder holds other pairs, the objective cannot make pairs, or no solve of a shard arrived.
    """
    folder = Path(folder)
    source = getattr(objective, "source", None)
    if not isinstance(source, Source):
        raise UserError(f"{type(objective).__name__} has no source to draw x0 from: it cannot make pairs")
    manifest = _begin(folder, json.loads(json.dumps({"plan": plan.record(), "provenance": dict(provenance)})))
    kept = {shard["file"]: shard for shard in manifest["shards"]}
    manifest["shards"] = []
    was_training = networks.training
    networks.eval()
    try:
        for number in range(-(-plan.pairs // plan.shard)):
            name, numbers = f"shard-{number:05d}.safetensors", range(number * plan.shard, plan.pairs)[: plan.shard]
            old = kept.pop(name, None)
            if old is not None and shard_problem(folder, old, hashes=True) is None:
                manifest["shards"].append(old)
                if on_progress is not None:
                    on_progress(numbers[-1] + 1, plan.pairs)
                continue
            shard = _Shard(objective, networks, source, inputs, plan, sampler, lengths, on_progress)
            tensors = shard.make(numbers)
            with writing(folder / name, "pairs to "):
                atomic.write_tensors(folder / name, tensors, {"format": "pt"})
            manifest["nulls"] = shard.nulls
            manifest["shards"].append(
                {
                    "file": name,
                    **shard.facts,
                    "bytes": (folder / name).stat().st_size,
                    "sha256": file_digest(folder / name),
                }
            )
            # What is kept of an earlier attempt stays in the record until its turn has come.
            _write(folder, {**manifest, "shards": [*manifest["shards"], *kept.values()]})
    finally:
        networks.train(was_training)
    calls, made = (sum(shard[key] for shard in manifest["shards"]) for key in ("network_calls", "pairs"))
    _write(folder, {**manifest, "complete": True, "pairs": made, "nfe": calls / max(made, 1)})
    return PairStore(folder, teacher=str(provenance.get("teacher", "")), hashes=False)


def _begin(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """The manifest to go on with: that of the folder where it is of the same call, else a new one."""
    found = read_manifest(folder)
    if found is None:
        manifest = {"format": FORMAT, "complete": False, **facts, "nulls": {}, "shards": []}
        _write(folder, manifest)
        return manifest
    for part, wanted in facts.items():
        was = found.get(part, {})
        for key in {**was, **wanted}:
            if was.get(key) != wanted.get(key):
                what = "number" if key == "pairs" else key
                raise UserError(
                    f"{folder} holds pairs of another {what} ({_brief(was.get(key))}, now {_brief(wanted.get(key))}): "
                    "remove that folder or choose another"
                )
    return {**found, "complete": False}


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12]


def _write(folder: Path, manifest: Mapping[str, Any]) -> None:
    with writing(folder / MANIFEST):
        atomic.write_json(folder / MANIFEST, manifest)


class _Shard:
    """Makes the tensors of one shard."""

    def __init__(
        self,
        objective: Any,
        networks: Networks,
        source: Source,
        inputs: Inputs,
        plan: PairPlan,
        sampler: Sampler,
        lengths: Callable[[Sequence[int]], np.ndarray | None] | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.objective, self.networks, self.source, self.inputs = objective, networks, source, inputs
        self.plan, self.sampler, self.lengths, self.on_progress = plan, sampler, lengths, on_progress
        self.nulls: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}

    @torch.no_grad()
    def make(self, numbers: range) -> dict[str, Tensor]:
        """Solve all batches; neighbours of one shape become one block."""
        lengths = None if self.lengths is None else self.lengths(numbers)
        order = np.asarray(numbers) if lengths is None else np.asarray(numbers)[np.argsort(lengths, kind="stable")]
        blocks: list[list[dict[str, Tensor]]] = []
        backward: list[list[Tensor]] = []  # of each block: which rows were inverted
        calls, failed, reason = 0, 0, ""
        for start in range(0, len(order), self.plan.batch):
            first = numbers[0] + start
            part, solution = self._solve(order[start : start + self.plan.batch].tolist(), first)
            arrived = (solution.status == Status.OK) & part["x0"].isfinite().flatten(1).all(1)
            arrived &= part["x1"].isfinite().flatten(1).all(1)
            if not bool(arrived.all()):
                failed += int((~arrived).sum())
                reason = reason or solution.explain(int((~arrived).nonzero()[0]))
            calls += int(solution.network_calls[arrived].sum())
            part = {name: tensor[arrived].cpu() for name, tensor in part.items()}
            if not (blocks and _shapes(blocks[-1][0]) == _shapes(part)) and len(part["x1"]):
                blocks.append([])
                backward.append([])
            if len(part["x1"]):
                blocks[-1].append(part)
                backward[-1].append(torch.full((len(part["x1"]),), self.plan.runs_backward(first)))
            if self.on_progress is not None:
                self.on_progress(min(first + self.plan.batch, numbers[-1] + 1), self.plan.pairs)
        if not blocks:
            raise UserError(f"no pair of {len(numbers)} arrived ({reason}): change the sampler of the pairs")
        joined = [{name: torch.cat([part[name] for part in parts]) for name in parts[0]} for parts in blocks]
        sizes = [len(block["x1"]) for block in joined]
        self.facts = {"pairs": sum(sizes), "failed": failed, "network_calls": calls, "blocks": sizes}
        for block, parts in zip(joined, backward, strict=True):
            if bool((rows := torch.cat(parts)).any()):
                self._watch(block, rows)
        return {f"{number}/{name}": tensor for number, block in enumerate(joined) for name, tensor in block.items()}

    def _watch(self, block: dict[str, Tensor], rows: Tensor) -> None:
        """Note how normal the noise of inverted pairs is, and make it so where that was asked for."""
        if "padding" not in block:
            kurtosis = excess_kurtosis(block["x0"][rows])
            self.facts.setdefault("inverted_kurtosis", []).append(round(kurtosis, 4))
        if self.plan.project:
            if "padding" in block:
                raise UserError("inverted pairs of padded samples cannot be projected: leave project out")
            block["x0"][rows] = project_noise(block["x0"][rows])

    def _solve(self, numbers: list[int], first: int) -> tuple[dict[str, Tensor], Solution]:
        batch = self.inputs(numbers)
        like, cond = batch.x1, batch.cond
        if like is None:
            raise UserError("pairs need the shape of the data, and the task gave no x1")
        if cond.varies:
            raise UserError("a condition that is redrawn inside a solve cannot be stored with a pair")
        rows, sampler = Rows(mix_seed(self.plan.seed, _NOISE), first=first), replace(self.sampler, temperature=1.0)
        if self.plan.runs_backward(first):
            x1 = cond.real(like)
            solution = self.objective.generate(
                self.networks, like, cond, sampler=sampler, x0=x1, span=(1.0, 0.0), generator=rows
            )
            x0 = self._source_of(solution.x)
        else:
            x0 = self.source.draw(like, cond, rows, temperature=self.sampler.temperature)
            solution = self.objective.generate(self.networks, like, cond, sampler=sampler, x0=x0, generator=rows)
            x1 = solution.x
        tensors = {"x0": cond.real(x0), "x1": cond.real(x1)}
        tensors |= {f"cond/{name}": value for name, value in cond.items()}
        if cond.padding is not None:
            tensors["padding"] = cond.padding.expand(len(like), *cond.padding.shape[1:])
        if batch.weight is not None:
            tensors["weight"] = batch.weight
        self.nulls = {
            name: value.tolist() if isinstance(value, Tensor) else value for name, value in cond.nulls.items()
        }
        return tensors, solution

    def _source_of(self, state: Tensor) -> Tensor:
        """x0 of the state at t = 0: the inverse of ``path.start``."""
        path = getattr(self.objective, "path", None)
        if not isinstance(path, AffinePath):
            raise UserError(
                f"pairs cannot be inverted on {type(path).__name__}: leave the share of inverted pairs at 0"
            )
        return state / float(path.coefficients(torch.zeros(1, dtype=torch.float64)).sigma)


def _shapes(part: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape[1:]) for name, tensor in part.items()}
