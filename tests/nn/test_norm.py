"""SyncBatchNorm on two real ranks against nn.BatchNorm on the whole batch: value, gradient, running averages."""

import copy

import pytest
import torch
from gloo import run_ranks
from torch import Tensor, nn

from rspretrain import world
from rspretrain.nn.backbones import timm
from rspretrain.nn.norm import SyncBatchNorm, synchronise_norms

torch.set_num_threads(1)
SHAPES = {"1d": (12, 5), "2d": (12, 5, 4, 3), "2d_last": (12, 5, 4, 3)}


def make(kind: str, dtype: torch.dtype, **options: object) -> nn.Module:
    torch.manual_seed(0)
    norm = (nn.BatchNorm1d if kind == "1d" else nn.BatchNorm2d)(5, **options).to(dtype)  # type: ignore[arg-type]
    if norm.affine:
        nn.init.normal_(norm.weight, 1.0, 0.5)
        nn.init.normal_(norm.bias)
    return norm


def data(kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x, g = torch.randn(2, *SHAPES[kind], dtype=torch.float64).to(dtype).unbind()
    x = x * 3 + 50  # far from zero, where sums of squares lose float32 digits and Chan's formula does not
    return (x.contiguous(memory_format=torch.channels_last), g) if kind == "2d_last" else (x, g)


def two_steps(norm: nn.Module, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Outputs and gradients of the second of two training steps, and the final state."""
    for scale in (1.0, 1.5):
        norm.zero_grad()
        leaf = (x * scale).requires_grad_()
        y = norm(leaf)
        y.backward(g)
    out = {"y": y.detach(), "dx": leaf.grad, **{f"d{n}": p.grad for n, p in norm.named_parameters()}}
    return {**out, **norm.state_dict()}


def share(kind: str, dtype: torch.dtype, cuts: list[int], options: dict[str, object]) -> dict[str, Tensor]:
    """One rank's part of the batch; parts may differ in size."""
    x, g = (t.tensor_split(cuts)[world.rank()] for t in data(kind, dtype))
    return two_steps(synchronise_norms(make(kind, dtype, **options)), x, g)


def run_all(cases: list[tuple[str, torch.dtype, list[int], dict[str, object]]]) -> list[dict[str, Tensor]]:
    return [share(*case) for case in cases]


def test_global_batch_statistics_on_real_ranks() -> None:
    cases: list[tuple[str, torch.dtype, list[int], dict[str, object]]] = []
    for kind in SHAPES:
        cases += [(kind, torch.float32, [6], {}), (kind, torch.float64, [5], {})]
    cases += [("2d", torch.float64, [6], {"affine": False}), ("2d", torch.float64, [6], {"momentum": None})]
    cases += [("2d", torch.float64, [6], {"track_running_stats": False})]
    for case, *parts in zip(cases, *run_ranks(2, run_all, cases), strict=True):
        kind, dtype, _, options = case
        whole = two_steps(make(kind, dtype, **options), *data(kind, dtype))
        tolerance = 1e-5 if dtype == torch.float32 else 1e-10
        for name, expected in whole.items():
            if name in ("y", "dx"):
                got = torch.cat([part[name] for part in parts])
            elif name in ("dweight", "dbias"):
                got = parts[0][name] + parts[1][name]  # the strategy sums or averages these
            else:
                assert torch.equal(parts[0][name], parts[1][name]), name
                got = parts[0][name]
            torch.testing.assert_close(
                got, expected, rtol=tolerance, atol=tolerance * 10, msg=lambda m, c=case: f"{c}: {m}"
            )


def half_precision() -> tuple[Tensor, Tensor, torch.dtype]:
    x, g = (t.chunk(2)[world.rank()] for t in data("2d", torch.bfloat16))
    norm = synchronise_norms(make("2d", torch.float32))
    leaf = (x - 50).requires_grad_()
    y = norm(leaf)
    y.backward(g)
    assert leaf.grad is not None
    return y.detach(), leaf.grad, norm.running_var.dtype  # type: ignore[union-attr, return-value]


def test_bfloat16_input_keeps_float32_statistics() -> None:
    parts = run_ranks(2, half_precision)
    x, g = data("2d", torch.bfloat16)
    leaf = (x - 50).requires_grad_()
    y = make("2d", torch.float32)(leaf)
    y.backward(g)
    assert parts[0][2] == torch.float32
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), y.detach(), rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), leaf.grad, rtol=2e-2, atol=2e-2)


def test_one_rank_equals_batch_norm_bit_for_bit() -> None:
    for kind in SHAPES:
        plain = two_steps(make(kind, torch.float32), *data(kind, torch.float32))
        ours = two_steps(synchronise_norms(make(kind, torch.float32)), *data(kind, torch.float32))
        assert plain.keys() == ours.keys()
        assert all(torch.equal(plain[name], ours[name]) for name in plain)


def test_conversion_keeps_parameters_names_activation_and_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), timm.layers.BatchNormAct2d(5), nn.Sequential(nn.BatchNorm2d(5)))
    model[2].eval()
    before, parameters, x = copy.deepcopy(model), list(model.parameters()), torch.randn(4, 3, 6, 6)
    assert synchronise_norms(model) is model
    assert isinstance(model[1], SyncBatchNorm)
    assert not model[2][0].training
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert list(model.state_dict()) == list(before.state_dict())
    assert torch.equal(model(x), before(x))
    assert synchronise_norms(model)[1] is model[1]


@pytest.mark.parametrize("kind", ["1d", "2d"])
def test_evaluation_uses_running_statistics(kind: str) -> None:
    norm = synchronise_norms(make(kind, torch.float32)).eval()
    x = data(kind, torch.float32)[0]
    assert torch.equal(norm(x), make(kind, torch.float32).eval()(x))
