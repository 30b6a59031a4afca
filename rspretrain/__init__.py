"""rspretrain: remote-sensing archives to checksummed shards to self-supervised backbones that know their bands."""

__version__ = "0.1.0"
