"""``flowkit list methods``: every objective and coupling has its record, and what records name is there."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from flowkit.claims import Claim, claim_of, claims
from flowkit.cli.list import classes
from flowkit.cli.list_methods import methods
from flowkit.cli.main import all_verbs, main
from flowkit.config.recipe import recipe_names
from flowkit.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["methods", "couplings"])
def test_each_class_of_the_kit_has_a_record(kind):
    own = {name: cls for name, cls in classes(kind).items() if cls.__module__.startswith(("flowkit.", "domains."))}
    own = {name: cls for name, cls in own.items() if not cls.__module__.startswith("flowkit.testing")}
    assert own
    assert [name for name, cls in own.items() if claim_of(cls) is None] == []


@pytest.mark.parametrize("name", claims())
def test_what_a_record_names_is_there(name):
    record = claims()[name]
    assert not record.recipe or record.recipe in recipe_names()
    assert not record.benchmark or (ROOT / "benchmarks" / record.benchmark).is_file()
    assert not record.page or (ROOT / "docs" / "methods" / f"{record.page}.md").is_file()
    if record.command:
        program, verb, *_ = shlex.split(record.command)
        assert program == "flowkit"
        assert verb in all_verbs()


def test_a_record_is_refused_that_names_no_paper_or_claims_nothing():
    with pytest.raises(UserError, match="no number of arXiv"):
        Claim("something", paper="arXiv:2210.02747")
    with pytest.raises(UserError, match="must not be empty"):
        Claim("")


def test_the_list_the_page_of_one_and_their_json(capsys):
    assert main(["list", "methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ConsistencyFM ") and "2407.02398" in line for line in lines)
    assert main(["list", "methods", "Reflow"]) == 0
    text = capsys.readouterr().out
    assert "https://arxiv.org/abs/2209.03003" in text
    assert "python benchmarks/reflow2d.py" in text
    assert main(["list", "methods", "Reflow", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "command"
    assert main(["list", "methods", "all"]) == 0
    text = capsys.readouterr().out
    objectives = [entry for entry in methods() if entry["kind"] == "objective" and entry["name"] != "OwnLoss"]
    assert all(f"{entry['name']} (objective)" in text for entry in objectives)
    assert [entry["name"] for entry in objectives if not entry.get("measured")] == []
    assert main(["list", "methods", "Reflo"]) == 2
    assert "Reflow" in capsys.readouterr().err
    assert main(["list", "solvers", "Euler"]) == 2


def test_the_record_of_a_plugin_is_its_own(tmp_path):
    file = tmp_path / "mine_with_claim.py"
    file.write_text(
        "from flowkit.claims import Claim\nfrom flowkit.objectives.flow_matching import FlowMatching\n\n\n"
        'class WithClaim(FlowMatching):\n    """Mine."""\n\n    claim = Claim("better", paper="2401.00001")\n'
    )
    from flowkit.config.plugins import add_plugin_file

    add_plugin_file(file)
    (entry,) = (entry for entry in methods() if entry["name"] == "WithClaim")
    assert entry["claim"] == "better"
    assert entry["paper"] == "2401.00001"
