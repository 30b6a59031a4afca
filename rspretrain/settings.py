"""The base of every configuration model: typed, frozen, and deaf to nothing (unknown keys are errors)."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A part's configuration, kept beside the part that owns it. Every field says its meaning and unit."""

    # Names may look like numbers to YAML: BigEarthNet's nomenclature of 19 classes is called 19.
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, coerce_numbers_to_str=True)
