from pathlib import Path

import pytest
import torch
from fakes.memory import memory_shards

from rspretrain.evaluation.splits import choose_data, default_nomenclature, holdout_mask
from rspretrain.shardset.index import ShardSet


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return memory_shards(tmp_path_factory.mktemp("samples") / "shards", samples=60)


def with_splits(shards: ShardSet, splits: dict[str, int]) -> ShardSet:
    other = ShardSet(shards.path)
    other.manifest = shards.manifest.model_copy(update={"splits": splits})
    return other


def test_every_fifth_sample_of_each_class_is_held_out() -> None:
    y = torch.nn.functional.one_hot(torch.tensor([0] * 7 + [1] * 10)).bool()
    assert holdout_mask(y, multi=False).nonzero().flatten().tolist() == [4, 11, 16]
    assert holdout_mask(y, multi=True).nonzero().flatten().tolist() == [4, 9, 14]


def test_the_archives_own_splits_are_used_in_key_order(shards: ShardSet) -> None:
    data = choose_data(shards)
    assert (data.nomenclature, data.multi, len(data.train), len(data.test), data.val) == ("class", False, 48, 12, None)
    assert (data.train_split, data.test_split) == ("train", "test")
    assert shards.keys(data.test) == [f"patch-{i:05d}" for i in range(0, 60, 5)]


def test_without_splits_every_fifth_sample_is_held_out_for_any_build(shards: ShardSet, tmp_path: Path) -> None:
    other_order = memory_shards(tmp_path / "shards", samples_per_shard=64, samples=60)
    for each in (shards, other_order):
        data = choose_data(with_splits(each, {}))
        assert (data.train_split, data.test_split) == ("holdout:train", "holdout:test")
        assert each.keys(data.test) == [f"patch-{i:05d}" for i in (12, 13, 14, 27, 28, 29, 42, 43, 44, 57, 58, 59)]
        assert sorted([*data.train, *data.test]) == list(range(60))


def test_any_two_splits_may_be_named(shards: ShardSet) -> None:
    data = choose_data(shards, "all", "test", "train")
    assert (data.multi, len(data.train), len(data.test)) == (True, 12, 48)
    assert len(choose_data(shards, None, "holdout:train", "holdout:test").test) == 12


def test_the_default_nomenclature_is_single_label(shards: ShardSet) -> None:
    assert default_nomenclature(shards) == "class"


def test_errors_list_the_available_splits_and_nomenclatures(shards: ShardSet) -> None:
    with pytest.raises(ValueError, match=r"no nomenclature '19'; its nomenclatures are \['all', 'class'\]\. Name one"):
        choose_data(shards, "19")
    with pytest.raises(ValueError, match=r"no split 'val'; its splits are \{'test': 12, 'train': 48\}\. Name one"):
        choose_data(shards, test_split="val")
    with pytest.raises(ValueError, match=r"split 'train' for both training and testing, expected two different spl"):
        choose_data(shards, test_split="train")
    with pytest.raises(
        ValueError, match=r"Split 'empty' of .* has no labelled sample, expected .*; the archive's .*'empty': 0"
    ):
        choose_data(with_splits(shards, {"train": 48, "test": 12, "empty": 0}), test_split="empty")
