"""Learning a policy from demonstrations: the law of the next actions given the last observations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from domains.policy.models.encoders import Encoder, ObservationEncoder
from domains.policy.models.specs import ChunkSpec, ObservationSpec
from domains.policy.normaliser import Mode, Normaliser
from domains.policy.windows import check_window
from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.data import DataSource, RawBatch, Samples
from flowkit.errors import UserError
from flowkit.fields.field import LOG_SIGMA
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Networks, Objective
from flowkit.programs import Exportable
from flowkit.random import RandomSource
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solver import Solution
from flowkit.tasks import Presentation, Task

#: The condition that networks of policies read.
OBSERVATION = "observation"


@dataclass(frozen=True)
class Plan:
    """Chunks of actions in the environment's units, within its bounds, and what they cost.

    ``sigma0`` is the predicted spread of the actions at the observation (root mean square an element, normalised
    units), or None where the network predicts none.
    """

    actions: Float[Tensor, "b horizon actions"]
    evaluations: Int[Tensor, " b"]
    network_calls: Int[Tensor, " b"]
    sigma0: Float[Tensor, " b"] | None
    solution: Solution


class PolicyTask(Task):
    """Imitation of demonstrations with any objective: x1 is a chunk of actions, the condition the observation.

    The observation is normalised and encoded once a decision. The head ``log_sigma``, where an objective asks for it,
    tells at t = 0 how far demonstrations disagree about what to do.

    Args:
        network: the network's class and sizes, e.g. ``ChunkMLP``; built once per network that the objective needs.
        objective: what trains the network and samples from it.
        state: entries of the observation's state vector.
        actions: entries of an action.
        history: observations that the policy sees, the current one included.
        horizon: actions of a chunk.
        execute: actions of a chunk that are carried out before the next decision.
        images: name of each picture of the observation -> [height, width].
        encoder: makes one vector of the observations.
        states: scale states by their ``range`` (to -1 .. 1) or by their ``deviation``; actions always by their range.
        padded: what the repeated last action beyond the end of an episode is to the loss: ``repeat`` counts it like
            any other (the policy learns to hold still), ``mask`` leaves it out.
        environment: gymnasium id of the environment to act in; "" takes what the data names.
        rollout_episodes: episodes of each evaluation; 0 for none.
        rollout_envs: environments side by side.

    Raises:
        UserError: a number out of range, or sizes that do not fit the network.
    """

    def __init__(
        self,
        network: Callable[[NetworkSpec], Network],
        objective: Objective,
        *,
        state: int,
        actions: int,
        history: int = 1,
        horizon: int = 16,
        execute: int = 8,
        images: dict[str, list[int]] | None = None,
        encoder: Callable[[ObservationSpec], Encoder] = ObservationEncoder,
        states: Mode = "range",
        padded: Literal["repeat", "mask"] = "repeat",
        environment: str = "",
        rollout_episodes: int = 0,
        rollout_envs: int = 8,
    ) -> None:
        super().__init__()
        check_window(history=history, horizon=horizon, execute=execute)
        if state < 0 or actions < 1 or not (state or images):
            raise UserError(
                f"PolicyTask: state is {state}, actions is {actions}: an action has at least one entry, an observation "
                "a state or an image"
            )
        if padded not in ("repeat", "mask"):
            raise UserError(f"PolicyTask: padded is repeat or mask, not {padded!r}")
        if rollout_episodes < 0 or rollout_envs < 1:
            raise UserError("PolicyTask: rollout_episodes must be at least 0, rollout_envs at least 1")
        sides = {name: _sides(name, size) for name, size in (images or {}).items()}
        self.spec = ObservationSpec(state, history, sides)
        self.actions, self.history, self.horizon, self.execute = actions, history, horizon, execute
        self.padded, self.environment_asked = padded, environment
        self.rollout_episodes, self.rollout_envs = rollout_episodes, rollout_envs
        self.normaliser = Normaliser(state, actions, state_mode=states)
        self.encoder = encoder(self.spec)
        self.objective = objective

        def build(spec: NetworkSpec) -> Network:
            return network(ChunkSpec.of(spec, horizon=horizon, actions=actions, condition=self.encoder.size))

        self.networks = Networks.build(objective.needs(), build)

    # --- data -------------------------------------------------------------------------------------------------------

    def adapt(self, data: DataSource) -> None:
        """Take scales, bounds, environment and observation layout from the data.

        Raises:
            UserError: the data does not fit the task or the environment of the rollouts, or that cannot be made.
        """
        self._check(data)
        self.normaliser.adapt(data.statistics())
        self._check_environment()

    def refit(self, data: DataSource) -> None:
        """Take environment, observation layout and bounds from the data, and keep the scales.

        Raises:
            UserError: as :meth:`adapt`.
        """
        self._check(data)
        self.normaliser.refit(data.statistics())
        self._check_environment()

    def _check(self, data: DataSource) -> None:
        """Raise where the data's sizes are not the task's."""
        statistics = data.statistics()
        layout = statistics["layout"]
        for key, mine, theirs in (
            ("state", self.spec.state, len(statistics["state"]["min"])),
            ("actions", self.actions, len(statistics["action"]["min"])),
            ("history", self.history, statistics["history"]),
            ("horizon", self.horizon, statistics["horizon"]),
            ("execute", self.execute, statistics["execute"]),
        ):
            if mine != theirs:
                raise UserError(f"task.init_args.{key} is {mine}, the data has {theirs}: set one to the other")
        images = {name: (height, width) for name, height, width in layout.get("images", ())}
        if images != dict(self.spec.images):
            raise UserError(f"task.init_args.images is {_shown(self.spec.images)}, the data has {_shown(images)}")

    def _check_environment(self) -> None:
        """Better now than after the first thousand steps."""
        if self.rollout_episodes and self.environment:
            from domains.policy.actors import check_spaces
            from domains.policy.envs.make import make_env

            env = make_env(self.environment)
            try:
                check_spaces(self.normaliser.layout, self.actions, env, what="the data")
            finally:
                env.close()

    @property
    def environment(self) -> str:
        """Gymnasium id of the environment, or "" (reads a buffer: not for inner loops)."""
        facts = self.normaliser.recall() if self.normaliser.fitted else {}
        stored = str(facts.get("environment", ""))
        # A fine-tuned policy acts where its new data come from, whatever its base's recipe asks for.
        return stored if stored and facts.get("refitted") else self.environment_asked or stored

    def encode(self, parts: Mapping[str, Tensor], generator: RandomSource | None = None) -> Cond:
        """The condition: ``parts`` hold ``state`` (b, history, S) in the environment's units and images as uint8."""
        seen = {name: parts[f"image/{name}"] for name in self.spec.images}
        scaled = {f"image/{name}": image for name, image in seen.items()}
        scaled["state"] = self.normaliser.normalise_state(parts["state"])
        return Cond({OBSERVATION: self.encoder(scaled, generator)})

    def prepare(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        """x1 is the normalised chunk (b, horizon, actions)."""
        keep = raw["real"].unsqueeze(2) if self.padded == "mask" else None
        return Batch(x1=self.normaliser.normalise_actions(raw["actions"]), cond=self.encode(raw, generator), keep=keep)

    # --- deciding ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def plan(
        self,
        parts: Mapping[str, Tensor],
        *,
        sampler: Sampler,
        x0: Tensor | None = None,
        generator: RandomSource | None = None,
    ) -> Plan:
        """Chunks of actions for the last observations; call it in evaluation mode.

        Args:
            parts: ``state`` (b, history, S) in the environment's units, ``image/<name>`` (b, history, h, w, 3) uint8.
            sampler: how to solve.
            x0: the noise (b, horizon, actions), drawn from ``generator`` unless given.
            generator: of all draws.
        """
        state = parts["state"]
        like = state.new_empty((state.shape[0], self.horizon, self.actions))
        with self._first_sigma() as sigma:
            solution = self.objective.generate(
                self.networks, like, self.encode(parts), sampler=sampler, x0=x0, generator=generator
            )
        actions = self.normaliser.actions(solution.x)
        sigma0 = sigma[0].exp() * self._sigma_scale if sigma and sigma[0].shape == (state.shape[0],) else None
        return Plan(actions, solution.evaluations, solution.network_calls, sigma0, solution)

    @property
    def predicts_spread(self) -> bool:
        """Whether a network tells how spread the actions are (AdaFlow): then a solver may choose its steps by that."""
        return self._spread_network is not None

    @cached_property
    def _spread_network(self) -> Network | None:
        for name in self.networks:
            if any(head.name == LOG_SIGMA for head in self.networks[name].spec.heads):
                return self.networks[name]
        return None

    @cached_property
    def _sigma_scale(self) -> float:
        """From the spread of what the network predicts to that of the velocity, at t = 0 (1 for data and velocity)."""
        assert isinstance(self.objective, FlowMatching)
        return float(self.objective.prediction.velocity_factor(torch.zeros(1), self.objective.path).sqrt())

    @contextmanager
    def _first_sigma(self) -> Iterator[list[Tensor]]:
        """Catches the head ``log_sigma`` of the first call of the network, which solvers make at t = 0 anyway."""
        caught: list[Tensor] = []
        if self._spread_network is None or not isinstance(self.objective, FlowMatching):
            yield caught
            return

        def catch(_module: Any, _given: Any, out: Mapping[str, Tensor]) -> None:
            if not caught:
                caught.append(out[LOG_SIGMA])

        handle = self._spread_network.register_forward_hook(catch)
        try:
            yield caught
        finally:
            handle.remove()

    # --- judging ----------------------------------------------------------------------------------------------------

    def evaluate(
        self, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
    ) -> dict[str, float]:
        """See :func:`domains.policy.judge.judge`."""
        from domains.policy.judge import judge

        with self.evaluating():
            return judge(self, samples, sampler=sampler, seed=seed, limit=limit)

    def present(self, samples: Samples, *, sampler: Sampler, seed: int = 0) -> Mapping[str, Presentation]:
        """Chunks beside the demonstrated ones, and a film of episodes; see :func:`domains.policy.judge.exhibit`."""
        from domains.policy.judge import exhibit

        with self.evaluating():
            return exhibit(self, samples, sampler=sampler, seed=seed)

    def sample(
        self, n: int, *, sampler: Sampler, seed: int = 0, request: Mapping[str, Any] | None = None
    ) -> Mapping[str, Presentation]:
        """``n`` chunks for one observation, in a picture; see :func:`domains.policy.judge.take`."""
        from domains.policy.judge import take

        with self.evaluating():
            return take(self, n, sampler=sampler, seed=seed, request=request or {})

    def pipeline(self, sampler: Sampler) -> Any:
        """A :class:`domains.policy.pipeline.FlowPolicy`."""
        from domains.policy.pipeline import FlowPolicy

        return FlowPolicy(self, sampler)

    def exports(self, sampler: Sampler) -> Exportable:
        """One program; see :mod:`domains.policy.exporting`."""
        from domains.policy import exporting

        return exporting.exports(self, sampler)


def _sides(name: str, size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"task.init_args.images: {name} is {list(size)}, it should be [height, width]")
    return int(size[0]), int(size[1])


def _shown(images: Mapping[str, tuple[int, int]]) -> str:
    return "{" + ", ".join(f"{name}: [{h}, {w}]" for name, (h, w) in images.items()) + "}"
