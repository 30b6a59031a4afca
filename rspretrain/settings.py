"""The base of every configuration model: typed, frozen, rejects unknown keys; and types that several models share."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """The configuration of one part, defined beside it. The description of each field gives its meaning and unit."""

    # Names may look like numbers to YAML: BigEarthNet's nomenclature of 19 classes is called 19.
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, coerce_numbers_to_str=True)


def _check_range(given: tuple[float, float]) -> tuple[float, float]:
    if given[0] > given[1]:
        raise ValueError(f"got {list(given)}, expected the least share before the greatest, such as [0.2, 1.0].")
    return given


Share = Annotated[float, Field(gt=0, le=1)]
AreaRange = Annotated[tuple[Share, Share], AfterValidator(_check_range)]  # least and greatest share of an area
Decay = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
