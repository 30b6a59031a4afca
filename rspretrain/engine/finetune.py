"""Build the training job of a fine-tuning configuration. It runs in the same loop as pretraining."""

from collections.abc import Mapping

from torch import Tensor

from rspretrain.config import ConfigError, FinetuneSettings
from rspretrain.engine.classification import Classification, Task
from rspretrain.engine.job import Job, build_job, resolve_settings
from rspretrain.evaluation.labels import FinetuneData, choose_labels
from rspretrain.evaluation.metrics import main_metric, metric_names
from rspretrain.finetuning.networks import Networks, ValidationSettings, assemble, grid_inputs, load_networks, resize_
from rspretrain.finetuning.supervised import Supervised
from rspretrain.finetuning.targets import choose_targets
from rspretrain.nn.tuning import tune_
from rspretrain.shardset.index import ShardSet
from rspretrain.streaming.settings import DataSettings
from rspretrain.transforms.train_views import TrainViews
from rspretrain.world import World


def prepare_finetune(
    settings: FinetuneSettings,
    world: World,
    deepspeed_launcher: bool,
    data: FinetuneData | None = None,
    initial: Mapping[str, Tensor] | None = None,
) -> Job:
    """Build the job and check the settings before training. ValueError, in one paragraph, for invalid settings.

    `data`: the samples, instead of those of `settings.labels`; `initial`: initial weights of the objective.
    """
    check_data(settings.data)
    settings, sources = resolve_settings(settings, world, deepspeed_launcher)
    (shards,) = sources.sets.values()
    data = data or choose_labels(shards, settings.labels, settings.data.filter)
    _check_validation(settings.validation, data)
    settings = _cap_global_batch(settings, len(data.epoch_rows), world)
    networks = _networks(settings, shards)
    if settings.views.px is not None:
        resize_(networks, settings.views.px)
    classifier = assemble(settings.classifier, networks, len(data.classes))
    tune_(classifier, settings.tune)
    views = TrainViews(settings.views, networks.inputs, classifier.px)
    targets, data, hot = choose_targets(shards, data, views, settings.labels.from_map)
    objective = Supervised(classifier, views, targets)
    if initial is not None:
        objective.load_state_dict(initial)
    steps = len(data.epoch_rows) // settings.train.global_batch
    evaluator = Classification(
        settings,
        Task(shards, data, hot),
        objective,
        networks.initial,
        every=max(1, round(settings.validation.every_epochs * steps)),
        total_steps=settings.train.steps or settings.train.epochs * steps,
        device=world.device,
    )
    return build_job(settings, world, sources, objective, evaluator, data.epoch_rows)


def check_data(settings: DataSettings) -> None:
    """ConfigError unless the data are one shard set with all its splits."""
    if settings.sources:
        raise ConfigError(
            f"data.sources: got {len(settings.sources)} shard sets, expected one for fine-tuning, because classes "
            "and splits differ between sets. Set data.shards=FOLDER."
        )
    if settings.split is not None:
        raise ConfigError(
            f"data.split: got {settings.split!r}, expected none for fine-tuning, which uses several splits. Set "
            "labels.train_split and labels.test_split."
        )


def _check_validation(validation: ValidationSettings, data: FinetuneData) -> None:
    known = metric_names(data.multi)
    if validation.metric is not None and validation.metric not in known:
        kind = "multi-label" if data.multi else "single-label"
        raise ConfigError(
            f"validation.metric: got {validation.metric!r} for {kind} data, expected one of {', '.join(known)}. Remove "
            f"it to use {main_metric(data.multi)}."
        )
    if validation.patience is not None and not len(data.val):
        raise ConfigError(
            f"validation.patience: got {validation.patience} without validation images, expected none. Set "
            "labels.val_share, or remove validation.patience to train to the end."
        )


def _networks(settings: FinetuneSettings, shards: ShardSet) -> Networks:
    if settings.classifier.own_inputs() is not None:
        if settings.backbone:
            raise ConfigError(
                f"backbone: got {list(settings.backbone)} for the classifier {settings.classifier.name!r}, expected "
                "none, because it has no pretrained part. Remove the section backbone."
            )
        return Networks([], grid_inputs(settings.classifier, settings.sensors, shards), {})
    at_random = settings.tune.mode == "scratch"
    return load_networks(settings.backbone, settings.sensors, settings.network, shards, at_random)


def _cap_global_batch(settings: FinetuneSettings, num: int, world: World) -> FinetuneSettings:
    """Reduce the batch to at most the number of samples: 1 % of the labels may be less than one batch."""
    parts = world.size * settings.strategy.accumulate
    largest = num // parts * parts
    if not largest:
        raise ConfigError(
            f"labels: got {num} training samples for {world.size} ranks with strategy.accumulate "
            f"{settings.strategy.accumulate}, expected at least {parts}. Raise labels.fraction, or start fewer ranks."
        )
    if settings.train.global_batch <= largest:
        return settings
    return settings.model_copy(update={"train": settings.train.model_copy(update={"global_batch": largest})})
