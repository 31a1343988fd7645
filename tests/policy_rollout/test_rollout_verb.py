"""``flowkit rollout`` from the command line, with a policy that was trained for a moment."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from rollout_worlds import WALK, Walk

from domains.policy.actors import ExpertActor
from domains.policy.evaluation import evaluate_rollouts
from domains.policy.pipeline import FlowPolicy
from domains.policy.records import read_episodes
from flowkit.cli.main import main
from flowkit.config import plugins

WORLDS = Path(__file__).parent / "rollout_worlds.py"
RECIPE = """
data: {class_path: ForkDemonstrations, init_args: {horizon: 16, execute: 8}}
task:
  class_path: PolicyTask
  init_args:
    network: {class_path: ChunkMLP, init_args: {width: 32, depth: 2}}
    state: 2
    actions: 1
    objective: FlowMatching
trainer:
  {steps: 30, batch: 64, device: cpu, evaluate_every: 0, sample_every: 0, checkpoint_every: 0, tensorboard: false,
   progress: false}
sampler: {solver: Euler, steps: 3}
seed: 0
"""


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    """Default folders lie where the command is called."""
    before = dict(plugins._added)
    monkeypatch.chdir(tmp_path)
    yield
    plugins._added.clear()
    plugins._added.update(before)


@pytest.fixture
def flowkit(capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*map(str, arguments), "--plugin", str(WORLDS)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def fork_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "fork.yaml").write_text(RECIPE)
    assert main(["train", str(folder / "fork.yaml"), "--out", str(folder / "fork"), "--plugin", str(WORLDS)]) == 0
    return folder / "fork"


def test_a_table_with_ceiling_and_floor(flowkit, fork_run):
    code, out, err = flowkit("rollout", fork_run, "--episodes", 12, "--expert", "--random", "--device", "cpu")
    assert code == 0, err
    rows = {line.split()[0]: line for line in out.splitlines() if line and not line.startswith(" ")}
    assert "100.0 %" in rows["expert"]
    assert "3.00 / 3 / 3" in rows["policy"]
    assert "FlowKit/Fork-v0: starts 100000 to 100011, seed 0" in out
    assert "decisions: " in out
    assert "a decision alone takes" in out
    folder = Path("rollouts/fork-1")
    for part in (folder, folder / "expert", folder / "random"):
        assert len(read_episodes(part / "episodes.jsonl")) == 12
    told = json.loads((folder / "summary.json").read_text())
    assert set(told["results"]) == {"policy", "expert", "random"}
    assert not list(Path().glob("*.mp4"))


def test_json_and_the_sampler(flowkit, fork_run):
    def result(*options):
        code, out, err = flowkit("rollout", fork_run, "--episodes", 6, "--json", "--device", "cpu", *options)
        assert code == 0, err
        return json.loads(out)

    plain = result()
    assert plain["results"]["policy"]["nfe"]["mean"] == 3
    assert plain["results"]["policy"]["episodes"] == 6
    assert result("--steps", 2)["results"]["policy"]["nfe"]["max"] == 2
    assert result("--solver", "Heun")["results"]["policy"]["nfe"]["max"] == 6
    assert result("--execute", 16)["results"]["policy"]["nfe_histogram"]["3"] < sum(
        plain["results"]["policy"]["nfe_histogram"].values()
    )
    # Each rollout lies in a folder of its own.
    assert sorted(p.name for p in Path("rollouts").iterdir()) == [f"fork-{i}" for i in range(1, 5)]


def test_a_rollout_goes_on(flowkit, fork_run):
    options = ["rollout", fork_run, "--out", "here", "--device", "cpu", "--json"]
    assert flowkit(*options, "--episodes", 4)[0] == 0
    before = read_episodes("here/episodes.jsonl")
    code, _, err = flowkit(*options, "--episodes", 8)
    assert (code, err.count("\n")) == (2, 1)
    assert "--resume goes on" in err
    code, out, err = flowkit(*options, "--episodes", 8, "--resume")
    assert code == 0, err
    assert json.loads(out)["results"]["policy"]["episodes"] == 8
    assert read_episodes("here/episodes.jsonl")[:4] == before
    code, _, err = flowkit(*options, "--episodes", 8, "--resume", "--steps", 2)
    assert (code, err.count("\n")) == (2, 1)
    assert "its episodes have sampler" in err


def test_a_film_and_its_picture(flowkit, fork_run):
    code, out, err = flowkit("rollout", fork_run, "--episodes", 2, "--video", "deep/fork.mp4", "--device", "cpu")
    assert code == 0, err
    assert Path("deep/fork.mp4").stat().st_size > 1000
    assert Path("deep/fork.png").read_bytes().startswith(b"\x89PNG")
    assert "deep/fork.mp4" in out


def test_an_environment_that_keeps_breaking_keeps_the_episodes(flowkit, fork_run):
    code, _, err = flowkit("rollout", fork_run, "--env", "FlowKitTests/WalkBroken-v0", "--out", "x", "--device", "cpu")
    assert code == 2
    assert "broke down in 3 episodes in a row" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert len(read_episodes("x/episodes.jsonl")) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["give a RUN, or --expert or --random"]),
        (["--expert"], ["--env ID"]),
        (["nothing", "--episodes", "0"], ["--episodes 0: at least 1"]),
        (["nothing", "--envs", "0"], ["--envs 0"]),
        (["nothing", "--first-start", "-1"], ["--first-start -1"]),
        (["nothing", "--video", "film.gif"], ["must end in .mp4"]),
        (["nothing", "--episods", "3"], ["did you mean '--episodes'?"]),
        (["--random", "--env", "FlowKit/Fork-v0", "--execute", "3"], ["give a RUN"]),
        (["nothing"], ["'nothing' is neither a run folder nor a pretrained model"]),
        (["speech/prompts-en"], ["is no policy"]),
        (["--random", "--env", "FlowKit/Frok-v0"], ["did you mean 'FlowKit/Fork-v0'?"]),
        (["--expert", "--env", "CartPole-v1"], ["has no scripted expert"]),
        (["RUN", "--env", "Pendulum-v1"], ["does not fit Pendulum-v1", "3 entries"]),
        (["RUN", "--steps", "0"], ["--steps 0"]),
        (["RUN", "--execute", "17"], ["execute is 17"]),
        (["RUN", "--eta", "0.1"], ["log_sigma"]),
        (["RUN", "--device", "tpu9"], ["device 'tpu9'"]),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(flowkit, fork_run, options, words):
    code, out, err = flowkit("rollout", *[fork_run if o == "RUN" else o for o in options])
    assert (code, out, err.count("\n")) == (2, "", 1)
    for word in words:
        assert word in err
    assert not list(Path().iterdir())


def test_help_has_an_example(flowkit):
    code, out, _ = flowkit("rollout", "--help")
    assert code == 0
    assert "flowkit rollout runs/fork" in out


def test_an_environment_that_cannot_be_reset_is_told_as_a_breakdown(flowkit):
    code, _, err = flowkit("rollout", "--random", "--env", "FlowKitTests/WalkUnmade-v0")
    assert code == 2
    assert "broke down in 3 episodes in a row" in err.splitlines()[-1]


def test_evaluation_gives_finite_numbers_only(fork_run):
    policy = FlowPolicy.from_pretrained(fork_run)
    found = evaluate_rollouts(policy, policy.environment, episodes=10, envs=4)
    assert all(math.isfinite(value) for value in found.values())
    assert found["success_low"] <= found["success"] <= found["success_high"]
    assert (found["nfe"], found["nfe_p95"], found["episodes"]) == (3.0, 3.0, 10.0)
    assert found["latency_ms"] > 0
    assert found["mode_coverage"] in (0.0, 0.5, 1.0)
    script = evaluate_rollouts(ExpertActor("FlowKit/Fork-v0"), "FlowKit/Fork-v0", episodes=20)
    assert (script["success"], script["mode_coverage"]) == (1.0, 1.0)
    assert "nfe" not in script


def test_a_film_that_fails_costs_no_table(flowkit, monkeypatch):
    def dark(self):
        raise RuntimeError("no screen")

    monkeypatch.setattr(Walk, "render", dark)
    code, out, err = flowkit("rollout", "--random", "--env", WALK, "--episodes", 2, "--out", "x", "--video", "a.mp4")
    assert code == 2
    assert "no screen" in err.splitlines()[-1]
    assert "95 % interval" in out
    assert Path("x/summary.json").is_file()


def test_films_without_their_package_are_refused_before_the_rollout(flowkit, monkeypatch):
    monkeypatch.setattr("domains.policy.rollout_verb.find_spec", lambda name: None)
    code, _, err = flowkit("rollout", "--random", "--env", WALK, "--video", "a.mp4")
    assert code == 2
    assert "needs PyAV" in err
    assert not list(Path().iterdir())
