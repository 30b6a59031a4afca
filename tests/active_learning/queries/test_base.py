import pytest
from pydantic import ValidationError

from active_learning.queries.cases import settings


def test_uncertain_is_a_setting_of_mge_and_may_stay_in_a_file_for_mge() -> None:
    assert settings("mge").model_dump() == {"name": "mge", "uncertain": 10}
    assert settings("random", uncertain=10).model_dump() == {"name": "random"}
    with pytest.raises(ValidationError, match="uncertian"):
        settings("random", uncertian=10)
