"""rspretrain: remote-sensing archives to checksummed shards to self-supervised backbones that know their bands."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rspretrain.shardset.index import ShardSet
    from rspretrain.streaming.dataset import ShardDataset as ShardDataset

__version__ = "0.1.0"


def open_shards(path: Path | str) -> "ShardSet":
    """Open a shard set in a folder or behind a URL: `shards[0]`, `shards["key"]`, `for patch in shards`.

    ValueError where there is none, it is damaged, or of another format version.
    """
    from rspretrain.shardset.index import open_shards  # here, so that `import rspretrain` stays cheap

    return open_shards(path)


def __getattr__(name: str) -> Any:
    """`rspretrain.ShardDataset`, a torch Dataset over a shard set; torch is imported when somebody asks for it."""
    if name != "ShardDataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rspretrain.streaming.dataset import ShardDataset

    return ShardDataset
