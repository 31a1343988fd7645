"""Demonstrations of a scripted expert, recorded when they are needed: the source without any download."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from domains.policy.data.cache import CachedDemonstrations, EpisodeWriter
from domains.policy.episodes import Episodes
from domains.policy.observations import ObservationLayout
from flowkit.errors import UserError


class ScriptedDemonstrations(CachedDemonstrations):
    """The scripted expert of an environment acts until ``episodes`` are there; the episodes are kept in the cache.

    Episode i is a function of the arguments alone. Starts have seeds below 100,000; rollouts begin at 100,000.

    Args:
        environment: gymnasium id of an environment that has an expert (``FlowKit/Fork-v0``, ``FlowKit/PointMaze...``,
            ``FlowKit/MetaWorld-...``, ``FlowKit/Cube...``).
        episodes: how many to record.
        noise: standard deviation of what the expert adds to its actions, in their units; null: its own.
        recording_seed: other seeds give other episodes.
        only_successes: leave failed attempts out and make more.
        keys: observations to keep, all where empty (``observation``, ``desired_goal`` of a point maze).
        workers: processes that record; the result does not depend on it.
        cache: where recorded data go; empty means ``$FLOWKIT_CACHE`` or the user's cache folder.
        options: see :class:`Demonstrations`.
    """

    licence = "no recording: made by a script"

    def __init__(
        self,
        environment: str,
        *,
        episodes: int = 200,
        noise: float | None = None,
        recording_seed: int = 0,
        only_successes: bool = True,
        keys: list[str] | None = None,
        workers: int = 1,
        cache: str = "",
        **options: Any,
    ) -> None:
        super().__init__(cache=cache, **options)
        self.environment, self.count, self.noise = environment, episodes, noise
        self.recording_seed, self.only_successes = recording_seed, only_successes
        self.keys, self.workers = list(keys or ()), workers

    @property
    def source(self) -> str:
        """What was recorded."""
        return f"scripted expert of {self.environment}"

    def settings(self) -> Mapping[str, Any]:
        """See :class:`CachedDemonstrations`."""
        return {
            "environment": self.environment,
            "episodes": self.count,
            "noise": self.noise,
            "seed": self.recording_seed,
            "only_successes": self.only_successes,
            "keys": self.keys,
        }

    def convert(self, folder: Path, settings: Mapping[str, Any]) -> Episodes:
        """Record; see :class:`CachedDemonstrations`.

        Raises:
            UserError: no such environment, it has no expert, a package is missing, or the expert fails too often.
        """
        from tqdm import tqdm

        from domains.policy.attempts import Script
        from domains.policy.record import chosen

        if self.count < 1:
            raise UserError(f"ScriptedDemonstrations needs at least one episode, got {self.count}")
        script = Script(self.environment, seed=self.recording_seed, noise=self.noise)
        env, _ = script.make()
        actions: Any = env.action_space
        layout = ObservationLayout.of_space(env.observation_space, keys=self.keys)
        env.close()
        bar = tqdm(
            total=self.count, desc=f"recording {self.environment}", unit="episode", mininterval=1.0, disable=None
        )
        stream = chosen(script, self.count, only_successes=self.only_successes, workers=self.workers)
        with bar, EpisodeWriter(folder, layout, actions=int(actions.shape[0])) as writer:
            for number, episode in enumerate(stream):
                if self.only_successes and not episode.success:
                    continue
                parts = {name: value[:-1] for name, value in layout.parts_batch(episode.observations).items()}
                writer.add(parts, episode.actions, seed=episode.seed, success=episode.success, number=number)
                bar.update()
            return writer.finish(
                action_low=actions.low,
                action_high=actions.high,
                environment=self.environment,
                source=self.source,
                settings=settings,
            )
