from __future__ import annotations

import importlib.metadata
import sys

import pytest

from flowkit.config import plugins
from flowkit.config.classes import known, parameters
from flowkit.errors import UserError
from flowkit.solvers.solver import Solver


def test_the_checkout_finds_its_domains_without_entry_points(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ())
    plugins._installed.cache_clear()
    try:
        assert "speech" in plugins.plugins()
    finally:
        plugins._installed.cache_clear()


def test_a_broken_installed_plugin_does_not_take_the_others_away(monkeypatch, tmp_path):
    (tmp_path / "broken_plugin_for_test.py").write_text("raise RuntimeError('boom')\n")
    monkeypatch.syspath_prepend(tmp_path)
    entry = importlib.metadata.EntryPoint("broken", "broken_plugin_for_test", plugins.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: (entry,))
    plugins._installed.cache_clear()
    try:
        assert "speech" in plugins.plugins()
        assert "boom" in plugins.failures["broken"]
        assert "boom" in plugins.failure_note()
    finally:
        plugins.failures.pop("broken", None)
        plugins._installed.cache_clear()


def test_a_file_is_opted_in_and_its_classes_can_be_named(tmp_path):
    file = tmp_path / "my-solver.py"
    file.write_text("from flowkit.solvers.euler import Euler\nclass Mine(Euler):\n    '''A solver.'''\n")
    plugin = plugins.add_plugin_file(file)
    assert plugin.name == "my-solver"
    assert known(Solver)["Mine"].__module__ == "flowkit_plugin_my_solver"
    assert plugins.add_plugin_file(file) == plugin  # a second time changes nothing


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("none.py", None, "no such file"),
        ("wrong.txt", "", "ends in .py"),
        ("syntax.py", "def", "SyntaxError"),
        ("fails.py", "import nothing_like_this", "nothing_like_this"),
        ("other.py", "plugin = 3", "'plugin' is a int"),
    ],
)
def test_a_bad_plugin_file_is_one_line(tmp_path, name, text, word):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=word) as caught:
        plugins.add_plugin_file(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_package_is_opted_in(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    package = tmp_path / "package_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "plugin.py").write_text(
        "from flowkit.config.plugins import Plugin\nplugin = Plugin('package_for_test')\n"
    )
    plugin = plugins.add_plugin_file(package)
    assert plugin.packages == ("package_for_test",)
    assert plugins.is_allowed("package_for_test.data.Source")
    assert not plugins.is_allowed("package_for_testing.data.Source")


def test_arguments_handed_on_are_those_of_the_base():
    class Base:
        def __init__(self, a: int, *, b: str = "x") -> None: ...

    class Handed(Base):
        def __init__(self, c: float = 1.0, **base: object) -> None: ...

    class Filled(Handed):
        def __init__(self, d: int = 2, **base: object) -> None:
            super().__init__(1.0 * d, b="y", **base)

    class Anything:
        def __init__(self, *args: object) -> None: ...

    assert list(parameters(Filled) or ()) == ["d", "a"]  # c and b are given by Filled
    found = parameters(Handed)
    assert found is not None
    assert list(found) == ["c", "a", "b"]
    assert found["a"].required
    assert not found["b"].required
    assert found["a"].annotation is int
    assert parameters(Anything) is None
    assert parameters(type("Bare", (), {})) == {}
