"""Which samples a run sees, and how they come: the section `data` of a configuration."""

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from rspretrain.download.transfer import Patience
from rspretrain.settings import Settings
from rspretrain.shardset.remote import RemoteOptions


def _as_text(shards: object) -> object:
    return str(shards) if isinstance(shards, Path) else shards


Place = Annotated[str, BeforeValidator(_as_text)]


class SourceSettings(Settings):
    """One shard set of a mixture."""

    shards: Place = Field(description="folder of the shard set, or its URL")
    weight: float | None = Field(None, gt=0, description="share of the samples, relative; none: by number of samples")
    name: str | None = Field(None, min_length=1, description="in metrics and ledgers; none: the folder's name")
    split: str | None = Field(None, description="one of the set's own splits; none: data.split")
    filter: str | None = Field(None, description="samples to keep; none: data.filter")

    @property
    def called(self) -> str:
        """The name, given or taken from the place."""
        return self.name or PurePosixPath(self.shards).name or self.shards


class DataSettings(Settings):
    """Which samples a run sees, and how they come."""

    shards: Place | None = Field(
        None, description="folder of the shard set, or its URL (https://, s3://, gs:// or any other of fsspec)"
    )
    sources: tuple[SourceSettings, ...] = Field((), description="instead of `shards`: several sets with weights")
    split: str | None = Field(None, description="one of the archive's own splits; none: every sample")
    filter: str | None = Field(None, description="samples to keep: \"country == 'Finland' and season == 'summer'\"")
    streams: int = Field(1, ge=1, description="canonical streams S; a multiple of the nodes gives each its own shards")
    window: int = Field(16, ge=1, description="shards whose samples are shuffled among each other")
    threads: int = Field(2, ge=1, description="threads that gather batches, in every rank")
    prefetch: int = Field(4, ge=1, description="batches gathered ahead, in every rank")
    verify: bool = Field(True, description="check every sample's checksum when a run first touches it")
    on_corrupt: Literal["stop", "quarantine"] = Field(
        "stop", description="a damaged sample ends the run, or is left out by name and replaced by another"
    )
    quarantine_limit: float = Field(0.01, ge=0, le=1, description="share of damaged samples that ends the run anyway")
    cache_dir: Path | None = Field(
        None, description="where shards behind a URL are kept; none: $XDG_CACHE_HOME/rspretrain or ~/.cache/rspretrain"
    )
    cache_gb: float = Field(100.0, gt=0, description="GB of that folder, for all ranks of a node together")
    fetches: int = Field(8, ge=1, description="shards that a node fetches at the same time")
    fetch_timeout_s: float = Field(60.0, gt=0, description="seconds without a byte, after which a fetch is tried again")
    fetch_retries: int = Field(8, ge=0, description="further attempts before a shard counts as lost")
    ledger: bool = Field(False, description="write the keys of every global batch to ledger.jsonl")

    @model_validator(mode="after")
    def _quarantine_needs_checksums(self) -> Self:
        if self.on_corrupt == "quarantine" and not self.verify:
            raise ValueError(
                "on_corrupt is 'quarantine' and verify is off: only checksums find damaged samples. Set data.verify."
            )
        return self

    @model_validator(mode="after")
    def _one_kind_of_place(self) -> Self:
        if (self.shards is None) == (not self.sources):
            both = "both `shards` and `sources`" if self.sources else "neither `shards` nor `sources`"
            raise ValueError(
                f"{both}, expected one of them. Give data.shards=FOLDER for one shard set, or data.sources=[{{shards: "
                "FOLDER, weight: 0.7}, …] for several."
            )
        weighted = [source.weight is not None for source in self.sources]
        if any(weighted) and not all(weighted):
            raise ValueError(
                f"weights of some sources only ({[source.weight for source in self.sources]}), expected of all or of "
                "none. Give every one a weight, or leave all out to mix by number of samples."
            )
        twice = [name for name, count in Counter(source.called for source in self.sources).items() if count > 1]
        if twice:
            raise ValueError(f"several sources of the name {twice[0]!r}, expected different ones. Give each a `name`.")
        return self

    def all_sources(self) -> tuple[SourceSettings, ...]:
        """Every shard set of the run, each with the split and the filter that hold for it."""
        sources = self.sources or (SourceSettings.model_validate({"shards": self.shards}),)
        return tuple(
            source.model_copy(
                update={"split": source.split or self.split, "filter": source.filter or self.filter}
            )
            for source in sources
        )  # fmt: skip

    def remote_options(self) -> RemoteOptions:
        """How shards behind a URL are fetched and kept."""
        patience = Patience(self.fetch_timeout_s, self.fetch_retries)
        return RemoteOptions(self.cache_dir, round(self.cache_gb * 1e9), patience)
