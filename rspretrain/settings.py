"""The base of every configuration model: typed, frozen, and deaf to nothing (unknown keys are errors)."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A part's configuration, kept beside the part that owns it. Every field says its meaning and unit."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
