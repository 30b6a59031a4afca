"""The settings of every kind of run: each section's model is defined beside the code that it configures.

`run` and `train` are defined here, because the trainer that they configure is above this package.
"""

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from rspretrain.active_learning.budget import BudgetSettings
from rspretrain.active_learning.oracle import OracleSettings
from rspretrain.active_learning.queries import QuerySettings
from rspretrain.evaluation.labels import LabelSettings
from rspretrain.finetuning.networks import NetworkSettings, ValidationSettings
from rspretrain.nn.backbones import BackboneSettings
from rspretrain.nn.classifiers import ClassifierSettings, LinearSettings
from rspretrain.nn.tuning import TuneSettings
from rspretrain.objectives import ObjectiveSettings
from rspretrain.observe.sinks import WatchSettings
from rspretrain.observe.verdict import HealthSettings
from rspretrain.rng import mix
from rspretrain.settings import Settings
from rspretrain.strategies.base import StrategySettings
from rspretrain.strategies.optim import OptimSettings
from rspretrain.streaming.settings import DataSettings
from rspretrain.transforms.inputs import SensorSettings
from rspretrain.transforms.train_views import TrainViewSettings


class RunSection(Settings):
    """Which run this is."""

    dir: Path  # where everything that the run writes lies; never overwritten
    seed: int = Field(default=0, ge=0)  # of everything random: initial weights, order, views, drop path
    name: str | None = None  # for people and wandb; None: the folder's name


class TrainSection(Settings):
    """How long, how much at once, and what is kept."""

    global_batch: int = Field(gt=0)  # samples of all ranks together in one step
    epochs: int = Field(default=100, gt=0)
    steps: int | None = Field(default=None, gt=0)  # instead of epochs
    checkpoint_every: int | None = Field(default=None, gt=0)  # steps; None: by minutes and at the end only
    checkpoint_minutes: float | None = Field(default=10.0, gt=0)  # None: by steps and at the end only
    keep: int = Field(default=3, gt=0)  # newest checkpoints that stay
    max_refused: int = Field(default=10, gt=0)  # steps in a row with a loss or gradient not finite that end the run


class CommonSettings(Settings):
    """What every run has, whatever it trains."""

    run: RunSection
    data: DataSettings
    strategy: StrategySettings = StrategySettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSection
    watch: WatchSettings = WatchSettings()
    health: HealthSettings = HealthSettings()
    sensors: dict[str, SensorSettings]  # sensor name -> what of it a network sees


class RunSettings(CommonSettings):
    """Everything that decides a pretraining run."""

    backbone: BackboneSettings = BackboneSettings()  # one of this kind for every sensor
    objective: ObjectiveSettings


class FinetuneSettings(CommonSettings):
    """Everything that decides a fine-tuning run: labels, networks that may be pretrained, and what of them trains."""

    # Of networks that start at random; exported ones know their bands.
    sensors: dict[str, SensorSettings] = Field(default_factory=dict)
    backbone: dict[str, Path] = Field(default_factory=dict)  # sensor (or "s1+s2") -> folder of an exported backbone
    network: NetworkSettings = NetworkSettings()
    classifier: ClassifierSettings = LinearSettings()
    tune: TuneSettings = TuneSettings()
    labels: LabelSettings = LabelSettings()
    views: TrainViewSettings = TrainViewSettings()
    validation: ValidationSettings = ValidationSettings()


class ActiveSettings(FinetuneSettings):
    """Everything that decides a label-budget loop: a fine-tuning run a round, and which images get labels between."""

    budget: BudgetSettings = BudgetSettings()
    query: QuerySettings = QuerySettings()
    oracle: OracleSettings = OracleSettings()
    warm_start: bool = True  # a round starts from the weights of the one before; false: from the backbones

    @field_validator("oracle", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    def of_round(self, number: int) -> FinetuneSettings:
        """The fine-tuning run of a round, in a folder and with random choices of its own."""
        common = {name: getattr(self, name) for name in FinetuneSettings.model_fields}
        seed = mix(self.run.seed, self.budget.seed, number) >> 33  # 31 bits, which every library takes
        name = f"{self.run.name or self.run.dir.name}, round {number}"
        run = RunSection(dir=self.run.dir / "rounds" / f"{number:02d}", seed=seed, name=name)
        return FinetuneSettings.model_construct(**{**common, "run": run})
