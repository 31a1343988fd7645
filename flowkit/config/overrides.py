"""Dotted overrides of a recipe: ``--trainer.steps 10``, ``--task.objective.segments 4``, ``--sampler.solver Midpoint``.

A path may leave ``init_args`` out; giving a class's name replaces the class and keeps the arguments that the new one
takes too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flowkit.config.classes import element, parameters, resolve, slot
from flowkit.config.yamlfile import parse_yaml
from flowkit.errors import UserError, nearest

#: A dotted path and its text, as given on the command line.
Override = tuple[str, str]


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Take ``--a.b value`` and ``--a.b=value`` out of a command line.

    Raises:
        UserError: an override without a value.
    """
    rest: list[str] = []
    overrides: list[Override] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        name, equals, value = argument.partition("=")
        if not (name.startswith("--") and "." in name and name[2:3].isalpha()):
            rest.append(argument)
            if argument == "--":
                rest += queue
                break
            continue
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise UserError(f"{name} needs a value, e.g. {name} 4")
            value = queue.pop(0)
        overrides.append((name[2:], value))
    return rest, overrides


def apply_overrides(
    recipe: Mapping[str, Any], overrides: Iterable[Override], sections: Mapping[str, Any]
) -> dict[str, Any]:
    """A copy of the plain ``recipe`` with ``overrides``; ``sections`` maps its top-level keys to their types."""
    changed = _copy(recipe)
    for path, text in overrides:
        keys = path.split(".")
        if keys[0] not in sections:
            raise UserError(f"--{path}: a recipe has no {keys[0]!r}; {nearest(keys[0], sections)}")
        value = parse_yaml(text, f"--{path}")
        changed[keys[0]] = _set(changed.get(keys[0]), sections[keys[0]], keys[1:], value, f"--{path}")
    return changed


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _set(node: Any, annotation: Any, keys: list[str], value: Any, where: str) -> Any:
    place = slot(annotation)
    if not keys:
        return _replace_class(node, annotation, value, where)
    if place is None:  # a plain mapping or list
        inner = element(annotation)
        if inner is not None and slot(inner) is not None and isinstance(node, list) and _position(node, keys[0], where):
            node[int(keys[0])] = _set(node[int(keys[0])], inner, keys[1:], value, where)
            return node
        return _set_plain(node, keys, value, where)
    if place.closed:
        node = dict(node or {})
        cls, arguments = place.base, node
    else:
        node = {"class_path": node} if isinstance(node, str) else dict(node or {})
        if keys == ["class_path"]:
            return _replace_class(node, annotation, value, where)
        if "class_path" not in node:
            if getattr(place.base, "__abstractmethods__", None):
                first = where.rpartition(".")[0]
                raise UserError(f"{where}: the recipe names no {place.base.__name__} there yet: first set {first} NAME")
            node = {"class_path": place.base.__name__, "init_args": node.get("init_args", node)}
        cls = resolve(place.base, str(node["class_path"]), where)
        arguments = node["init_args"] = dict(node.get("init_args") or {})
        if keys[0] == "init_args" and len(keys) > 1:
            keys = keys[1:]
    key, *rest = keys
    accepted = parameters(cls)
    if accepted is not None and key not in accepted:
        raise UserError(f"{where}: {cls.__name__} takes no {key!r}; {nearest(key, accepted)}")
    parameter = accepted[key] if accepted else None
    current = arguments.get(key)
    if current is None and rest and parameter is not None and not parameter.required and parameter.default is not None:
        from flowkit.config.check import specification

        if (inner := slot(parameter.annotation)) is not None:
            current = specification(parameter.default)
            current = current["init_args"] if inner.closed else current
    arguments[key] = _set(current, parameter.annotation if parameter else Any, rest, value, where)
    return node


def _replace_class(node: Any, annotation: Any, value: Any, where: str) -> Any:
    place = slot(annotation)
    if place is None or place.closed or not isinstance(value, str) or not isinstance(node, Mapping):
        return value
    accepted = parameters(resolve(place.base, value, where)) or {}
    kept = {k: v for k, v in (node.get("init_args") or {}).items() if k in accepted}
    return {"class_path": value, "init_args": kept}


def _position(node: list[Any], key: str, where: str) -> bool:
    if not key.isdigit() or int(key) >= len(node):
        raise UserError(f"{where}: {key!r} is no position in a list of {len(node)} (positions start at 0)")
    return True


def _set_plain(node: Any, keys: list[str], value: Any, where: str) -> Any:
    key, *rest = keys
    if isinstance(node, list):
        _position(node, key, where)
        node[int(key)] = _set_plain(node[int(key)], rest, value, where) if rest else value
        return node
    if node is not None and not isinstance(node, Mapping):
        raise UserError(f"{where}: there is a plain value ({node!r}) before {key!r}")
    node = dict(node or {})
    node[key] = _set_plain(node.get(key), rest, value, where) if rest else value
    return node
