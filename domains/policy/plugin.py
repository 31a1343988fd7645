"""What policies offer to FlowKit. Light: no torch here (the command line reads it for every help page)."""

from __future__ import annotations

from pathlib import Path

from flowkit.config.plugins import Plugin, Verb

plugin = Plugin(
    name="policy",
    summary="imitation learning: flow policies with adaptive numbers of steps, environments, demonstrations, rollouts",
    modules=("domains.policy.data", "domains.policy.models", "domains.policy.task"),
    verbs={
        "rollout": Verb(
            "domains.policy.rollout_verb", "let a trained policy act in its environment and count successes"
        ),
        "data record": Verb("domains.policy.record_verb", "record demonstrations of an environment's scripted expert"),
    },
    use="flowkit rollout {run} --expert --random --video rollout.mp4",
    panels={"PolicyTask": "domains.policy.panel:PolicyPanel"},
    pretrained=Path(__file__).parent / "pretrained",
    extra="flowkit-fm[policy]",
)
