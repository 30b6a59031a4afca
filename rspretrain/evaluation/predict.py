"""What an exported classifier says of images: probabilities, and the features behind them.

Whole images or their middle window, no augmentation, eval mode, float32, every image once: a result is a function of
weights and pixels, whatever the batch size and the number of ranks, but for the last bits of sums.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rspretrain import world
from rspretrain.archives.base import Archive, Nomenclature
from rspretrain.batch import Batch
from rspretrain.evaluation.archive_loader import ArchiveLoader
from rspretrain.evaluation.gather import Rows, gather_samples, share
from rspretrain.evaluation.predictions import Predictions
from rspretrain.evaluation.probe import sensor_input_of
from rspretrain.nn.classifier_files import Answers
from rspretrain.nn.classifiers import Classifier
from rspretrain.patch import Fault
from rspretrain.sensors import Group
from rspretrain.shardset.footprints import corners_of
from rspretrain.shardset.index import ShardSet
from rspretrain.shardset.rows import BOUNDS
from rspretrain.streaming.loader import evaluation_batches
from rspretrain.transforms.inputs import SensorInput, evaluation_geometry


def inputs_for(
    contract: Mapping[str, Any], groups: Sequence[Group], where: str
) -> tuple[dict[str, SensorInput], tuple[str, ...]]:
    """Input name -> how pixels of these groups become it, and the names of inputs whose sensor is not there.

    `contract` is that of an exported classifier, `where` names the pixels for people. ValueError where none of the
    sensors is there, or where bands or units are not those that the classifier learned from.
    """
    there = {sensor: _bands(groups, sensor) for sensor in dict.fromkeys(group.sensor for group in groups)}
    wanted = [one for one in contract["inputs"] if one["sensor"] in there]
    if not wanted:
        raise ValueError(
            f"{where} has the sensors {list(there)}, the classifier expects one at least of "
            f"{list(dict.fromkeys(one['sensor'] for one in contract['inputs']))}. Give it images of these."
        )
    for one in wanted:
        if missing := [band for band in one["bands"] if band not in there[one["sensor"]]]:
            raise ValueError(
                f"{where} has the bands {there[one['sensor']]} of sensor {one['sensor']!r}, the classifier expects "
                f"{one['bands']}: {missing} are missing. Give it images with these bands, or leave the sensor out."
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
    """Probabilities [N K] float32 on the CPU of every rank, in the order of `rows`, no row of which comes twice.

    Of every class by itself where an image may have several (`multi`), else adding up to 1. Every rank looks at its
    share. Inputs of the classifier that are not in `inputs` are missing (see Classifier).
    """
    options = _Options(multi, crop_px, batch_size, device or torch.device("cpu"), features=False)
    (probabilities,) = _of_all_ranks(classifier, inputs, shards, rows, options)
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
    """`predict`, and the penultimate features [N D] float32: what enters the classifier's head."""
    options = _Options(multi, crop_px, batch_size, device or torch.device("cpu"), features=True)
    probabilities, features = _of_all_ranks(classifier, inputs, shards, rows, options)
    return probabilities, features


@dataclass(frozen=True)
class _Options:
    multi: bool
    crop_px: int | None
    batch_size: int
    device: torch.device
    features: bool  # whether they are wanted, too: of 270,000 images and D = 2,048 they are 2 GB


def _of_all_ranks(
    classifier: Classifier, inputs: Mapping[str, SensorInput], shards: ShardSet, rows: Rows, options: _Options
) -> tuple[Tensor, ...]:
    mine = share(np.sort(rows))
    groups = tuple(dict.fromkeys(name for one in inputs.values() for name in one.groups))
    batches = evaluation_batches(shards, groups, mine, options.batch_size, options.device) if len(mine) else iter(())
    every, found = gather_samples(mine, *_classify(classifier, inputs, batches, options))
    places = torch.from_numpy(np.searchsorted(every, rows))
    return tuple(values[places] for values in found)


def places_of(shards: ShardSet, rows: Rows) -> NDArray[np.float64]:
    """[N 5 2]: where the samples of `rows` lie, as `footprints.corners_of` has it."""
    table = pa.table({name: shards.column(name) for name in ("crs", *BOUNDS)})
    return corners_of(table.take(pa.array(rows)))


def labels_for(shards: ShardSet, answers: Answers) -> Tensor:
    """Multi-hot [rows of the set, K] bool to score with. ValueError where the classifier has other classes."""
    known = shards.nomenclatures.get(answers.nomenclature)
    if known != Nomenclature(answers.classes, answers.multi):
        mine = f"{_told(answers.classes, answers.multi)} as {answers.nomenclature!r}"
        others = ", ".join(f"{name!r}: {_told(each.names, each.multi)}" for name, each in shards.nomenclatures.items())
        raise ValueError(
            f"The classifier knows {mine}; {shards.path} has {others or 'no labels'}. Expected the same classes in the "
            "same order: score it on shards that are labelled as those it learned from, or predict without scores."
        )
    return torch.from_numpy(shards.labels(answers.nomenclature))


def _told(classes: Sequence[str], multi: bool) -> str:
    return f"{list(classes)} ({'several' if multi else 'one'} an image)"


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
    """What is said of every patch of an archive, without shards: the same on all ranks, each of which reads its share.

    With the faults that this rank found (listing faults on the first), and how many the archive's options left out.
    """
    options = _Options(multi, crop_px, batch_size, device or torch.device("cpu"), features=False)
    entries, faults = archive.entries()
    batches = ArchiveLoader(archive, entries, share(np.arange(len(entries))), batch_size, options.device)
    (found,) = _classify(classifier, inputs, batches, options)
    mine = np.array(batches.rows, dtype=np.int64)
    every, (probabilities, corners) = gather_samples(mine, found, torch.from_numpy(batches.corners()))
    excluded = world.sum_over_ranks(torch.tensor(len(batches.excluded)))
    told = [*(faults if world.rank() == 0 else []), *batches.faults]
    if not len(every):
        reason = f"{told[0].name}: {told[0].reason}" if told else f"options left out {int(excluded)}"
        raise ValueError(
            f"None of {len(entries)} images is left to predict, expected one at least; {reason.rstrip('.')}. Correct "
            "the folder or the options."
        )
    keys = [entries[row].key for row in every.tolist()]
    return Predictions(keys, probabilities, corners.numpy()), told, int(excluded)


@torch.no_grad()
def _classify(
    classifier: Classifier, inputs: Mapping[str, SensorInput], batches: Iterable[Batch], options: _Options
) -> tuple[Tensor, ...]:
    """Probabilities [N K] of this rank's batches and, where they are wanted, features [N D]."""
    was_training = classifier.training
    classifier.to(options.device).eval()
    for one in inputs.values():
        one.to(options.device)
    try:
        logits, features = ([part] for part in _of_nothing(classifier, options.device))
        for batch in batches:
            with torch.autocast(options.device.type, enabled=False):
                geometry = evaluation_geometry(list(inputs.values()), batch, options.crop_px)
                images = {name: one(batch, geometry, classifier.px[name]) for name, one in inputs.items()}
                answer, entered = _forward(classifier, images)
            logits.append(answer)
            features += [entered] if options.features else []
    finally:
        classifier.train(was_training)
    every = torch.cat(logits)
    probabilities = every.sigmoid() if options.multi else every.softmax(dim=1)
    return (probabilities, torch.cat(features)) if options.features else (probabilities,)


def _forward(classifier: Classifier, images: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits [B K] and what entered the head [B D], on the CPU."""
    entered: list[Tensor] = []
    head: nn.Module = classifier.head  # type: ignore[assignment]
    hook = head.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    try:
        logits = classifier(images)
    finally:
        hook.remove()
    return logits.float().cpu(), entered[0].flatten(1).float().cpu()


def _of_nothing(classifier: Classifier, device: torch.device) -> tuple[Tensor, Tensor]:
    """[0 K] and [0 D]: a rank without an image knows the width of the others'."""
    name, bands = next(iter(classifier.bands.items()))
    px = classifier.px[name]
    logits, features = _forward(classifier, {name: torch.zeros(1, len(bands), px, px, device=device)})
    return logits[:0], features[:0]
