"""Settings of the data loader: the section `data` of a configuration."""

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from rspretrain.download.transfer import RetryPolicy
from rspretrain.settings import Settings
from rspretrain.shardset.remote import RemoteOptions


def _as_text(shards: object) -> object:
    return str(shards) if isinstance(shards, Path) else shards


PathOrUrl = Annotated[str, BeforeValidator(_as_text)]


class SourceSettings(Settings):
    """One shard set of a mixture."""

    shards: PathOrUrl = Field(description="Folder of the shard set, or its URL.")
    weight: float | None = Field(
        default=None,
        gt=0,
        description="Relative share of the samples of a batch. null for all sources: by number of samples.",
    )
    name: str | None = Field(
        default=None,
        min_length=1,
        description="Name of the source in metrics and ledgers. null: the name of the folder.",
    )
    split: str | None = Field(default=None, description="Split of this shard set, such as train. null: data.split.")
    filter: str | None = Field(default=None, description="Filter expression for this shard set. null: data.filter.")

    @property
    def display_name(self) -> str:
        """`name`, or the last part of the path or URL."""
        return self.name or PurePosixPath(self.shards).name or self.shards


class DataSettings(Settings):
    """The samples of a run and how they are loaded."""

    shards: PathOrUrl | None = Field(
        default=None,
        description="Folder of the shard set, or its URL (https://, s3://, gs:// or any other protocol of "
        "fsspec). null: data.sources.",
    )
    sources: tuple[SourceSettings, ...] = Field(
        default=(), description="Several shard sets with weights, instead of data.shards."
    )
    split: str | None = Field(default=None, description="Split of the archive, such as train. null: all samples.")
    filter: str | None = Field(
        default=None,
        description="Filter expression; matching samples are kept, as in \"country == 'Finland' and season == "
        "'summer'\". null: all samples.",
    )
    streams: int = Field(
        default=1,
        ge=1,
        description="Number of canonical streams. With a multiple of the number of nodes, each node reads "
        "only its own shards.",
    )
    window: int = Field(
        default=16, ge=1, description="Size of the shuffle window in shards: samples of these shards are mixed."
    )
    threads: int = Field(default=2, ge=1, description="Loader threads per rank.")
    prefetch: int = Field(default=4, ge=1, description="Number of batches to load ahead, per rank.")
    verify: bool = Field(default=True, description="Check the checksum of each sample on its first use in a run.")
    on_corrupt: Literal["stop", "quarantine"] = Field(
        default="stop",
        description="stop: a damaged sample ends the run; quarantine: it is reported, left out and replaced "
        "by another.",
    )
    quarantine_limit: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of damaged samples above which the run stops, with on_corrupt: quarantine.",
    )
    cache_dir: Path | None = Field(
        default=None,
        description="Cache folder for remote shards. null: $XDG_CACHE_HOME/rspretrain or ~/.cache/rspretrain.",
    )
    cache_gb: float = Field(
        default=100.0, gt=0, description="Size limit of the cache folder in GB, for all ranks of a node together."
    )
    fetches: int = Field(default=8, ge=1, description="Number of concurrent downloads per node.")
    fetch_timeout_s: float = Field(
        default=60.0, gt=0, description="Time without a received byte after which a download is retried, in seconds."
    )
    fetch_retries: int = Field(default=8, ge=0, description="Number of retries before a download fails.")
    ledger: bool = Field(default=False, description="Write the sample keys of every global batch to ledger.jsonl.")

    @model_validator(mode="after")
    def _quarantine_needs_checksums(self) -> Self:
        if self.on_corrupt == "quarantine" and not self.verify:
            raise ValueError(
                "data.on_corrupt: got quarantine with data.verify=false, expected true: only checksums find "
                "damaged samples. Set data.verify=true, or data.on_corrupt=stop."
            )
        return self

    @model_validator(mode="after")
    def _shards_or_sources(self) -> Self:
        if (self.shards is None) == (not self.sources):
            given = "both `shards` and `sources`" if self.sources else "neither `shards` nor `sources`"
            raise ValueError(
                f"data: got {given}, expected one of them. Set data.shards=FOLDER for one shard set, or "
                "data.sources=[{shards: FOLDER, weight: 0.7}, …] for several."
            )
        weighted = [source.weight is not None for source in self.sources]
        if any(weighted) and not all(weighted):
            raise ValueError(
                f"data.sources: got the weights {[source.weight for source in self.sources]}, expected one for every "
                "source or none. Set all weights, or none to mix in proportion to the numbers of samples."
            )
        counts = Counter(source.display_name for source in self.sources)
        repeated = [name for name, count in counts.items() if count > 1]
        if repeated:
            raise ValueError(
                f"data.sources: got several sources named {repeated[0]!r}, expected different names. Set `name` "
                "in each."
            )
        return self

    def all_sources(self) -> tuple[SourceSettings, ...]:
        """Every shard set of the run, each with its split and filter filled in."""
        sources = self.sources or (SourceSettings.model_validate({"shards": self.shards}),)
        return tuple(
            source.model_copy(
                update={"split": source.split or self.split, "filter": source.filter or self.filter}
            )
            for source in sources
        )  # fmt: skip

    def remote_options(self) -> RemoteOptions:
        """Cache and download options of shards from URLs."""
        retry_policy = RetryPolicy(self.fetch_timeout_s, self.fetch_retries)
        return RemoteOptions(self.cache_dir, round(self.cache_gb * 1e9), retry_policy)
