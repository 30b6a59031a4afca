"""MAE: several ranks equal one, lightly's encoder and targets, a slow reference, closed forms, masks, settings."""

import numpy as np
import pytest
import torch
from fakes.batches import GROUPS, batch_of
from laws import check_objective
from pydantic import ValidationError
from torture import times

from objectives.short_training import train_30_steps
from rspretrain.nn.backbones import BackboneSettings
from rspretrain.nn.torchvision_shim import ensure_torchvision
from rspretrain.objectives.mae import Mae, MaeSettings, masked_mse, standardise
from rspretrain.transforms.inputs import SensorSettings

torch.set_num_threads(1)
ensure_torchvision()
SENSORS = {
    "s1": SensorSettings(bands=("VV", "VH"), normalise="bigearthnet"),
    "s2": SensorSettings(bands=("B04", "B11", "B01", "B02"), normalise="bigearthnet"),
    "rgb": SensorSettings(bands=("R", "G", "B"), normalise="imagenet"),
}
VIT = BackboneSettings(name="vit_tiny_patch16_224", args={"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2})
SMALL = {"px": 32, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


def make(*sensors: str, backbone: BackboneSettings = VIT, **options: object) -> Mae:
    settings = MaeSettings(**{**SMALL, **options})  # type: ignore[arg-type]
    return Mae(settings, {name: SENSORS[name] for name in sensors}, backbone, GROUPS)


def make_two_networks() -> Mae:
    return make("rgb", "s1")


@pytest.mark.slow
def test_several_ranks_equal_one() -> None:
    check_objective(make_two_networks, batch_of, worlds=(2, 4)[: times(1, 2)])


def slow_loss(predicted: np.ndarray, image: np.ndarray, hidden: np.ndarray, patch: int) -> float:
    """He et al. 2022, section 3, on predicted [N p*p*C], image [C H W], hidden [N]; one patch after the other."""
    total, columns = 0.0, image.shape[2] // patch
    for index in np.flatnonzero(hidden):
        top, left = index // columns * patch, index % columns * patch
        pixels = [image[:, y, x] for y in range(top, top + patch) for x in range(left, left + patch)]
        target = np.concatenate(pixels)
        target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
        total += ((predicted[index] - target) ** 2).mean()
    return total / hidden.sum()


def test_equals_lightlys_encoder_and_a_loop_written_from_the_paper() -> None:
    from lightly.models.modules import MaskedVisionTransformerTIMM

    torch.manual_seed(0)
    objective, batch = make("s2").eval(), batch_of(np.arange(3))
    (view,) = objective.views(batch)["s2"]
    hidden = objective.mask(batch.seeds)
    assert hidden.sum(dim=1).tolist() == [12, 12, 12]
    kept = torch.stack([(~row).nonzero()[:, 0] for row in hidden])
    encoder = MaskedVisionTransformerTIMM(
        objective.backbones()["s2"].model, weight_initialization="skip", pos_embed_initialization="skip"
    )
    index = torch.cat([torch.zeros(3, 1, dtype=torch.long), kept + 1], dim=1)
    tokens = encoder.encode(view, idx_keep=index)
    predicted = objective.decoders["s2"](tokens[:, 0], tokens[:, 1:], kept).detach().double().numpy()
    expected = [slow_loss(p, v.double().numpy(), h.numpy(), 8) for p, v, h in zip(predicted, view, hidden, strict=True)]
    result = objective(batch)
    assert result.loss.item() == pytest.approx(np.mean(expected), rel=1e-5)
    assert result.metrics["loss/mae"] == result.loss
    assert set(result.metrics) == set(objective.metric_names)


def test_targets_equal_lightly() -> None:
    from lightly.models.utils import normalize_mean_var, patchify

    torch.manual_seed(0)
    target, hidden = patchify(torch.randn(2, 3, 12, 12), 4), torch.rand(2, 9) < 0.7
    predicted = torch.randn_like(target)
    expected = torch.nn.MSELoss()(predicted[hidden], normalize_mean_var(target)[hidden])
    torch.testing.assert_close(masked_mse(predicted, standardise(target), hidden), expected)
    torch.testing.assert_close(
        masked_mse(predicted, target, hidden), torch.nn.MSELoss()(predicted[hidden], target[hidden])
    )


def test_closed_forms() -> None:
    target, hidden = torch.randn(2, 4, 50), torch.tensor([[True, False, True, False]] * 2)
    blank = masked_mse(torch.zeros_like(target), standardise(target), hidden)
    assert blank.item() == pytest.approx(49 / 50, rel=1e-4)  # the variance of the target, unbiased
    assert masked_mse(target, target, hidden) == 0.0
    predicted = torch.where(hidden[:, :, None], target, 1e6)  # visible patches are ignored
    assert masked_mse(predicted, target, hidden) == 0.0
    with torch.autocast("cpu", torch.bfloat16):
        assert masked_mse(predicted.bfloat16(), standardise(target), hidden).dtype == torch.float32


@pytest.mark.parametrize("normalise", [True, False])
def test_predicting_zero_is_the_chance_level(normalise: bool) -> None:
    objective = make("rgb", normalise_patches=normalise)
    for parameter in [*objective.decoders["rgb"].parameters()][-2:]:
        torch.nn.init.zeros_(parameter)
    assert objective(batch_of(np.arange(3))).metrics["health/chance_ratio"].item() == pytest.approx(1.0)


def test_masks_are_keyed_by_sample_and_uniform() -> None:
    objective = make("rgb")
    seeds = batch_of(np.arange(64)).seeds
    masks = objective.mask(seeds)
    assert torch.equal(masks[10:20], objective.mask(seeds[10:20]))
    assert len({row.numpy().tobytes() for row in masks}) > 60
    assert (masks.float().mean(dim=0) - 0.75).abs().max() < 0.25  # 4.6 sigma of 64 draws


def test_masked_pixels_do_not_reach_the_encoder() -> None:
    objective, batch = make("rgb").eval(), batch_of(np.arange(2))
    (view,) = objective.views(batch)["rgb"]
    hidden = objective.mask(batch.seeds)
    kept = torch.stack([(~row).nonzero()[:, 0] for row in hidden])
    noise = torch.randn_like(view) * hidden.reshape(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    one, other = (objective.encoders["rgb"](x, kept=kept) for x in (view, view + noise))
    assert noise.any()
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_sensors_fusion_and_export() -> None:
    separate = make("s1", "s2").train()
    result = separate(batch_of(np.arange(4)))
    result.loss.backward()
    assert set(result.metrics) == set(separate.metric_names) >= {"loss/mae_s1", "loss/mae_s2"}
    fixed = [name for name, p in separate.named_parameters() if p.grad is None]
    assert fixed == [f"encoders.{name}.backbone.model.pos_embed" for name in ("s1", "s2")]
    early = make("s1", "s2", fusion="early").train()
    assert set(early(batch_of(np.arange(4))).metrics) == set(early.metric_names)
    assert early.backbones()["s1+s2"].bands == ("VV", "VH", "B04", "B11", "B01", "B02")


def test_30_steps_predict_better_than_the_mean() -> None:
    torch.manual_seed(0)
    group_batch = batch_of(np.arange(8))
    ramp = torch.linspace(0, 255, 40)[:, None] * torch.linspace(0, 1, 44)
    group_batch.images["rgb"][:] = (ramp * torch.rand(8, 3, 1, 1)).to(torch.uint8)
    objective = make("rgb").train()
    losses = [result.loss.item() for result in train_30_steps(objective, lambda step: group_batch, 3e-3)]
    assert losses[-1] < 0.7 * losses[0]
    assert losses[-1] < 0.9


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"mask_ratio 0.1 masks none of 4 patches \(2 x 2\), .* Raise objective.mask_"):
        make("rgb", px=16, mask_ratio=0.1)
    with pytest.raises(ValueError, match=r"'test_resnet' .* is not a plain ViT"):
        make("rgb", backbone=BackboneSettings(name="test_resnet"))
    with pytest.raises(ValidationError, match=r"decoder_width 16 is not a multiple of decoder_heads 3, .* Change one"):
        make("rgb", decoder_heads=3)
