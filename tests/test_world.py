import torch
from gloo import run_ranks

from rspretrain import world


def test_collectives_of_one_process_are_identities():
    x = torch.randn(3, 2, requires_grad=True)
    assert world.gather_with_grad(x) is x
    assert torch.equal(world.gather_stack(x), x.detach()[None])
    assert torch.equal(world.gather_rows(x), x.detach())
    assert world.broadcast_text("") == ""
    assert torch.equal(world.mean_over_ranks(x), x.detach())
    assert torch.equal(world.sum_over_ranks(x), x.detach())
    assert (world.rank(), world.size()) == (0, 1)


def collectives():
    rank = world.rank()
    x = torch.full((2, 1), float(rank + 1), requires_grad=True)
    gathered = world.gather_with_grad(x)
    weights = torch.arange(1.0, 5.0)[:, None] * (rank + 1)
    (gathered * weights).sum().backward()
    return gathered.detach(), x.grad, world.mean_over_ranks(x), world.sum_over_ranks(x), world.gather_stack(x)


def test_two_ranks():
    for rank, (gathered, grad, mean, total, stack) in enumerate(run_ranks(2, collectives)):
        assert gathered.flatten().tolist() == [1, 1, 2, 2]
        # Rank r weights row i by i*(r+1); the gradient of a row is summed over ranks: i*(1+2).
        assert grad.flatten().tolist() == [3.0 * (2 * rank + 1), 3.0 * (2 * rank + 2)]
        assert (mean == 1.5).all()
        assert (total == 3.0).all()
        assert stack.flatten().tolist() == [1, 1, 2, 2]


def unequal_rows():
    count = (3, 0, 1)[world.rank()]
    values = 10 * world.rank() + torch.arange(count)
    none = torch.zeros(0, 4)
    text = world.broadcast_text(f"rank {world.rank()}: ä")
    return world.gather_rows(values), world.gather_rows(values[:, None] > 1), world.gather_rows(none).shape, text


def test_gather_rows_with_different_numbers_of_rows():
    for values, flags, shape, text in run_ranks(3, unequal_rows):
        assert values.tolist() == [0, 1, 2, 20]
        assert flags.dtype == torch.bool
        assert flags.tolist() == [[False], [False], [True], [True]]
        assert shape == (0, 4)
        assert text == "rank 0: ä"
