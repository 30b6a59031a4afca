"""CA-Conv-BiLSTM: one map and one step per class, all bands in one stack."""

import torch
import torch.nn.functional as F
from laws import check_classifier

from rspretrain.nn.classifiers.ca_conv_bilstm import CaConvBilstm, CaConvBilstmSettings

torch.set_num_threads(1)


def make(num_classes: int = 5, areas: int = 1) -> CaConvBilstm:
    torch.manual_seed(0)
    return CaConvBilstm(CaConvBilstmSettings(areas=areas), [], num_classes)


def images(num: int = 3, areas: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    sizes = {"s2_10m": (4, 30), "s2_20m": (6, 15), "s2_60m": (2, 5)}
    return {name: torch.randn(num, bands, areas * px, areas * px) for name, (bands, px) in sizes.items()}


def test_a_map_and_a_step_for_every_class() -> None:
    model, given = make(43, areas=4).eval(), images(1, areas=4)
    assert model.attention_maps(given).shape == (1, 43, 30, 30)
    assert model.lstm.input_size == 900
    assert model(given).shape == (1, 43)


def test_logits_equal_the_equations() -> None:
    model, given = make().eval(), images()
    up = [
        F.interpolate(given[name], scale_factor=scale, mode="bicubic") for name, scale in (("s2_20m", 2), ("s2_60m", 6))
    ]
    features = model.convs(torch.cat([given["s2_10m"], *up], dim=1))  # [B 64 7 7]
    maps = torch.einsum("bfhw,kf->bkhw", features, model.class_attention.weight[:, :, 0, 0])
    torch.testing.assert_close(model.attention_maps(given), maps, rtol=1e-4, atol=1e-5)
    nodes = model.lstm(maps.flatten(2))[0]
    expected = (nodes * model.head.weight[0]).sum(dim=2) + model.head.bias
    torch.testing.assert_close(model(given), expected, rtol=1e-4, atol=1e-5)


def test_classes_influence_each_other_in_both_directions() -> None:
    model = make().eval()
    maps = torch.randn(1, 5, 49, requires_grad=True)
    for label in (0, 2, 4):
        (grad,) = torch.autograd.grad(model.head(model.lstm(maps)[0])[0, label, 0], maps)
        assert (grad.abs().sum(dim=2) > 0).all()


def test_the_lstm_has_its_own_initialisation() -> None:
    for name, parameter in make().lstm.named_parameters():
        bound = 0.0 if name.startswith("bias") else 0.1
        assert 0.99 * bound <= parameter.abs().max() <= bound


def test_learns_16_samples() -> None:
    check_classifier(make, images, steps=60)
