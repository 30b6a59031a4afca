"""K-Branch: published sizes, equality with the equations, and attention to areas."""

import pytest
import torch
from laws import check_classifier
from torch import nn

from rspretrain.nn.classifiers.k_branch import KBranch, KBranchSettings, cut_areas
from rspretrain.nn.norm import SyncBatchNorm

torch.set_num_threads(1)


def make(num_classes: int = 5, **settings: object) -> KBranch:
    torch.manual_seed(0)
    return KBranch(KBranchSettings(**{"areas": 2, **settings}), [], num_classes)  # type: ignore[arg-type]


def without_attention() -> KBranch:
    return make(attention="none")


def images(num: int = 3, areas: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    sizes = {"s2_10m": (4, 30), "s2_20m": (6, 15), "s2_60m": (2, 5)}
    return {name: torch.randn(num, bands, areas * px, areas * px) for name, (bands, px) in sizes.items()}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_have_the_papers_sizes() -> None:
    model = make(43, areas=4)
    assert [count(branch) for branch in model.branches.values()] == [604_512, 570_272, 280_032]
    assert count(model.branches) == 1_454_816
    assert count(make(43, filters="released").branches) == 992_480
    assert count(model.lstm) == 264_192
    assert count(model.attention) == 128 * 256 + 43 * 128
    assert count(model.head) == 11_008 * 43 + 43
    assert model.bands["s2_20m"] == ("B05", "B06", "B07", "B8A", "B11", "B12")
    assert make(bands_20m=("B05", "B06", "B07", "B8A")).bands["s2_20m"] == ("B05", "B06", "B07", "B8A")


def test_branches_end_in_the_published_sizes() -> None:
    for filters, last in (("paper", (64, 64, 64)), ("released", (64, 64, 32))):
        model = make(filters=filters)
        for x, branch, width, side in zip(images().values(), model.branches.values(), last, (7, 7, 5), strict=True):
            out = branch[0](cut_areas(x, 2).flatten(0, 1))  # type: ignore[index]
            assert out.shape == (12, width, side, side)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_convolutions_pad_like_same() -> None:
    given = images()
    for name, branch in make().branches.items():
        pad, conv = branch[0][0], branch[0][1]  # type: ignore[index]
        expected = nn.functional.conv2d(given[name], conv.weight, conv.bias, padding="same")
        torch.testing.assert_close(conv(pad(given[name])), expected, rtol=1e-4, atol=1e-5)


def test_logits_and_maps_of_a_whole_image() -> None:
    model, given = make(43, areas=4).eval(), images(1, areas=4)
    assert model(given).shape == (1, 43)
    assert model.attention_maps(given).shape == (1, 43, 16)


def test_areas_are_in_row_major_order_and_cover_the_same_ground_in_all_grids() -> None:
    for px in (30, 15, 5):
        ground = torch.arange(16.0).view(1, 1, 4, 4).repeat_interleave(px, 2).repeat_interleave(px, 3)
        areas = cut_areas(ground, 4)
        assert areas.shape == (1, 16, 1, px, px)
        assert torch.equal(areas, torch.arange(16.0).view(1, 16, 1, 1, 1).expand(1, 16, 1, px, px))
    x = torch.randn(2, 3, 20, 20)
    assert torch.equal(cut_areas(x, 4)[:, 6], x[:, :, 5:10, 10:15])


def test_lstm_equals_the_four_equations_in_both_directions() -> None:
    lstm, psi = make().lstm, torch.randn(1, 3, 128)
    for bias in (lstm.bias_ih_l0, lstm.bias_hh_l0_reverse):
        nn.init.normal_(bias)
    for suffix, order, part in (("", (0, 1, 2), slice(128)), ("_reverse", (2, 1, 0), slice(128, 256))):
        w, u, b, d = (getattr(lstm, f"{n}_l0{suffix}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        h, c = torch.zeros(128), torch.zeros(128)
        for r in order:
            i, f, g, o = (w @ psi[0, r] + u @ h + b + d).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            torch.testing.assert_close(lstm(psi)[0][0, r, part], h, rtol=1e-4, atol=1e-5)


def test_logits_equal_the_equations() -> None:
    model, given = make(hops=7).eval(), images()
    omega = model.relate_areas(model.describe_areas(given)).transpose(1, 2)  # [B 256 R]
    w1, w2 = model.attention.first.weight, model.attention.second.weight
    a = torch.softmax(w2 @ torch.tanh(w1 @ omega), dim=2)  # [B T R]
    psi = (omega @ a.transpose(1, 2)).clamp(min=0)  # [B 256 T]
    linear = model.head[1]
    expected = psi.transpose(1, 2).flatten(1) @ linear.weight.T + linear.bias
    torch.testing.assert_close(model(given), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.attention_maps(given), a)
    assert (omega @ a.transpose(1, 2) < 0).any()  # so that max(0, .) has an effect


def test_attention_sums_to_one_over_areas_or_hops() -> None:
    given = images()
    torch.testing.assert_close(make(hops=7).attention_maps(given).sum(dim=2), torch.ones(3, 7))
    torch.testing.assert_close(make(hops=7, softmax_over="hops").attention_maps(given).sum(dim=1), torch.ones(3, 4))


def test_only_the_lstm_depends_on_the_order_of_areas() -> None:
    model, order = make().eval(), torch.tensor([2, 0, 3, 1])
    psi = model.describe_areas(images())
    omega = model.relate_areas(psi)
    assert not torch.allclose(model.relate_areas(psi[:, order]), omega[:, order], atol=1e-4)
    moved = omega[:, order]
    torch.testing.assert_close(model._attend(moved) @ moved, model._attend(omega) @ omega, rtol=1e-4, atol=1e-5)


def test_areas_of_a_constant_image_differ_by_their_neighbours_only() -> None:
    model = make().eval()
    psi = model.describe_areas({name: torch.ones_like(x) for name, x in images().items()})
    torch.testing.assert_close(psi, psi[:, :1].expand_as(psi))
    phi = model.relate_areas(psi)
    assert (phi[:, 0] - phi[:, 1]).abs().max() > 1e-3


def test_without_attention_every_area_is_separate() -> None:
    model, given = without_attention().eval(), images()
    assert torch.equal(model.attention_maps(given), torch.eye(4).expand(3, 4, 4))
    omega = model.relate_areas(model.describe_areas(given))
    torch.testing.assert_close(model(given), model.head(omega.relu().flatten(1)))
    assert not any(name.startswith("attention") for name, _ in model.named_parameters())


def test_initialisation_is_xavier_with_zero_biases() -> None:
    model = make()
    for name, parameter in model.lstm.named_parameters():
        bound = 0.0 if name.startswith("bias") else (6 / 256) ** 0.5  # a gate is 128 x 128
        assert parameter.abs().max() <= bound
        assert parameter.abs().max() >= 0.99 * bound
    for part in model.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)) and part.bias is not None:
            assert not part.bias.any()


def test_norms_are_synchronised() -> None:
    norms = {type(part) for part in make().modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)}
    assert norms == {SyncBatchNorm}


@pytest.mark.parametrize("build", [make, without_attention])
def test_learns_16_samples(build) -> None:
    check_classifier(build, images, steps=15)


def test_images_of_another_grid_are_an_error() -> None:
    given = images()
    with pytest.raises(
        ValueError,
        match=r"Images of 's2_60m' have shape \[3, 2, 20, 20\], expected \[3, 2, 10, 10\] for .* Resample them",
    ):
        make()({**given, "s2_60m": torch.randn(3, 2, 20, 20)})
