"""Loads the official Matcha-TTS from a checkout that the user names, as a rival for timings only.

The official package imports its whole training stack (hydra, lightning, downloaders) for a few names. A stand-in module
takes the place of what is missing *here, in the benchmark*; the parts that compute are the real ones: ``diffusers``
(attention), ``conformer``, ``einops``. The compiled alignment search is the checkout's own where it was built in place
(``python setup.py build_ext --inplace``), otherwise ``monotonic_alignment_search``, which packages the same routine.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from flowkit.errors import UserError

SYMBOLS = 178


class _Anything:
    """Takes any call and any attribute: what stand-ins hand out for names that are imported and not used here."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # A bare decorator must give its function back.
        return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else _Anything()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()


class _LightningModule(nn.Module):
    """The one thing the official model needs of lightning: an ``nn.Module`` that takes ``save_hyperparameters``."""

    def save_hyperparameters(self, *args: Any, **kwargs: Any) -> None:
        pass


def _stand_in(name: str, *, force: bool = False, **contents: Any) -> None:
    """Put a module ``name`` and its parents into ``sys.modules``; only ``force`` hides one that is installed."""
    root = name.partition(".")[0]
    loaded = sys.modules.get(root)
    if loaded is not None and not getattr(loaded, "stand_in", False):
        return
    if loaded is None and not force and importlib.util.find_spec(root) is not None:
        return
    parent = None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        full = ".".join(parts[:depth])
        if full not in sys.modules:
            module = types.ModuleType(full)
            module.stand_in = True  # pyright: ignore[reportAttributeAccessIssue]
            module.__path__ = []  # pyright: ignore[reportAttributeAccessIssue]
            module.__spec__ = importlib.machinery.ModuleSpec(full, None, is_package=True)
            module.__getattr__ = _missing  # pyright: ignore[reportAttributeAccessIssue]
            sys.modules[full] = module
            if parent is not None:
                setattr(parent, parts[depth - 1], module)
        parent = sys.modules[full]
    for key, value in contents.items():
        setattr(sys.modules[name], key, value)


def _missing(attribute: str) -> Any:
    if attribute.startswith("__"):
        raise AttributeError(attribute)
    return _Anything()


def load_official(checkout: Path) -> Callable[..., nn.Module]:
    """The class of the official model, imported from ``checkout`` (the folder that holds ``matcha/``)."""
    if not (checkout / "matcha" / "models" / "matcha_tts.py").exists():
        raise UserError(
            f"--official {checkout}: no matcha/models/matcha_tts.py there; name a clone of the official repository"
        )
    for package in ("diffusers", "einops", "conformer"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"it needs {package}: pip install {package}")
    # lightning does none of the work timed here, and takes seconds to import: always the stand-in.
    _stand_in("lightning", force=True, LightningModule=_LightningModule, Callback=object)
    _stand_in(
        "lightning.pytorch.utilities", force=True, rank_zero_only=lambda function: function, grad_norm=_Anything()
    )
    _stand_in("lightning.pytorch.loggers", force=True)
    for name in (
        "hydra.core.hydra_config",
        "hydra.utils",
        "omegaconf",
        "gdown",
        "wget",
        "rich.syntax",
        "rich.tree",
        "rootutils",
    ):
        _stand_in(name)
    sys.path.insert(0, str(checkout))
    try:
        importlib.import_module("matcha.utils.monotonic_align.core")
    except ImportError:
        _borrow_alignment()
    return importlib.import_module("matcha.models.matcha_tts").MatchaTTS


def _borrow_alignment() -> None:
    name = "matcha.utils.monotonic_align.core"
    module = types.ModuleType(name)
    module.maximum_path_c = importlib.import_module("monotonic_alignment_search.core").maximum_path_c  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules[name] = module
    for loaded in ("matcha.utils.monotonic_align",):
        sys.modules.pop(loaded, None)


class _Config(dict[str, Any]):
    """A mapping that is read by attribute too, as the official configuration objects are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def official_model(checkout: Path, *, mean: float = 0.0, std: float = 1.0, symbols: int = SYMBOLS) -> Any:
    """The official model at its published size (one speaker; 18,204,193 parameters at 178 symbols)."""
    encoder = _Config(
        encoder_type="RoPE Encoder",
        encoder_params=SimpleNamespace(
            n_feats=80,
            n_channels=192,
            filter_channels=768,
            filter_channels_dp=256,
            n_heads=2,
            n_layers=6,
            kernel_size=3,
            p_dropout=0.1,
            spk_emb_dim=64,
            n_spks=1,
            prenet=True,
        ),
        duration_predictor_params=SimpleNamespace(filter_channels_dp=256, kernel_size=3, p_dropout=0.1),
    )
    decoder = {
        "channels": [256, 256], "dropout": 0.05, "attention_head_dim": 64, "n_blocks": 1, "num_mid_blocks": 2,
        "num_heads": 2, "act_fn": "snakebeta",
    }  # fmt: skip
    model = load_official(checkout)
    return model(
        n_vocab=symbols,
        n_spks=1,
        spk_emb_dim=64,
        n_feats=80,
        encoder=encoder,
        decoder=decoder,
        cfm=SimpleNamespace(solver="euler", sigma_min=1e-4),
        data_statistics={"mel_mean": mean, "mel_std": std},
        out_size=None,
    )
