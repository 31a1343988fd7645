"""Small models of three domains, whose buffers are filled by hand, and their exports, made once: exporters are slow."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest
import torch

from domains.policy.models.encoders import ImageEncoder, ObservationEncoder
from domains.policy.models.mlp import ChunkMLP
from domains.policy.observations import ObservationLayout
from domains.policy.task import PolicyTask
from domains.speech.features import MelConfig
from domains.speech.matcha import Matcha
from domains.speech.models.decoder import MatchaDecoder
from domains.speech.models.text_encoder import EncoderSizes
from domains.speech.voice import Voice
from domains.video.models.transformer import RiverTransformer
from domains.video.river import RiverTask
from flowkit.export import Exported, open_export, write_export
from flowkit.fields.guidance import ClassifierFree
from flowkit.nn.codec import IdentityCodec
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.paths.linear import LinearPath
from flowkit.solvers.midpoint import Midpoint
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Task

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
#: Formats that can be tested here.
FORMATS = ("onnx", "torch") if HAS_ONNX else ("torch",)


@dataclass
class Made:
    task: Task
    sampler: Sampler
    place: Path
    opened: dict[str, Exported] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path:
        """The export, made when it is first asked for."""
        return write_export(self.place, self.task, self.sampler, formats=FORMATS)

    def open(self, runtime: str) -> Exported:
        """Opened once: reading a traced program takes seconds."""
        if runtime not in self.opened:
            self.opened[runtime] = open_export(self.folder, runtime=runtime, threads=1)
        return self.opened[runtime]


def alive(task: Task) -> Task:
    """Layers that start at zero would hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    for parameter in task.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return task.eval()


def policy_task(**options) -> PolicyTask:
    """Two observations of a state and a picture; bounds that clip."""
    torch.manual_seed(0)
    task = PolicyTask(
        lambda spec: ChunkMLP(spec, width=16, depth=1),  # pyright: ignore[reportArgumentType]
        options.pop("objective", None) or FlowMatching(),
        **{
            "state": 3, "actions": 2, "history": 2, "horizon": 4, "execute": 2, "images": {"eye": [32, 32]},
            "encoder": lambda spec: ObservationEncoder(
                spec, width=8, image=lambda h, w: ImageEncoder(h, w, channels=[4], groups=4, size=6)
            ),
            **options,
        },
    )  # fmt: skip
    normaliser = task.normaliser
    layout = ObservationLayout((("position", 3),), (("eye", 32, 32),))
    normaliser.remember({"layout": layout.to_json(), "history": 2, "horizon": 4, "execute": 2})
    normaliser.state_scale.copy_(torch.tensor([2.0, 0.5, 1.0]))
    normaliser.action_scale.copy_(torch.tensor([0.1, 3.0]))
    normaliser.action_shift.copy_(torch.tensor([1.0, -2.0]))
    normaliser.action_low.copy_(torch.tensor([-4.0, -torch.inf]))
    normaliser.action_high.copy_(torch.tensor([4.0, torch.inf]))
    alive(task)
    return task


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Made:
    sampler = Sampler(steps=2, guidance=ClassifierFree(2.0, interval=(0.2, 0.9)))
    return _made(policy_task(), sampler, tmp_path_factory)


@pytest.fixture(scope="session")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two speakers, two resolutions of frames, noise scaled by a temperature."""
    torch.manual_seed(0)
    task = Matcha(
        lambda spec: MatchaDecoder(
            spec, features=8, channels=[8, 8], head_width=4, middle=0, transformers=0, groups=4, condition=4
        ),
        FlowMatching(path=LinearPath(floor=1e-4)),
        encoder=EncoderSizes(4, 8, 1, 1, 3, 1, 0.1, 0.5, 8), symbols=30, features=8, speakers=2, speaker_width=4,
    )  # fmt: skip
    mel = MelConfig(sample_rate=8000, n_fft=256, win=256, hop=64, bins=8, f_max=4000.0)
    stored = Voice(mel, tuple("_ abcdefghijklmnopqrstuvwxyz."), "characters", speakers=("anna", "bert"))
    task.stored_voice.copy_(stored.to_bytes())
    task.mel_mean.fill_(-3.0)
    task.mel_std.fill_(0.3)
    task.duration_totals.copy_(torch.tensor([3.0, 2.0]))
    return _made(alive(task), Sampler(steps=1, temperature=0.7), tmp_path_factory)


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A past for each call of the network, and a warm start."""
    torch.manual_seed(0)
    task = RiverTask(
        lambda spec: RiverTransformer(spec, width=16, heads=2, blocks=(1, 0, 1)),  # pyright: ignore[reportArgumentType]
        FlowMatching(), size=8, context=2, codec=IdentityCodec(patch=2), strength=0.1,
    )  # fmt: skip
    task.clip_frames.fill_(6)
    return _made(alive(task), Sampler(solver=Midpoint(), steps=1), tmp_path_factory)


def _made(task: Task, sampler: Sampler, factory: pytest.TempPathFactory) -> Made:
    return Made(task, sampler, factory.mktemp("exports") / type(task).__name__)
