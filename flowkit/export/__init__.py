"""Trained models as programs: torch.export and ONNX, checked against eager torch before they are put in place."""

from flowkit.export.cached import cached_export
from flowkit.export.runtime import Exported, open_export
from flowkit.export.write import write_export

__all__ = ["Exported", "cached_export", "open_export", "write_export"]
