"""Training on CPUs: keep the memory of large tensors instead of giving it back to the kernel after every operation.

glibc maps every allocation over 32 MB anew and unmaps it when freed, so each large activation costs thousands of page
faults, step after step. Measured on two cores (SimCLR, ResNet-18, batch 128, two ranks): 121 -> 162 images/s in fp32,
176 -> 202 in bf16. glibc reads its tunables when a process starts, hence the second start. Needs no torch.
"""

import os
import sys
from pathlib import Path

TUNABLES = ":".join(
    (
        "glibc.malloc.mmap_max=0",
        "glibc.malloc.trim_threshold=17179869184",
        "glibc.malloc.top_pad=67108864",
        "glibc.malloc.hugetlb=1",  # madvise: transparent huge pages, where the kernel has them
    )
)


def keep_large_tensors() -> None:
    """Start this process again, under the same number, with `TUNABLES`; at once, before anything large is imported.

    Does nothing where a GPU holds the tensors, where GLIBC_TUNABLES is set already, and where there is no glibc.
    """
    has_gpu = Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()
    has_glibc = "CS_GNU_LIBC_VERSION" in os.confstr_names  # elsewhere (macOS, musl) the variable has no meaning
    if not has_gpu and has_glibc and "GLIBC_TUNABLES" not in os.environ:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "GLIBC_TUNABLES": TUNABLES})
