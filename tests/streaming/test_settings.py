import pytest
from pydantic import ValidationError

from rspretrain.streaming.settings import DataSettings


def test_one_set_is_one_source():
    (source,) = DataSettings(shards="a/b", split="train", filter="x > 1").all_sources()
    assert (source.called, source.split, source.filter) == ("b", "train", "x > 1")


def test_sources_take_the_common_split_unless_they_have_their_own():
    settings = DataSettings(sources=[{"shards": "a"}, {"shards": "https://h/b", "split": "test"}], split="train")
    assert [(source.called, source.split) for source in settings.all_sources()] == [("a", "train"), ("b", "test")]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "neither `shards` nor `sources`, expected one of them. Give data.shards=FOLDER"),
        ({"shards": "a", "sources": [{"shards": "b"}]}, "both `shards` and `sources`"),
        (
            {"sources": [{"shards": "a", "weight": 1}, {"shards": "b"}]},
            r"of some sources only \(\[1.0, None\]\)",
        ),
        ({"sources": [{"shards": "x/a"}, {"shards": "y/a"}]}, "several sources of the name 'a', expected different"),
        ({"sources": [{"shards": "a", "weight": 0}]}, "greater than 0"),
        ({"shards": "a", "on_corrupt": "quarantine", "verify": False}, "only checksums find damaged samples"),
    ],
)
def test_what_cannot_be_meant(settings, told):
    with pytest.raises(ValidationError, match=told):
        DataSettings(**settings)
