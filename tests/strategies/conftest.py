import pytest
from gloo import run_ranks

from strategies.ranks import BAD, HALF, PARTS, frozen_but, on_two_ranks, with_sgd
from strategies.toys import strategy, take, tensors


@pytest.fixture(scope="session")
def found():
    """The results of each of two ranks (ranks.on_two_ranks)."""
    return run_ranks(2, on_two_ranks, timeout_s=280)


@pytest.fixture(scope="session")
def alone():
    """Losses, weights, optimizer state and updates of one process with the same global batches."""
    single = strategy("single")
    return take(single, range(20), bad=(BAD[0], 0)), *tensors(single), single.updates


@pytest.fixture(scope="session")
def alone_sgd():
    """Losses, gradient norms and weights of one process with SGD."""
    return with_sgd("single")


@pytest.fixture(scope="session")
def alone_adam():
    """Losses, weights and optimizer state of one process with Adam."""
    single = strategy("single", optimizer="adam")
    return take(single, HALF), *tensors(single)


@pytest.fixture(scope="session")
def alone_frozen():
    """Results of one process with all parts but one frozen."""
    return {only: frozen_but(only, "single") for only in PARTS}
