"""Checks that every implementation of a kind must pass, one function each: samplers, records, objectives and others."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from gloo import run_ranks

from rspretrain import world
from rspretrain.archives.base import Archive, Entry
from rspretrain.batch import Batch
from rspretrain.nn.backbones import Backbone, disable_dropout_
from rspretrain.nn.classifiers import Classifier
from rspretrain.nn.ema import ema_update_, paired_parameters
from rspretrain.nn.tokens import MaskedViT
from rspretrain.objectives.base import Objective, Progress
from rspretrain.patch import KEY_PATTERN, Exclusion, Patch, PatchError
from rspretrain.shardset.record import decode_array, encode
from rspretrain.streaming.batch_plan import SampleIndices
from rspretrain.streaming.mixture import Mixture
from rspretrain.streaming.sampler import EpochSampler, rank_slice


def check_order(sampler: EpochSampler, epoch: int, world: int, accumulation: int, global_batch: int) -> None:
    """Every sample once per epoch; the same global batches for any world size, accumulation and restart."""
    positions = np.arange(len(sampler))
    whole = sampler.samples(epoch, positions)
    assert sorted(whole.tolist()) == positions.tolist()
    seen = []
    for batch in range(-(-len(sampler) // global_batch)):
        ordered = sampler.batch_positions(batch, global_batch)
        seen += ordered.tolist()
        alone = sampler.samples(epoch, ordered)
        assert alone.tolist() == whole[ordered].tolist()
        if len(ordered) < global_batch:
            continue  # the short batch is never split over ranks
        for ranks in (world, world * accumulation):
            parts = [sampler.samples(epoch, ordered[rank_slice(global_batch, rank, ranks)]) for rank in range(ranks)]
            assert np.concatenate(parts).tolist() == alone.tolist()
    assert sorted(seen) == positions.tolist()
    restarted = EpochSampler(sampler.sizes, seed=sampler.seed, streams=sampler.streams, window=sampler.window)
    middle = len(sampler) // 2
    assert restarted.samples(epoch, positions[middle:]).tolist() == whole[middle:].tolist()


def check_mixture(mixture: Mixture, global_batch: int, world: int, steps: int, restart: int) -> None:
    """Every sample of a source once in each of its epochs; the same for any world size and restart."""
    ledger = [_as_tuples(mixture.indices(step)) for step in range(steps)]
    for step in range(restart, steps):
        parts = [_as_tuples(mixture.indices(step, rank_slice(global_batch, rank, world))) for rank in range(world)]
        assert [sample for part in parts for sample in part] == ledger[step]
    taken = [sample for step in ledger for sample in step]
    assert len(set(taken)) == len(taken)
    counts = np.bincount([source for source, _, _ in taken], minlength=len(mixture.samplers))
    assert mixture.counts(steps).tolist() == counts.tolist()
    for number, sampler in enumerate(mixture.samplers):
        by_stream: dict[int, list[tuple[int, int]]] = {}
        for source, epoch, position in taken:
            if source == number:
                by_stream.setdefault(position % sampler.streams, []).append((epoch, position // sampler.streams))
        for stream, seen in by_stream.items():
            length = len(sampler) // sampler.streams + (stream < len(sampler) % sampler.streams)
            assert sorted(seen) == [divmod(k, length) for k in range(len(seen))]  # complete epochs in order


def _as_tuples(indices: SampleIndices) -> list[tuple[int, int, int]]:
    return list(zip(indices.source.tolist(), indices.epoch.tolist(), indices.position.tolist(), strict=True))


def check_record(archive: Archive, patch: Patch) -> None:
    """decode(encode(x)) equals x bit for bit, and encoding is deterministic."""
    record, again = (encode(patch, archive.groups, archive.nomenclatures, archive.metadata_bytes) for _ in range(2))
    assert record == again
    for group in archive.groups:
        span = record.members[group.name]
        decoded = decode_array(record.data[span.offset : span.offset + span.bytes])
        assert decoded.dtype == patch.images[group.name].dtype
        assert decoded.tobytes() == patch.images[group.name].tobytes()
    span = record.members["json"]
    metadata = json.loads(record.data[span.offset : span.offset + span.bytes])
    assert metadata["labels"] == {name: list(labels) for name, labels in patch.labels.items()}
    assert metadata["attributes"] == patch.attributes


def train_objective(
    make: Callable[[], Objective], batch_of: Callable[[np.ndarray], Batch], global_batch: int, steps: int
) -> dict[str, torch.Tensor]:
    """Losses [steps], first gradients and last weights of plain SGD on this rank's part of every global batch.

    Teachers are updated after every step, with the objective's momentum.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    objective = make().train().double()
    for network_input in objective.inputs().values():
        network_input.float()
    for module in objective.modules():
        if isinstance(module, (Backbone, MaskedViT)):
            module.register_forward_pre_hook(lambda _, args: (args[0].double(), *args[1:]))
    followed = paired_parameters(objective.teachers())
    students, teachers = [one.detach() for one, _ in followed], [one.detach() for _, one in followed]
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.01)
    out: dict[str, torch.Tensor] = {}
    losses = []
    for step in range(steps):
        positions = np.arange(step * global_batch, (step + 1) * global_batch)
        objective.prepare(Progress(step, steps, steps))
        result = objective(batch_of(np.array_split(positions, world.size())[world.rank()]))
        assert set(result.metrics) == set(objective.metric_names)
        assert not any(metric.requires_grad for metric in result.metrics.values())
        optimizer.zero_grad()
        result.loss.backward()
        for name, parameter in objective.named_parameters():
            if not parameter.requires_grad:
                assert parameter.grad is None
                continue
            assert parameter.grad is not None, f"{name} has no gradient"
            parameter.grad = world.mean_over_ranks(parameter.grad)
            if step == 0:
                out[f"gradient {name}"] = parameter.grad.clone()
        optimizer.step()
        assert (objective.momentum is None) == (not teachers)
        if objective.momentum is not None:
            ema_update_(teachers, students, objective.momentum)
        losses.append(world.mean_over_ranks(result.loss))
    return {"losses": torch.stack(losses), **out, **objective.state_dict()}


def check_objective(
    make: Callable[[], Objective],
    batch_of: Callable[[np.ndarray], Batch],
    global_batch: int = 8,
    steps: int = 3,
    worlds: tuple[int, ...] = (2,),
    tolerance: float = 1e-9,
) -> None:
    """R real ranks x B/R equal 1 rank x B in losses, gradients, weights, teachers and buffers.

    Also: the metrics include a collapse measure. `make` and `batch_of` (positions -> batch) are top-level functions.
    Differences are relative to each tensor's norm, or to 1e-5 if that is larger: a bias before a norm layer has
    gradient 0. Networks run in float64: in float32, rounding alone grows from 7e-6 after one step to 6 % after three.
    """
    assert any(name.startswith("health/") for name in make().metric_names)
    alone = train_objective(make, batch_of, global_batch, steps)
    for size in worlds:
        for together in run_ranks(size, train_objective, make, batch_of, global_batch, steps):
            assert list(together) == list(alone)
            for name, expected in alone.items():
                error = (together[name].double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-5)
                assert error < tolerance, f"{name} on {size} ranks is off by {error:.1e} of its norm"


def check_archive(
    archive: Archive, faults_expected: dict[str, str], files: Callable[[Entry], dict[str, list[Path]]]
) -> None:
    """The same patches in the same order, unique keys, complete bands, rasterio's pixels, faults reported by name.

    `faults_expected`: patch name -> part of the reason; `files`: the band files of every group, in order.
    """
    entries, faults = archive.entries()
    again = archive.entries()
    assert ([entry.key for entry in entries], faults) == ([entry.key for entry in again[0]], again[1])
    assert len({entry.key for entry in entries}) == len(entries)
    assert len({fault.name for fault in faults}) == len(faults)
    found = {fault.name: fault.reason for fault in faults if not isinstance(fault, Exclusion)}
    for entry in entries:
        assert KEY_PATTERN.fullmatch(entry.key)
        try:
            patch = archive.read(entry)
        except PatchError as error:
            found[entry.name] = str(error)
            continue
        assert list(patch.images) == [group.name for group in archive.groups]
        for group in archive.groups:
            image = patch.images[group.name]
            assert (image.dtype, len(image)) == (group.dtype, len(group.bands))
            assert group.shape in (None, image.shape[1:])
            assert image.tobytes() == b"".join(_pixels(path) for path in files(entry)[group.name])
        for name, nomenclature in archive.nomenclatures.items():
            positions = [nomenclature.names.index(label) for label in patch.labels[name]]
            assert positions == sorted(set(positions))
            assert nomenclature.multi or len(positions) == 1
    assert found.keys() == faults_expected.keys()
    for name, part in faults_expected.items():
        assert part in found[name]


def _pixels(path: Path) -> bytes:
    with rasterio.open(path) as source:
        return source.read().tobytes()


def check_classifier(
    make: Callable[[], Classifier],
    images_of: Callable[[int], dict[str, torch.Tensor]],
    steps: int = 40,
    lr: float = 3e-3,
) -> None:
    """Overfits 16 samples with random multi-labels, and every parameter has a gradient.

    Dropout and stochastic depth are off, because they prevent overfitting. `images_of`: number of samples -> images.
    """
    classifier, images = make().train(), images_of(16)
    disable_dropout_(classifier)
    labels = torch.randint(0, 2, (16, classifier.num_classes), generator=torch.Generator().manual_seed(0)).float()
    optimizer = torch.optim.Adam(classifier.parameters(), lr)
    for _ in range(steps):
        logits = classifier(images)
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        missing = [name for name, parameter in classifier.named_parameters() if parameter.grad is None]
        assert not missing, f"{missing} have no gradient"
        optimizer.step()
    assert logits.shape == labels.shape
    assert torch.equal(logits > 0, labels > 0), f"loss {float(loss):.3f} after {steps} steps"
