"""rspretrain: remote-sensing archives to checksummed shards to self-supervised backbones that know their bands."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rspretrain.shardset.index import ShardSet
    from rspretrain.streaming.dataset import ShardDataset as ShardDataset

__version__ = "0.1.0"


def open_shards(path: Path | str, cache_dir: Path | str | None = None, cache_gb: float = 100.0) -> "ShardSet":
    """Open a shard set in a folder or behind a URL: `shards[0]`, `shards["key"]`, `for patch in shards`.

    Shards behind a URL are kept in `cache_dir` (None: $XDG_CACHE_HOME/rspretrain or ~/.cache/rspretrain), at most
    `cache_gb` GB. ValueError where there is no shard set, it is damaged, or of another format version.
    """
    # Here, so that `import rspretrain` stays cheap.
    from rspretrain.shardset.index import open_shards
    from rspretrain.shardset.remote import RemoteOptions

    return open_shards(path, RemoteOptions(Path(cache_dir) if cache_dir else None, round(cache_gb * 1e9)))


def __getattr__(name: str) -> Any:
    """`rspretrain.ShardDataset`, a torch Dataset over a shard set; torch is imported when somebody asks for it."""
    if name != "ShardDataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rspretrain.streaming.dataset import ShardDataset

    return ShardDataset
