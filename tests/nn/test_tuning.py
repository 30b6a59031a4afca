"""Trainable parameters and learning rates: only they change; frozen modules have no graph, statistics or dropout."""

import copy
import re

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.classifiers import Classifier
from rspretrain.nn.classifiers.k_branch import KBranch, KBranchSettings
from rspretrain.nn.classifiers.linear import LinearClassifier, LinearSettings
from rspretrain.nn.classifiers.sct_fusion import SctFusion, SctSettings
from rspretrain.nn.tuning import TuneSettings, merge_, tune_

torch.set_num_threads(1)
S1, S2 = ("VV", "VH"), ("B04", "B03", "B02")
SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_size": 8}


def vit(sensor: str, bands: tuple[str, ...], **args: object) -> Backbone:
    return create_backbone(BackboneSettings(name="vit_sct", args={**SMALL, **args}), sensor, bands, 16)


def resnet(sensor: str, bands: tuple[str, ...]) -> Backbone:
    # timm initialises the last norm of a branch to 0; if it is frozen, adapters before it have no gradient.
    return create_backbone(BackboneSettings(name="test_resnet", args={"zero_init_last": False}), sensor, bands, 32)


def densenet() -> Backbone:
    small = {"growth_rate": 8, "block_config": (2, 2, 2, 2)}
    return create_backbone(BackboneSettings(name="densenet121", args=small), "s2", S2, 32)


def make(kind: str) -> Classifier:
    torch.manual_seed(0)
    if kind == "vit":
        return LinearClassifier(LinearSettings(), [vit("s2", S2)], 5)
    if kind == "resnet":
        return LinearClassifier(LinearSettings(), [resnet("s2", S2)], 5)
    if kind == "densenet":
        return LinearClassifier(LinearSettings(), [densenet()], 5)
    if kind == "sct":
        return SctFusion(SctSettings(), [vit("s1", S1, num_heads=4), vit("s2", S2)], 5)
    if kind == "late":
        return LinearClassifier(LinearSettings(), [vit("s1", S1), resnet("s2", S2)], 5)
    return KBranch(KBranchSettings(areas=2), [], 5)


KINDS = ("vit", "resnet", "sct", "late")
# Parameters of the last two blocks, by timm's names and independent of its grouping.
LAST_TWO = r"model\.(blocks\.[12]|norm|layer[34])\."


def tuned(kind: str, **settings: object) -> Classifier:
    classifier = make(kind)
    tune_(classifier, TuneSettings(**settings))  # type: ignore[arg-type]
    return classifier


def images(classifier: Classifier, num: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn(num, len(bands), *2 * [classifier.px[name]]) for name, bands in classifier.bands.items()}


def learn_(classifier: Classifier, steps: int = 4) -> None:
    given = images(classifier)
    labels = torch.eye(5)[:4]
    optimizer = torch.optim.SGD([p for p in classifier.parameters() if p.requires_grad], 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(classifier(given), labels).backward()
        optimizer.step()


def should_move(name: str, mode: str) -> bool:
    if mode in ("full", "scratch") or not name.startswith("backbones."):
        return True
    return {"linear": False, "partial": bool(re.search(LAST_TWO, name)), "lora": ".lora_" in name}[mode]


@pytest.mark.parametrize("mode", ["full", "scratch", "linear", "partial", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_trainable_parameters_change(kind: str, mode: str) -> None:
    classifier = tuned(kind, mode=mode, **({"blocks": 2} if mode == "partial" else {})).train()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    learn_(classifier)
    moved = {name for name, tensor in classifier.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if should_move(name, mode)}  # including running statistics
    assert {name for name, p in classifier.named_parameters() if p.grad is None} == {
        name for name, _ in classifier.named_parameters() if not should_move(name, mode)
    }


def test_frozen_features_keep_no_graph() -> None:
    classifier = tuned("late", mode="linear").train()
    assert isinstance(classifier, LinearClassifier)
    features = classifier.features(images(classifier))
    assert features.grad_fn is None
    assert not features.requires_grad
    assert classifier.head(features).requires_grad


def test_frozen_blocks_below_keep_no_graph() -> None:
    classifier = tuned("vit", mode="partial").train()
    seen: list[bool] = []
    for block in classifier.backbones["s2"].model.blocks:  # type: ignore[union-attr]
        block.register_forward_hook(lambda _, __, z: seen.append(z.requires_grad))
    classifier(images(classifier))
    assert seen == [False, False, True]


def training_parts(module: nn.Module) -> set[str]:
    return {name for name, part in module.named_modules() if part.training}


@pytest.mark.parametrize("kind", [*KINDS, "densenet"])
def test_frozen_backbones_stay_in_eval_mode(kind: str) -> None:
    classifier = tuned(kind, mode="linear")
    assert classifier.training
    for one in (classifier, copy.deepcopy(classifier)):
        nn.ModuleDict({"classifier": nn.Sequential(one)}).train()
        assert not {name for name in training_parts(one) if name.startswith("backbones.")}
        assert {"", "head"} <= training_parts(one)
        assert not training_parts(one.eval())


def test_frozen_modules_of_a_partial_backbone_stay_in_eval_mode() -> None:
    vit_parts = training_parts(tuned("vit", mode="partial").train())
    inside = {name.removeprefix("backbones.s2.model.") for name in vit_parts}
    assert {"blocks", "blocks.2", "blocks.2.attn.attn_drop", "norm"} <= inside
    assert not {"patch_embed", "pos_drop", "blocks.0", "blocks.1", "blocks.1.attn", "blocks.1.norm1"} & inside
    resnet_parts = training_parts(tuned("resnet", mode="partial").train())
    inside = {name.removeprefix("backbones.s2.model.") for name in resnet_parts}
    assert "layer4.0.bn1" in inside
    assert not {"bn1", "layer1", "layer3.0.bn1"} & inside


def test_frozen_modules_drop_nothing() -> None:
    """With stochastic depth 0.9 and dropout in train mode, two forwards agree if all is frozen, else they differ."""

    def dropping(mode: str) -> bool:
        torch.manual_seed(0)
        backbones = [vit("s1", S1, proj_drop_rate=0.5, pos_drop_rate=0.5), vit("s2", S2)]
        classifier = SctFusion(SctSettings(drop_path=0.9), backbones, 5)
        tune_(classifier, TuneSettings(mode=mode))  # type: ignore[arg-type]
        given = images(classifier.train())
        return not torch.equal(classifier(given), classifier(given))

    assert dropping("full")
    assert dropping("partial")
    assert not dropping("linear")


def beit_layer(name: str, depth: int) -> int:
    """get_num_layer_for_vit of BEiT's optim_factory.py, whose num_max_layer is depth + 2."""
    if name in ("cls_token", "mask_token", "pos_embed") or name.startswith("patch_embed"):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks") else depth + 1


@pytest.mark.parametrize("kind", ["vit", "sct"])
def test_layer_decay_of_vits_follows_beit(kind: str) -> None:
    classifier = tuned(kind, layer_decay=0.5)
    expected = {}
    for name, _ in classifier.named_parameters():
        _, _, inner = name.partition(".model.")
        if inner and beit_layer(inner, 3) != 4:
            expected[name] = 0.5 ** (4 - beit_layer(inner, 3))
    assert classifier.lr_scales() == expected
    assert set(expected.values()) == {0.5, 0.25, 0.125, 0.0625}


@pytest.mark.parametrize(
    ("kind", "powers"),
    [
        ("resnet", {"conv1": 5, "bn1": 5, "layer1": 4, "layer2": 3, "layer3": 2, "layer4": 1}),
        (
            "densenet",
            {"features.conv0": 5, "features.norm0": 5, "features.norm5": 0}
            | {f"features.denseblock{level}": 5 - level for level in (1, 2, 3, 4)}
            | {f"features.transition{level}": 5 - level for level in (1, 2, 3)},
        ),
    ],
)
def test_layer_decay_of_cnns_counts_stages(kind: str, powers: dict[str, int]) -> None:
    classifier = tuned(kind, layer_decay=0.5, backbone_lr_scale=0.1)
    scales = classifier.lr_scales()
    for name, _ in classifier.backbones["s2"].model.named_parameters():  # type: ignore[union-attr]
        power = next(power for start, power in powers.items() if name.startswith(start + "."))
        assert scales.pop(f"backbones.s2.model.{name}") == 0.1 * 0.5**power
    assert not scales


def test_backbones_have_their_own_learning_rate() -> None:
    """All trainable parameters of the backbones, and no others (docs/methods.md, DFC2020 protocol)."""
    for mode in ("full", "partial", "lora", "scratch"):
        classifier = tuned("sct", mode=mode, backbone_lr_scale=3.0)
        trains = {name for name, p in classifier.named_parameters() if p.requires_grad and name.startswith("backbones")}
        assert classifier.lr_scales() == dict.fromkeys(trains, 3.0)
    assert tuned("sct").lr_scales() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_lora_starts_as_the_identity(kind: str) -> None:
    classifier = make(kind).eval()
    given = images(classifier)
    before = classifier(given)
    tune_(classifier, TuneSettings(mode="lora"))
    assert torch.equal(classifier(given), before)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_adapters_leave_a_plain_classifier(kind: str) -> None:
    classifier = tuned(kind, mode="lora", backbone_lr_scale=2.0).train()
    learn_(classifier)
    given = images(classifier.eval())
    adapted, untouched = classifier(given), make(kind).eval()
    away = (adapted - untouched(given)).abs().max()
    merge_(classifier)
    assert list(classifier.state_dict()) == list(untouched.state_dict())
    assert classifier.lr_scales() == {}
    untouched.load_state_dict(classifier.state_dict())
    for merged in (classifier, untouched):
        assert (merged(given) - adapted).abs().max() < 1e-5 < 1e-3 < away
    assert untouched.backbones.state_dict().keys() == make(kind).backbones.state_dict().keys()


def test_merging_a_copy_does_not_change_the_original() -> None:
    classifier = tuned("vit", mode="lora").train()
    names = list(classifier.state_dict())
    merge_(copy.deepcopy(classifier))
    assert list(classifier.state_dict()) == names
    learn_(classifier)


def test_merging_without_adapters_changes_nothing() -> None:
    classifier = tuned("vit", layer_decay=0.5)
    scales = classifier.lr_scales()
    merge_(classifier)
    assert list(classifier.state_dict()) == list(make("vit").state_dict())
    assert classifier.lr_scales() == scales


def test_a_classifier_without_backbones_trains_completely() -> None:
    for mode in ("full", "scratch"):
        classifier = tuned("k_branch", mode=mode).train()
        assert all(p.requires_grad for p in classifier.parameters())
        assert all(part.training for part in classifier.modules())
    with pytest.raises(
        ValueError,
        match=re.escape(
            "tune.mode: got linear for KBranch, which has no backbone to freeze, expected full or scratch. "
            "Set tune.mode=scratch, or choose a classifier with backbones (linear, sct_fusion)."
        ),
    ):
        tuned("k_branch", mode="linear")
    for mode in ("partial", "lora"):
        with pytest.raises(ValueError, match=f"tune.mode: got {mode} for KBranch"):
            tuned("k_branch", mode=mode)
    with pytest.raises(
        ValueError,
        match=re.escape("tune.layer_decay: got 0.5 for KBranch, which has no backbone, expected 1.0."),
    ):
        tuned("k_branch", layer_decay=0.5)


def test_too_many_blocks_are_an_error() -> None:
    assert not tuned("vit", mode="partial", blocks=3).backbones["s2"].model.pos_embed.requires_grad  # type: ignore[union-attr]
    with pytest.raises(
        ValueError,
        match=re.escape(
            "tune.blocks: got 4 for the backbone 's2', expected at most its 3 blocks (vit_base_patch16_224). Set "
            "tune.blocks to 3 or less, or tune.mode=full."
        ),
    ):
        tuned("vit", mode="partial", blocks=4)


@pytest.mark.parametrize(
    ("mode", "name", "value"),
    [
        ("linear", "layer_decay", 0.5),
        ("scratch", "layer_decay", 0.5),
        ("linear", "backbone_lr_scale", 0.5),
        ("full", "blocks", 2),
        ("partial", "lora_rank", 4),
        ("full", "lora_targets", ("qkv",)),
    ],
)
def test_settings_without_effect_are_errors(mode: str, name: str, value: object) -> None:
    with pytest.raises(
        ValidationError, match=re.escape(f"tune.{name}: got {value} with tune.mode={mode}, where it has no effect")
    ):
        TuneSettings(**{"mode": mode, name: value})  # type: ignore[arg-type]


def test_settings_without_effect_name_the_remedy() -> None:
    with pytest.raises(
        ValidationError,
        match=re.escape(
            "tune.layer_decay: got 0.5 with tune.mode=linear, where it has no effect; expected mode full. Remove "
            "tune.layer_decay, or set tune.mode=full."
        ),
    ):
        TuneSettings(mode="linear", layer_decay=0.5)
    written = TuneSettings(mode="linear").model_dump()  # a resolved file contains every setting and must load
    assert TuneSettings(**written) == TuneSettings(mode="linear")
