"""Plugins: what a domain, an outside package or one file of yours adds to FlowKit.

A plugin is a module with an attribute ``plugin`` of type :class:`Plugin`. Installed packages announce theirs by an
entry point of the group ``flowkit.plugins``; ``--plugin my.py`` opts one file in. This module and every plugin module
are light: they import no torch, so that ``flowkit --help`` is fast; the classes a recipe may name live in
``Plugin.modules`` and are imported when a recipe is read.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

from flowkit.errors import UserError

GROUP = "flowkit.plugins"
#: Packages of the core whose classes recipes may name; every module in them is imported when a recipe is read.
CORE_PACKAGES = (
    "flowkit.sources", "flowkit.paths", "flowkit.times", "flowkit.fields", "flowkit.solvers", "flowkit.couplings",
    "flowkit.objectives", "flowkit.nn", "flowkit.procedures", "flowkit.points", "flowkit.foreign",
    "flowkit.shards",
)  # fmt: skip


@dataclass(frozen=True)
class Verb:
    """A verb that a plugin adds to the command line: ``module`` has ``add_arguments(parser)`` and ``run(args)``."""

    module: str
    summary: str = ""


@dataclass(frozen=True)
class Plugin:
    """What a plugin offers.

    Args:
        name: first part of its names: recipe ``speech/matcha-prompts``, pretrained model ``speech/prompts-en``.
        summary: one line for ``flowkit list plugins``.
        modules: modules and packages (with the modules right in them) whose classes recipes may name.
        verbs: verb -> :class:`Verb` (or just the module's path).
        use: a command that puts a trained run to its use, ``{run}`` in place of its folder, for the end of a training:
            ``flowkit speak {run} --text "Hello, world."``.
        panels: task's class -> ``module:Class`` of its panel on the page of ``flowkit app``
            (:class:`flowkit.app.panel.Panel`); other tasks get the general one.
        pretrained: folder of ``save_pretrained`` folders, or None.
        recipes: folder of YAML files, or None (the recipes that ship with FlowKit are found without it).
        extra: what to ``pip install`` when a module cannot be imported, e.g. ``flowkit-fm[speech]``.
        packages: import prefixes that recipes may name; default: the package the plugin module lies in.
    """

    name: str
    summary: str = ""
    modules: tuple[str, ...] | list[str] = ()
    verbs: Mapping[str, Verb | str] = field(default_factory=dict)
    use: str = ""
    panels: Mapping[str, str] = field(default_factory=dict)
    pretrained: Path | None = None
    recipes: Path | None = None
    extra: str = ""
    packages: tuple[str, ...] = ()

    def verb(self, name: str) -> Verb:
        """The verb ``name`` as a :class:`Verb`."""
        verb = self.verbs[name]
        return Verb(verb) if isinstance(verb, str) else verb


#: Plugins opted in by file or by code, and why some installed plugins or modules could not be loaded.
_added: dict[str, Plugin] = {}
failures: dict[str, str] = {}
#: Modules and packages that were imported with all that lies right in them.
_complete: set[str] = set()


def _of_module(module: ModuleType, name: str) -> Plugin:
    plugin = getattr(module, "plugin", None)
    if plugin is None:
        plugin = Plugin(name=name, summary=(module.__doc__ or "").strip().split("\n")[0], modules=(module.__name__,))
    if not isinstance(plugin, Plugin):
        raise UserError(
            f"plugin {name}: its attribute 'plugin' is a {type(plugin).__name__}, not a flowkit.config.plugins.Plugin"
        )
    if plugin.packages:
        return plugin
    # domains.speech.plugin -> domains.speech (never domains, which holds other plugins); a file of its own -> itself.
    package = module.__name__.rpartition(".")[0] or module.__name__
    return replace(plugin, packages=(package,))


@functools.cache
def _installed() -> dict[str, Plugin]:
    modules = {entry.name: entry.module for entry in importlib.metadata.entry_points(group=GROUP)}
    # A checkout on the path that was never installed has no entry points: its domains are found by looking.
    spec = importlib.util.find_spec("domains")
    for found in pkgutil.iter_modules(spec.submodule_search_locations if spec else None) if spec else ():
        if importlib.util.find_spec(f"domains.{found.name}.plugin") is not None:
            modules.setdefault(found.name, f"domains.{found.name}.plugin")
    plugins = {}
    for name, module in sorted(modules.items()):
        try:
            plugin = _of_module(importlib.import_module(module), name)
            plugins[plugin.name] = plugin
        except Exception as error:
            # One broken plugin must not take the others away; the reason is told when one of its names is missed.
            failures[name] = f"{type(error).__name__}: {error}"
    return plugins


def plugins() -> dict[str, Plugin]:
    """Installed plugins and those opted in, by name."""
    return {**_installed(), **_added}


def add_plugin(plugin: Plugin) -> None:
    """Opt a plugin in from Python."""
    _added[plugin.name] = plugin


def add_plugin_file(path: str | Path) -> Plugin:
    """Opt in a file (``--plugin my.py``) or a package with a plugin.py (``--plugin my_domain``).

    The classes of a file can be named in recipes; its ``plugin`` (if any) adds verbs and folders.

    Raises:
        UserError: it is missing or fails to import.
    """
    path = Path(path)
    if path.is_dir() and (path / "plugin.py").is_file():
        return _add_plugin_package(path)
    if not path.is_file():
        raise UserError(f"--plugin {path}: no such file (expected a .py file, or a package with a plugin.py)")
    if path.suffix != ".py":
        raise UserError(f"--plugin {path}: a plugin file ends in .py")
    # A prefix, so that my/random.py cannot shadow a module of the standard library.
    name = "flowkit_plugin_" + "".join(c if c.isalnum() else "_" for c in path.stem)
    module = sys.modules.get(name)
    if module is None or Path(module.__file__ or "").resolve() != path.resolve():
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None  # a .py file always has a loader
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise UserError(f"--plugin {path}: {type(error).__name__}: {one_line(error)}") from error
    plugin = _of_module(module, path.stem)
    if name not in plugin.modules:
        plugin = replace(plugin, modules=(name, *plugin.modules), packages=(*plugin.packages, name))
    add_plugin(plugin)
    return plugin


def _add_plugin_package(path: Path) -> Plugin:
    folder = str(path.resolve().parent)
    name = f"{path.resolve().name}.plugin"
    if folder not in sys.path:
        sys.path.append(folder)  # at the end: it shadows nothing
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise UserError(f"--plugin {path}: {type(error).__name__}: {one_line(error)}") from error
    if Path(module.__file__ or "").resolve() != (path / "plugin.py").resolve():
        raise UserError(
            f"--plugin {path}: another package is called {path.resolve().name!r} ({module.__file__}): rename the folder"
        )
    plugin = _of_module(module, path.resolve().name)
    add_plugin(plugin)
    return plugin


def _with_submodules(name: str) -> list[str]:
    """A module, and when it is a package the modules in it."""
    if importlib.util.find_spec(name) is None:
        return []
    return [
        name,
        *(
            f"{name}.{found.name}"
            for found in pkgutil.iter_modules(getattr(importlib.import_module(name), "__path__", ()))
        ),
    ]


def _import_all(name: str) -> None:
    """Import a module and those right in it, once."""
    if name in _complete and name in sys.modules:
        return
    for module in _with_submodules(name):
        importlib.import_module(module)
    _complete.add(name)


def import_classes() -> None:
    """Import every module whose classes recipes may name; ``failures`` notes those of plugins that cannot be."""
    for package in CORE_PACKAGES:
        _import_all(package)
    for plugin in plugins().values():
        for entry in plugin.modules:
            try:
                _import_all(entry)
            except ImportError as error:
                hint = f" (pip install {plugin.extra!r})" if plugin.extra else ""
                failures[entry] = f"{one_line(error)}{hint}"


def allowed_packages() -> tuple[str, ...]:
    """Import prefixes that a recipe may name: the core's and those of the plugins."""
    allowed = {"flowkit"}
    for plugin in plugins().values():
        allowed.update(plugin.packages, plugin.modules)
    return tuple(sorted(allowed))


def is_allowed(path: str) -> bool:
    """True when the dotted path ``path`` lies in the core or in a loaded plugin."""
    return any(path == package or path.startswith(package + ".") for package in allowed_packages())


def failure_note() -> str:
    """A half-sentence about plugins that could not be loaded, or nothing."""
    return "".join(f"; {name} could not be loaded: {reason}" for name, reason in sorted(failures.items()))


def one_line(error: object) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split())
