"""What speech offers to FlowKit. Light: no torch here (the command line reads it for every help page)."""

from __future__ import annotations

from pathlib import Path

from flowkit.config.plugins import Plugin, Verb

plugin = Plugin(
    name="speech",
    summary="text-to-speech: Matcha-TTS on real recordings, phonemes, mel features",
    modules=("domains.speech.data", "domains.speech.models", "domains.speech.hifi_gan", "domains.speech.matcha"),
    verbs={"speak": Verb("domains.speech.speak", "say a text with a trained voice and write a wav file")},
    use='flowkit speak {run} --text "Hello, world." --out hello.wav',
    panels={"Matcha": "domains.speech.panel:SpeechPanel"},
    pretrained=Path(__file__).parent / "pretrained",
    extra="flowkit-fm[speech]",
)
