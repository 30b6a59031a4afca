"""Environment variables that must be set before imports, and the order of the tests."""

import os

import pytest

# Without it, gcsfs queries the bucket type over gRPC and waits a minute for an HTTP-only server. Read at import.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
# One thread here and in every subprocess: two test processes share two cores, and tests compare the bits of runs that
# are killed in one process and resumed in another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that two processes finish at the same time."""
    items.sort(key=lambda item: "strategies" not in item.path.parts)
