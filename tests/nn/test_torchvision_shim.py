"""The shim in its own process: timm imports after it, and it declares nothing if the operators load."""

import subprocess
import sys

from rspretrain.nn.torchvision_shim import ensure_torchvision

SCRIPT = """
import torch
from rspretrain.nn.torchvision_shim import ensure_torchvision
declared = ensure_torchvision()
assert ensure_torchvision() is declared
import timm, torchvision
assert torchvision.extension._has_ops() is not declared
torch.ops.torchvision.nms
print("imported")
"""


def test_timm_imports_after_the_shim() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "imported\n", done.stderr


def test_a_second_call_changes_nothing() -> None:
    assert ensure_torchvision() == ensure_torchvision()
