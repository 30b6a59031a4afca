"""rspretrain: self-supervised pretraining on remote sensing archives, from raw archives to exported backbones."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rspretrain.shardset.index import ShardSet
    from rspretrain.streaming.dataset import ShardDataset as ShardDataset

__version__ = "0.1.0"


def open_shards(path: Path | str, cache_dir: Path | str | None = None, cache_gb: float = 100.0) -> "ShardSet":
    """Open a shard set in a folder or at a URL: `shards[0]`, `shards["key"]`, `for patch in shards`.

    Shards from a URL are cached in `cache_dir` (None: $XDG_CACHE_HOME/rspretrain or ~/.cache/rspretrain), up to
    `cache_gb` GB. ValueError if there is no shard set, or if it is damaged or of another format version.
    """
    # Imported here, so that `import rspretrain` stays fast.
    from rspretrain.shardset.index import open_shards
    from rspretrain.shardset.remote import RemoteOptions

    return open_shards(path, RemoteOptions(Path(cache_dir) if cache_dir else None, round(cache_gb * 1e9)))


def __getattr__(name: str) -> Any:
    """Import `rspretrain.ShardDataset`, a torch Dataset of a shard set, and thereby torch, at its first use."""
    if name != "ShardDataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rspretrain.streaming.dataset import ShardDataset

    return ShardDataset
