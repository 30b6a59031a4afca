import pytest
from pydantic import ValidationError

from rspretrain.streaming.settings import DataSettings


def test_one_set_is_one_source():
    (source,) = DataSettings(shards="a/b", split="train", filter="x > 1").all_sources()
    assert (source.display_name, source.split, source.filter) == ("b", "train", "x > 1")


def test_sources_inherit_the_common_split():
    settings = DataSettings(sources=[{"shards": "a"}, {"shards": "https://h/b", "split": "test"}], split="train")
    assert [(source.display_name, source.split) for source in settings.all_sources()] == [("a", "train"), ("b", "test")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "neither `shards` nor `sources`, expected one of them. Set data.shards=FOLDER"),
        ({"shards": "a", "sources": [{"shards": "b"}]}, "both `shards` and `sources`"),
        (
            {"sources": [{"shards": "a", "weight": 1}, {"shards": "b"}]},
            r"got the weights \[1.0, None\], expected one for every source or none",
        ),
        ({"sources": [{"shards": "x/a"}, {"shards": "y/a"}]}, "several sources named 'a', expected different"),
        ({"sources": [{"shards": "a", "weight": 0}]}, "greater than 0"),
        ({"shards": "a", "on_corrupt": "quarantine", "verify": False}, "only checksums find damaged samples"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ValidationError, match=message):
        DataSettings(**settings)
