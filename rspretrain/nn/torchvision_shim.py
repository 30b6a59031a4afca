"""Lets `import timm` survive a torchvision whose compiled operators do not load (design.md D14).

timm imports torchvision, which registers Python kernels for `torchvision::nms` as it is imported. Where torch is a CPU
build and torchvision's wheel is a CUDA build (the usual outcome of two package indices), its `_C.so` does not load, the
operator has no schema, and the import dies with "operator torchvision::nms does not exist". The two schemas declared
here are enough: nothing in this package calls them. Where `_C.so` loads nothing is declared: a schema exists once.
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
    """Whether torchvision's compiled operators are there; loads them if so, as torchvision itself would."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # no torchvision: let timm's own import error speak
    for library in Path(spec.origin).parent.glob("_C*.*"):
        try:
            torch.ops.load_library(library)
        except OSError:
            continue
        return True
    return False


def ensure_torchvision() -> bool:
    """Declare the schemas if they are missing, before timm is imported. True where they had to be declared."""
    global _library
    if _library is None and not _operators_load():
        _library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _library.define(schema)
    return _library is not None
