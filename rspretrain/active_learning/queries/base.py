"""The base class of query functions and of their settings."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydantic import Field, model_validator

from rspretrain.active_learning.queries.candidates import Candidates, Positions
from rspretrain.registry import NamedSettings


class QuerySettings(NamedSettings):
    """The section `query` of active learning. Query functions with more settings extend it."""

    name: str = Field(description="Query function: MGE with clustering, or one of the baselines.")

    @model_validator(mode="before")
    @classmethod
    def _drop_uncertain(cls, given: Any) -> Any:
        # A setting of MGE only. Older configurations of other query functions have it, too, and query.name=random on
        # the command line may override a configuration for MGE.
        if isinstance(given, dict) and "uncertain" not in cls.model_fields:
            return {key: value for key, value in given.items() if key != "uncertain"}
        return given


class Query(ABC):
    """Selects the images to label next: a pure function of the candidates and the seed."""

    Settings: ClassVar[type[QuerySettings]] = QuerySettings

    def __init__(self, settings: QuerySettings) -> None:
        self.settings = settings

    @abstractmethod
    def __call__(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        """Positions of `budget` distinct candidates, the most informative first; equal ones in the order of rows."""
