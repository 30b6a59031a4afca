"""The base class of query functions, and the settings that choose one."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydantic import Field, model_validator

from rspretrain.active_learning.queries.candidates import Candidates, Positions
from rspretrain.registry import NamedSettings


class QuerySettings(NamedSettings):
    """The section `query` of active learning; a query function with settings of its own extends it."""

    name: str = Field(description="Query function: MGE with clustering, or one of the baselines.")

    @model_validator(mode="before")
    @classmethod
    def _drop_uncertain(cls, given: Any) -> Any:
        # A setting of MGE. Configurations of all query functions had it once, and query.name=random on the command line
        # may follow a file for MGE.
        if isinstance(given, dict) and "uncertain" not in cls.model_fields:
            return {key: value for key, value in given.items() if key != "uncertain"}
        return given


class Query(ABC):
    """Chooses the images to label next: a pure function of the candidates and the seed."""

    Settings: ClassVar[type[QuerySettings]] = QuerySettings

    def __init__(self, settings: QuerySettings) -> None:
        self.settings = settings

    @abstractmethod
    def __call__(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        """Positions of `budget` different candidates, the most informative first; equal ones in the order of rows."""
