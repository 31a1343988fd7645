"""The loop with steps per sample: each has its own time, step, verdict and end, in float64.

Every attempt is one step of the whole batch. A sample that arrived (or was stopped) has its goal where it is, so it
makes steps of size 0 until it is dropped; then the network is not asked about it again. Decisions use a sample's own
numbers only: the same steps alone and in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from flowkit.cond import Cond
from flowkit.fields.field import Evaluation
from flowkit.solvers.fixed_loop import broken, check_shape
from flowkit.solvers.interpolation import hermite
from flowkit.solvers.runge_kutta import spread
from flowkit.solvers.save import Recorder, Save, read_times
from flowkit.solvers.sensitivity import Problem
from flowkit.solvers.solver import Solution, Status, time_dtype

#: Finished samples are dropped every so many attempts, and at once when they are this share of the batch.
_DROP_EVERY, _DROP_SHARE = 4, 0.25
#: Attempts between two looks for samples whose step fell below the resolution of time.
_LOOK_EVERY = 8


class _Finished(NamedTuple):
    """What is left of samples that were dropped."""

    x: Tensor
    t: Tensor
    tally: Tensor
    row: Tensor
    status: Tensor
    extra_calls: Tensor | None


@dataclass
class _Running:
    """The samples still in the batch; every tensor has them as rows (``tally`` as columns)."""

    x: Tensor
    t: Tensor
    goal: Tensor
    tally: Tensor  # (2, b): attempts and accepted steps
    row: Tensor  # in the whole batch
    status: Tensor
    extra_calls: Tensor | None  # network calls that differ by sample
    first: Evaluation
    solver_memory: Any
    controller_memory: Any
    cond: Cond | None

    def take(self, index: Tensor) -> _Running:
        def pick(value: Tensor) -> Tensor:
            return value.index_select(0, index)

        calls = self.first.calls
        first = replace(
            self.first,
            v=pick(self.first.v),
            heads={name: pick(head) for name, head in self.first.heads.items()},
            calls=calls if isinstance(calls, int) else pick(calls),
        )
        return _Running(
            pick(self.x),
            pick(self.t),
            pick(self.goal),
            self.tally.index_select(1, index),
            pick(self.row),
            pick(self.status),
            None if self.extra_calls is None else pick(self.extra_calls),
            first,
            None if self.solver_memory is None else tree_map_only(Tensor, pick, self.solver_memory),
            tree_map_only(Tensor, pick, self.controller_memory),
            None if self.cond is None else self.cond.take(index),
        )

    def result(self, index: Tensor) -> _Finished:
        extra = None if self.extra_calls is None else self.extra_calls[index]
        return _Finished(self.x[index], self.t[index], self.tally[:, index], self.row[index], self.status[index], extra)


def run_adaptive(problem: Problem) -> Solution:
    """Solve with the steps that the controller chooses."""
    return _Adaptive(problem).run()


class _Adaptive:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        x, (start, end) = problem.x, problem.span
        b = x.shape[0]
        self.forward = end > start
        self.dtype = time_dtype(x)
        # Steps below ``least`` do not move float64 times; rejected below ``resolution`` they are given up.
        largest = max(abs(start), abs(end))
        self.least = 4 * torch.finfo(torch.float64).eps * largest
        self.resolution = max(self.least, min(2 * torch.finfo(self.dtype).eps * largest, 1e-7 * abs(end - start)))
        self.finished: list[_Finished] = []
        #: The field at the present points is known. After a step of a method that did not make it on the way, it is
        #: asked only when the samples that have arrived are gone.
        self.known = True
        self.evaluations, self.calls = 0, 0
        # What a sample has cost after so many attempts: all that still run have made the same number.
        self.evaluations_after, self.calls_after = [], []

        times = read_times(problem.save, problem.span)
        dense = problem.save is Save.DENSE
        self.recorder = Recorder(x, times, dense, problem.span) if dense or times is not None else None

        t = torch.full((b,), start, dtype=torch.float64, device=x.device)
        tally = torch.zeros(2, b, dtype=torch.int64, device=x.device)
        row = torch.arange(b, device=x.device)
        goal, status = torch.full_like(t, end), torch.zeros_like(row)
        self.now = _Running(x, t, goal, tally, row, status, None, Evaluation(x), None, None, problem.cond)
        self.now.first = self.evaluate(x, t)
        check_shape(self.now.first, x)
        self.stop(broken(self.now.first.v, problem.cond), Status.NON_FINITE)
        self.now.solver_memory = problem.solver.start(t, x, self.now.first)
        beginning = problem.controller.begin(
            problem.field, t, x, self.now.first, end=end, solver=problem.solver, cond=problem.cond
        )
        self.now.controller_memory = beginning.memory
        self.count(beginning.evaluations, beginning.calls)
        self.close_attempt()

    def run(self) -> Solution:
        hooks, attempt = self.problem.hooks, 0
        while True:
            running = self.now.t != self.now.goal
            n, left = len(running), int(torch.count_nonzero(running))
            if left == 0:
                break
            if self.evaluations + self.next_evaluations() > self.problem.max_evaluations:
                self.stop(running, Status.MAX_EVALUATIONS)
                break
            many = not self.known or attempt % _DROP_EVERY == 0 or left <= (1 - _DROP_SHARE) * n
            if left < n and not hooks and many:
                self.finished.append(self.now.result((~running).nonzero().squeeze(1)))
                self.now = self.now.take(running.nonzero().squeeze(1))
                running = torch.ones_like(self.now.t, dtype=torch.bool)
            if not self.known:
                self.now.first, self.known = self.evaluate(self.now.x, self.now.t, running), True
            for hook in hooks:
                replacement = hook(attempt, self.now.t, self.now.x, self.now.first)
                if replacement is not None:
                    # Finished samples wait for the rest and stay as they are.
                    self.now.x = torch.where(spread(running, replacement), replacement, self.now.x)
                    self.now.first = self.evaluate(self.now.x, self.now.t)
            self.attempt(running)
            attempt += 1
            if attempt % _LOOK_EVERY == 0:
                self.stop_stuck()
        x = self.now.x
        for hook in hooks:
            replacement = hook(attempt, self.now.t, x, None)
            x = x if replacement is None else replacement
        self.now.x = x
        return self.solution()

    def next_evaluations(self) -> int:
        """What the next step will cost: the first one of it may have been made."""
        made = self.known and not getattr(self.problem.solver, "fsal", False)
        return self.problem.solver.evaluations - made

    def attempt(self, running: Tensor) -> None:
        """One step of all rows; those that ``running`` does not mark have arrived and do not move."""
        now, problem = self.now, self.problem
        t1, memory = problem.controller.propose(
            now.t, now.x, now.first, end=problem.span[1], memory=now.controller_memory
        )
        t1 = torch.minimum(t1, now.goal) if self.forward else torch.maximum(t1, now.goal)
        step = problem.solver.step(problem.field, now.t, t1, now.x, now.first, now.solver_memory, now.cond)
        self.count(step.evaluations, step.calls, running)
        self.size = t1 - now.t
        padding = None if now.cond is None else now.cond.padding
        accepted, now.controller_memory = problem.controller.judge(
            now.x, self.size, step, padding=padding, memory=memory
        )
        accepted = accepted & running
        now.tally.add_(torch.stack((running, accepted)))
        self.close_attempt()

        wide = spread(accepted, now.x)
        x, t = torch.where(wide, step.x, now.x), torch.where(accepted, t1, now.t)
        if now.solver_memory is None or step.memory is None:
            now.solver_memory = step.memory
        else:
            now.solver_memory = tree_map(lambda new, old: _keep(accepted, new, old), step.memory, now.solver_memory)
        before, now.x = now.x, x
        if step.last is None:
            self.known = self.recorder is not None
            after = self.evaluate(x, t, t != now.goal) if self.known else now.first
        else:
            v = torch.where(wide, step.last.v, now.first.v)
            heads = {name: _keep(accepted, new, now.first.heads[name]) for name, new in step.last.heads.items()}
            after = Evaluation(v, heads, step.last.calls)
        if self.recorder is not None:
            polynomial = step.dense() if step.dense else hermite(before, now.first.v, x, after.v, self.size)
            self.recorder.add(now.row, accepted, now.t, t1, x, polynomial)
        now.first, now.t = after, t
        self.last_step, self.accepted = step, accepted

    def evaluate(self, x: Tensor, t: Tensor, running: Tensor | None = None) -> Evaluation:
        evaluation = self.problem.field(x, t.to(self.dtype), self.now.cond)
        self.count(1, evaluation.calls, running)
        return evaluation

    def count(self, evaluations: int, calls: int | Tensor, running: Tensor | None = None) -> None:
        self.evaluations += evaluations
        if isinstance(calls, Tensor):
            calls = calls.to(torch.int64) if running is None else calls.to(torch.int64) * running
            self.now.extra_calls = calls + (0 if self.now.extra_calls is None else self.now.extra_calls)
        else:
            self.calls += calls

    def close_attempt(self) -> None:
        self.evaluations_after.append(self.evaluations)
        self.calls_after.append(self.calls)

    def stop(self, which: Tensor, status: Status | Tensor) -> None:
        """Let the samples ``which`` end where they are."""
        now = self.now
        now.goal = torch.where(which, now.t, now.goal)
        now.status = torch.where(which, status if isinstance(status, Tensor) else int(status), now.status)

    def stop_stuck(self) -> None:
        """End the samples whose steps have become too small to matter: at a point where the field is not finite, or too
        hard.
        """
        size = self.size.abs()
        stuck = (self.now.t != self.now.goal) & ((size <= self.least) | ((size <= self.resolution) & ~self.accepted))
        if not bool(stuck.any()):
            return
        step, cond = self.last_step, self.now.cond
        bad = broken(step.x, cond)
        if step.error is not None:
            bad = bad | broken(step.error, cond)
        self.stop(stuck, torch.where(bad, int(Status.NON_FINITE), int(Status.STEP_TOO_SMALL)))

    def solution(self) -> Solution:
        """Put the rows back in their order."""
        parts = [*self.finished, self.now.result(torch.arange(len(self.now.t), device=self.now.t.device))]
        order = torch.argsort(torch.cat([p.row for p in parts]))
        attempts, accepted = torch.cat([p.tally for p in parts], 1)[:, order]
        status = torch.cat([p.status for p in parts])[order]
        x = torch.cat([p.x for p in parts])[order]
        calls = torch.tensor(self.calls_after, device=x.device)[attempts]
        if any(p.extra_calls is not None for p in parts):
            calls = (
                calls
                + torch.cat([torch.zeros_like(p.row) if p.extra_calls is None else p.extra_calls for p in parts])[order]
            )
        solution = Solution(
            x=x,
            evaluations=torch.tensor(self.evaluations_after, device=x.device)[attempts],
            network_calls=calls,
            accepted=accepted,
            rejected=attempts - accepted,
            status=torch.where(broken(x, self.problem.cond), int(Status.NON_FINITE), status),
            stopped_at=torch.cat([p.t for p in parts])[order],
        )
        if self.recorder is not None:
            self.recorder.deliver(solution)
        return solution


def _keep(accepted: Tensor, new: Any, old: Any) -> Any:
    """The new rows of accepted samples, the old ones of the others; what is not a tensor is simply new."""
    if not isinstance(new, Tensor) or not isinstance(old, Tensor):
        return new
    return torch.where(accepted.reshape(-1, *[1] * (new.ndim - 1)), new, old)
