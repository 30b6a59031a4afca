"""Faster training on CPUs: configures glibc to keep the memory of large tensors instead of returning it to the kernel.

By default, glibc maps every allocation above 32 MB separately and unmaps it when freed, so every large activation
causes thousands of page faults per step. Measured on two cores (SimCLR, ResNet-18, batch 128, two ranks): 121 -> 162
images/s in fp32, 176 -> 202 in bf16. glibc reads its tunables at process start, so the process has to start again.
Needs no torch.
"""

import os
import sys
from pathlib import Path

TUNABLES = ":".join(
    (
        "glibc.malloc.mmap_max=0",
        "glibc.malloc.trim_threshold=17179869184",
        "glibc.malloc.top_pad=67108864",
        "glibc.malloc.hugetlb=1",  # madvise: transparent huge pages, if the kernel supports them
    )
)


def keep_large_tensors() -> None:
    """Start this process again (exec, same process id) with `TUNABLES`. Call it before any slow import.

    No effect with a GPU, if GLIBC_TUNABLES is already set, or without glibc.
    """
    has_gpu = Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()
    has_glibc = "CS_GNU_LIBC_VERSION" in os.confstr_names  # not on macOS or musl
    if not has_gpu and has_glibc and "GLIBC_TUNABLES" not in os.environ:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "GLIBC_TUNABLES": TUNABLES})
