"""Class probabilities and features from an exported classifier.

Whole images or a central window, no augmentation, eval mode, float32, each image once. So results depend on weights and
pixels only; batch size and number of ranks change at most the last bits of sums.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from rspretrain import world
from rspretrain.archives.base import Archive, Nomenclature
from rspretrain.arrays import Rows
from rspretrain.batch import Batch
from rspretrain.evaluation.archive_loader import ArchiveLoader
from rspretrain.evaluation.gather import gather_samples, local_rows
from rspretrain.evaluation.predictions import Predictions
from rspretrain.evaluation.probe import sensor_input_of
from rspretrain.nn.classifier_files import LabelSpec
from rspretrain.nn.classifiers import Classifier
from rspretrain.patch import Fault
from rspretrain.sensors import Group
from rspretrain.shardset.index import ShardSet
from rspretrain.shardset.rows import BOUNDS, corners_of
from rspretrain.streaming.loader import evaluation_batches
from rspretrain.transforms.inputs import SensorInput, evaluation_geometry


def inputs_for(
    contract: Mapping[str, Any], groups: Sequence[Group], where: str
) -> tuple[dict[str, SensorInput], tuple[str, ...]]:
    """Input name -> transform from pixels of `groups`, and the names of inputs whose sensor is absent.

    `contract` describes an exported classifier, `where` names the pixels in errors. ValueError if all sensors are
    absent, or for bands or units other than those of the classifier's training.
    """
    available = {sensor: _bands(groups, sensor) for sensor in dict.fromkeys(group.sensor for group in groups)}
    wanted = [one for one in contract["inputs"] if one["sensor"] in available]
    if not wanted:
        raise ValueError(
            f"{where} has the sensors {list(available)}, the classifier expects at least one of "
            f"{list(dict.fromkeys(one['sensor'] for one in contract['inputs']))}. Use images of these sensors."
        )
    for one in wanted:
        if missing := [band for band in one["bands"] if band not in available[one["sensor"]]]:
            raise ValueError(
                f"{where} has the bands {available[one['sensor']]} of sensor {one['sensor']!r}, the classifier expects "
                f"{one['bands']}: {missing} are missing. Use images with these bands, or remove the sensor."
            )
    inputs = {one["name"]: sensor_input_of(one, groups, where) for one in wanted}
    return inputs, tuple(one["name"] for one in contract["inputs"] if one["name"] not in inputs)


def _bands(groups: Sequence[Group], sensor: str) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(group.bands for group in groups if group.sensor == sensor)))


def predict(
    classifier: Classifier,
    inputs: Mapping[str, SensorInput],
    shards: ShardSet,
    rows: Rows,
    *,
    multi: bool,
    crop_px: int | None = None,
    batch_size: int = 128,
    device: torch.device | None = None,
) -> Tensor:
    """Probabilities [N K] float32 on the CPU of every rank, in the order of `rows` (each row once).

    A sigmoid per class with `multi`, else a softmax. Each rank evaluates its part of the rows. Inputs of the classifier
    that are not in `inputs` count as missing (see Classifier).
    """
    options = _Options(multi, crop_px, batch_size, device or torch.device("cpu"), features=False)
    (probabilities,) = _predict_on_all_ranks(classifier, inputs, shards, rows, options)
    return probabilities


def predict_with_features(
    classifier: Classifier,
    inputs: Mapping[str, SensorInput],
    shards: ShardSet,
    rows: Rows,
    *,
    multi: bool,
    crop_px: int | None = None,
    batch_size: int = 128,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """As `predict`, with the features [N D] float32 that enter the classifier's head."""
    options = _Options(multi, crop_px, batch_size, device or torch.device("cpu"), features=True)
    probabilities, features = _predict_on_all_ranks(classifier, inputs, shards, rows, options)
    return probabilities, features


@dataclass(frozen=True)
class _Options:
    multi: bool
    crop_px: int | None
    batch_size: int
    device: torch.device
    features: bool  # also return features: 2 GB for 270,000 images and D = 2,048


def _predict_on_all_ranks(
    classifier: Classifier, inputs: Mapping[str, SensorInput], shards: ShardSet, rows: Rows, options: _Options
) -> tuple[Tensor, ...]:
    mine = local_rows(np.sort(rows))
    groups = tuple(dict.fromkeys(name for one in inputs.values() for name in one.groups))
    batches = evaluation_batches(shards, groups, mine, options.batch_size, options.device) if len(mine) else iter(())
    every, found = gather_samples(mine, *_classify(classifier, inputs, batches, options))
    positions = torch.from_numpy(np.searchsorted(every, rows))
    return tuple(values[positions] for values in found)


def sample_corners(shards: ShardSet, rows: Rows) -> NDArray[np.float64]:
    """[N 5 2]: footprints of the samples of `rows`, in the layout of `rows.corners_of`."""
    table = pa.table({name: shards.column(name) for name in ("crs", *BOUNDS)})
    return corners_of(table.take(pa.array(rows)))


def labels_for(shards: ShardSet, label_spec: LabelSpec) -> Tensor:
    """Multi-hot labels [rows of the set, K] bool, for scoring. ValueError if the classifier has other classes."""
    known = shards.nomenclatures.get(label_spec.nomenclature)
    if known != Nomenclature(label_spec.classes, label_spec.multi):
        ours = f"{_describe(label_spec.classes, label_spec.multi)} as {label_spec.nomenclature!r}"
        theirs = ", ".join(f"{name!r}: {_describe(one.names, one.multi)}" for name, one in shards.nomenclatures.items())
        raise ValueError(
            f"The classifier predicts {ours}; {shards.path} has {theirs or 'no labels'}. Expected the same classes in "
            "the same order: use shards with the label set of the classifier's training, or predict without scores."
        )
    return torch.from_numpy(shards.labels(label_spec.nomenclature))


def _describe(classes: Sequence[str], multi: bool) -> str:
    return f"{list(classes)} ({'several' if multi else 'one'} per image)"


def predict_patches(
    classifier: Classifier,
    inputs: Mapping[str, SensorInput],
    archive: Archive,
    *,
    multi: bool,
    crop_px: int | None = None,
    batch_size: int = 128,
    device: torch.device | None = None,
) -> tuple[Predictions, list[Fault], int]:
    """Predictions for all patches of an archive, without shards. Each rank reads its part; all ranks get all results.

    Also returns the faults that this rank found (the first rank adds those of the listing), and the number of patches
    that the archive's options excluded.
    """
    options = _Options(multi, crop_px, batch_size, device or torch.device("cpu"), features=False)
    entries, faults = archive.entries()
    batches = ArchiveLoader(archive, entries, local_rows(np.arange(len(entries))), batch_size, options.device)
    (found,) = _classify(classifier, inputs, batches, options)
    mine = np.array(batches.rows, dtype=np.int64)
    every, (probabilities, corners) = gather_samples(mine, found, torch.from_numpy(batches.corners()))
    excluded = world.sum_over_ranks(torch.tensor(len(batches.excluded)))
    own_faults = [*(faults if world.rank() == 0 else []), *batches.faults]
    if not len(every):
        reason = f"{own_faults[0].name}: {own_faults[0].reason}" if own_faults else f"options exclude {int(excluded)}"
        raise ValueError(
            f"None of {len(entries)} images can be predicted, expected at least one; {reason.rstrip('.')}. Correct "
            "the folder or the options."
        )
    keys = [entries[row].key for row in every.tolist()]
    return Predictions(keys, probabilities, corners.numpy()), own_faults, int(excluded)


@torch.no_grad()
def _classify(
    classifier: Classifier, inputs: Mapping[str, SensorInput], batches: Iterable[Batch], options: _Options
) -> tuple[Tensor, ...]:
    """Probabilities [N K] of this rank's batches and, with `options.features`, features [N D]."""
    was_training = classifier.training
    classifier.to(options.device).eval()
    for one in inputs.values():
        one.to(options.device)
    try:
        logits, features = ([part] for part in _empty_outputs(classifier, options.device))
        for batch in batches:
            with torch.autocast(options.device.type, enabled=False):
                geometry = evaluation_geometry(list(inputs.values()), batch, options.crop_px)
                images = {name: one(batch, geometry, classifier.px[name]) for name, one in inputs.items()}
                batch_logits, batch_features = _forward(classifier, images)
            logits.append(batch_logits)
            features += [batch_features] if options.features else []
    finally:
        classifier.train(was_training)
    every = torch.cat(logits)
    probabilities = every.sigmoid() if options.multi else every.softmax(dim=1)
    return (probabilities, torch.cat(features)) if options.features else (probabilities,)


def _forward(classifier: Classifier, images: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits [B K] and the features [B D] that enter the head, on the CPU."""
    features: list[Tensor] = []
    hook = classifier.head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    try:
        logits = classifier(images)
    finally:
        hook.remove()
    return logits.float().cpu(), features[0].flatten(1).float().cpu()


def _empty_outputs(classifier: Classifier, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits [0 K] and features [0 D], so that a rank without images can gather tensors of the right width."""
    name, bands = next(iter(classifier.bands.items()))
    px = classifier.px[name]
    logits, features = _forward(classifier, {name: torch.zeros(1, len(bands), px, px, device=device)})
    return logits[:0], features[:0]
