"""What must be said before anything is imported, and which tests come first."""

import os

import pytest

# gcsfs asks for a bucket's kind over gRPC, a minute long, of a server that speaks HTTP only; it reads this at import.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
# One thread here and in every process that a test starts: two processes of tests share two cores, and the bits of a run
# that is killed in one process and goes on in another are compared.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that neither of two processes is left alone with them."""
    items.sort(key=lambda item: "strategies" not in item.path.parts)
