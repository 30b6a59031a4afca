"""The settings of every kind of run: each section's model is defined beside the code that it configures.

`run` and `train` are defined here, because the trainer that they configure is above this package.
"""

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from rspretrain.active_learning.budget import BudgetSettings
from rspretrain.active_learning.oracle import OracleSettings
from rspretrain.active_learning.queries import QuerySection
from rspretrain.active_learning.queries.mge import MgeSettings
from rspretrain.evaluation.labels import LabelSettings
from rspretrain.finetuning.networks import NetworkSettings, ValidationSettings
from rspretrain.nn.backbones import BackboneSettings
from rspretrain.nn.classifiers import ClassifierSection
from rspretrain.nn.classifiers.linear import LinearSettings
from rspretrain.nn.tuning import TuneSettings
from rspretrain.objectives import ObjectiveSection
from rspretrain.observe.sinks import WatchSettings
from rspretrain.observe.verdict import HealthSettings
from rspretrain.rng import mix
from rspretrain.settings import Settings
from rspretrain.strategies import StrategySection
from rspretrain.strategies.base import StrategySettings
from rspretrain.strategies.optim import OptimSettings
from rspretrain.streaming.settings import DataSettings
from rspretrain.transforms.inputs import SensorSettings
from rspretrain.transforms.train_views import TrainViewSettings


class RunSection(Settings):
    """Folder, name and seed of a run."""

    dir: Path = Field(
        description="Folder for everything that the run writes. A new or empty folder; --resume continues the"
        " run in it."
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of all random choices: initial weights, sample order, views, drop path."
    )
    name: str | None = Field(
        default=None, description="Name of the run in wandb and reports. null: the name of the folder."
    )


class TrainSection(Settings):
    """Length of training, batch, and checkpoints."""

    global_batch: int = Field(gt=0, description="Number of samples per step, summed over all ranks.")
    epochs: int = Field(default=100, gt=0, description="Length of the run in epochs, unless steps is set.")
    steps: int | None = Field(default=None, gt=0, description="Length of the run in steps. null: epochs decides.")
    checkpoint_every: int | None = Field(
        default=None,
        gt=0,
        description="Interval between two checkpoints in steps. null: by checkpoint_minutes and at the end only.",
    )
    checkpoint_minutes: float | None = Field(
        default=10.0,
        gt=0,
        description="Interval between two checkpoints in minutes. null: by checkpoint_every and at the end only.",
    )
    keep: int = Field(default=3, gt=0, description="Number of checkpoints to keep, newest first.")
    max_refused: int = Field(
        default=10,
        gt=0,
        description="Number of consecutive steps with a non-finite loss or gradient after which the run stops.",
    )


class CommonSettings(Settings):
    """Sections of every run."""

    title: ClassVar[str] = "a run"
    command: ClassVar[str] = ""  # of rspretrain

    run: RunSection = Field(description="Name, folder and seed of the run.")
    data: DataSettings = Field(description="Samples and their loading.")
    strategy: StrategySection = Field(default=StrategySettings(), description="Parallelism, precision and memory.")
    optim: OptimSettings = Field(default=OptimSettings(), description="Optimizer and schedules.")
    train: TrainSection = Field(description="Batch size, length and checkpoints.")
    watch: WatchSettings = Field(default=WatchSettings(), description="Metrics and wandb.")
    health: HealthSettings = Field(default=HealthSettings(), description="Detection of collapse.")
    sensors: dict[str, SensorSettings] = Field(description="Sensor name -> its bands and normalisation.")


class RunSettings(CommonSettings):
    """The configuration of a pretraining run."""

    title = "pretraining"
    command = "pretrain"

    backbone: BackboneSettings = Field(
        default=BackboneSettings(),
        description="Architecture of the networks, one per sensor (or one in all with objective.fusion: early).",
    )
    objective: ObjectiveSection = Field(description="Self-supervised method and its settings.")


class FinetuneSettings(CommonSettings):
    """The configuration of a fine-tuning run: labels, networks (pretrained or not) and trainable parameters."""

    title = "fine-tuning"
    command = "finetune"

    sensors: dict[str, SensorSettings] = Field(
        default_factory=dict,
        description="Sensor name -> bands and normalisation of randomly initialised networks. Those of "
        "exported backbones come from their exports.",
    )
    backbone: dict[str, Path] = Field(
        default_factory=dict,
        description="Sensor name (or s1+s2 for stacked sensors) -> folder of an exported backbone.",
    )
    network: NetworkSettings = Field(
        default=NetworkSettings(), description="Architecture of randomly initialised networks."
    )
    classifier: ClassifierSection = Field(default=LinearSettings(), description="Classifier on top of the backbones.")
    tune: TuneSettings = Field(
        default=TuneSettings(), description="Trainable parameters of the backbones and their learning rates."
    )
    labels: LabelSettings = Field(default=LabelSettings(), description="Labels and splits.")
    views: TrainViewSettings = Field(
        default=TrainViewSettings(), description="Crops and augmentation of the training images."
    )
    validation: ValidationSettings = Field(
        default=ValidationSettings(), description="Validation, early stopping and test metrics."
    )


class ActiveSettings(FinetuneSettings):
    """The configuration of active learning: one fine-tuning run per round, and a query between two rounds."""

    title = "active learning"
    command = "active-learning"

    budget: BudgetSettings = Field(default=BudgetSettings(), description="Numbers of labelled images, and the splits.")
    query: QuerySection = Field(default=MgeSettings(), description="Query function that selects the images to label.")
    oracle: OracleSettings = Field(
        default=OracleSettings(),
        description="Source of the labels: table (labels of the shard set), csv (a table to fill in by hand), or a "
        "section with its settings.",
    )
    warm_start: bool = Field(
        default=True,
        description="true: each round starts from the weights of the previous round; false: from the backbones.",
    )

    @field_validator("oracle", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    def of_round(self, number: int) -> FinetuneSettings:
        """The fine-tuning run of a round, with its own folder and random choices."""
        common = {name: getattr(self, name) for name in FinetuneSettings.model_fields}
        seed = mix(self.run.seed, self.budget.seed, number) >> 33  # 31 bits, which every library accepts
        name = f"{self.run.name or self.run.dir.name}, round {number}"
        run = RunSection(dir=self.run.dir / "rounds" / f"{number:02d}", seed=seed, name=name)
        return FinetuneSettings.model_construct(**{**common, "run": run})
