"""Makes `import timm` work with a torchvision whose compiled operators do not load.

timm imports torchvision, which registers Python kernels for `torchvision::nms` on import. With a CPU build of torch and
a CUDA build of torchvision (the usual result of two package indices), torchvision's `_C.so` does not load, the operator
has no schema, and the import fails with "operator torchvision::nms does not exist". Declaring the two schemas is
enough, because nothing in this package calls them. If `_C.so` loads, nothing is declared: a schema may exist only once.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # its schemas live as long as this object does


def _operators_load() -> bool:
    """Whether torchvision's compiled operators load; loads them as torchvision would."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # no torchvision: timm's own import error is clear
    for library in Path(spec.origin).parent.glob("_C*.*"):
        try:
            torch.ops.load_library(library)
        except OSError:
            continue
        return True
    return False


def ensure_torchvision() -> bool:
    """Declare the schemas if they are missing; call it before importing timm. True if they were declared."""
    global _library
    if _library is None and not _operators_load():
        _library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _library.define(schema)
    return _library is not None
