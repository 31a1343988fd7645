"""A recipe cannot run code from outside FlowKit and the loaded plugins."""

from __future__ import annotations

import sys
from collections.abc import Callable

import jsonargparse
import pytest

from flowkit.config.recipe import Recipe, _policy, parse_recipe
from flowkit.config.values import as_argument
from flowkit.errors import UserError
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solver import Solver

SAFE = {
    "data": "ToyData",
    "task": {"class_path": "ToyTask", "init_args": {"network": "ToyNet", "objective": "FlowMatching"}},
}


def with_class(place: str, spec: object) -> dict:
    recipe = {
        "data": "ToyData",
        "task": {"class_path": "ToyTask", "init_args": {"network": "ToyNet", "objective": "FlowMatching"}},
    }
    if place == "data":
        recipe["data"] = spec
    elif place == "sampler":
        recipe["sampler"] = {"solver": spec}
    else:
        recipe["task"]["init_args"][place] = spec
    return recipe


@pytest.mark.parametrize("place", ["data", "network", "objective", "sampler"])
@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "flowkit.os.system",
        "flowkit.config.recipe.Path",
        "torch.load",
        "sys.exit",
    ],
)
@pytest.mark.parametrize("form", ["name", "spec"])
def test_foreign_classes_are_refused(place, name, form, tmp_path):
    target = tmp_path / "pwned"
    spec = (
        name
        if form == "name"
        else {"class_path": name, "init_args": {"args": ["touch", str(target)], "command": f"touch {target}"}}
    )
    with pytest.raises(UserError) as caught:
        parse_recipe(with_class(place, spec), "r.yaml").build()
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("place", ["data", "network", "objective", "sampler"])
def test_a_foreign_module_is_not_even_imported(place, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for spec in ("evil_module.Evil", {"class_path": "evil_module.Evil"}, {"class_path": "flowkit.evil_module.Evil"}):
        with pytest.raises(UserError):
            parse_recipe(with_class(place, spec), "r.yaml").build()
    assert not (tmp_path / "imported").exists()
    assert "evil_module" not in sys.modules


def test_a_prefix_is_not_a_package(tmp_path, monkeypatch):
    (tmp_path / "flowkit_evil.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="refused"):
        parse_recipe(with_class("data", "flowkit_evil.Data"), "r.yaml")


def test_the_second_fence_holds_alone_and_leaves_other_users_of_jsonargparse_alone():
    forged = Recipe("r.yaml", {"sampler": {"solver": {"class_path": "collections.OrderedDict"}}}, {"sampler": Sampler})
    with pytest.raises(UserError, match="refused"):
        forged.build()
    for annotation in (type, Callable, Solver):
        with _policy(), pytest.raises(Exception, match="not allowed"):
            as_argument("collections.OrderedDict", annotation)
    other = jsonargparse.ArgumentParser(exit_on_error=False)
    other.add_argument("--cls", type=type)
    assert other.parse_object({"cls": "decimal.Decimal"}).cls.__name__ == "Decimal"


def test_a_local_file_named_like_a_recipe_class_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "FlowMatching").write_text("class_path: os.system\n")
    monkeypatch.chdir(tmp_path)
    built = parse_recipe(SAFE, "r.yaml").build("task")
    assert type(built.task.objective).__name__ == "FlowMatching"


def test_a_recipe_of_a_plugin_file_says_which_file_is_missing():
    with pytest.raises(UserError, match=r"give --plugin mine.py"):
        parse_recipe({**SAFE, "data": "flowkit_plugin_mine.Data"}, "r.yaml")
