"""The rival's side of ``benchmarks/policy_latency.py``: started with the Python of lerobot's own environment.

Reads a line of JSON a request and answers with one. ``{"widths": [...], "steps": 10}`` builds lerobot's policy
(random weights, one thread); ``{"batch": n}`` times one decision for n observations.
"""

# Run by another interpreter: the packages of that environment are unknown here.
# pyright: reportMissingImports=false
from __future__ import annotations

import json
import sys
import time
from typing import Any


def build(request: dict[str, Any]) -> Any:
    """Diffusion Policy on 20 numbers of state and 2 actions, DDIM."""
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = DiffusionConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (request["state"],)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (1,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (request["actions"],))},
        device="cpu", n_obs_steps=2, horizon=16, n_action_steps=8, down_dims=tuple(request["widths"]),
        diffusion_step_embed_dim=request["time_width"], noise_scheduler_type="DDIM",
        num_inference_steps=request["steps"],
    )  # fmt: skip
    return DiffusionPolicy(config).eval()


def decide(policy: Any, batch: int, state: int) -> float:
    """Seconds of one decision, its queues filled afresh."""
    import torch

    observation = {
        "observation.state": torch.randn(batch, state),
        "observation.environment_state": torch.zeros(batch, 1),
    }
    with torch.inference_mode():
        policy.reset()
        began = time.perf_counter()
        policy.select_action(dict(observation))
        return time.perf_counter() - began


def main() -> None:
    """Serve until the input ends."""
    # What the packages print must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    policy, state = None, 0
    for line in sys.stdin:
        request = json.loads(line)
        if "widths" in request:
            policy, state = build(request), request["state"]
            answer = {"parameters": sum(p.numel() for p in policy.parameters())}
        else:
            answer = {"seconds": decide(policy, request["batch"], state)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
