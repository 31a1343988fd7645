"""Reading a recipe's YAML: 1e-4 is a number, a key given twice is an error, and every error is one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from flowkit.errors import UserError


class _Loader(yaml.SafeLoader):
    """Safe (no Python tags), YAML 1.2 floats, no duplicate keys."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
        seen.add(key.value)
    loader.flatten_mapping(node)
    return {
        loader.construct_object(key, deep=True): loader.construct_object(value, deep=True) for key, value in node.value
    }


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Raises:
        UserError: broken YAML; ``where`` (a file, an option) and the line are named.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader: plain values only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{where}{line}: broken YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where}: broken YAML: {' '.join(str(error).split())}") from None
    except (ValueError, TypeError, RecursionError) as error:  # bad dates, unhashable keys, bottomless nesting
        raise UserError(f"{where}: broken YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> Any:
    """The value of a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file (UTF-8)"
        raise UserError(f"{path}: cannot be read: {reason}") from None
    return parse_yaml(text, str(path))
