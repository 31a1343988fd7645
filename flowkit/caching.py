"""Where caches live."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root(named: str | Path = "") -> Path:
    """The folder ``named``; where none is, ``$FLOWKIT_CACHE``, else ``flowkit`` in the user's cache folder."""
    own = named or os.environ.get("FLOWKIT_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "flowkit"
