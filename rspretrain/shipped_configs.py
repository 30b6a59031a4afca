"""The configurations and DeepSpeed files that come with the package: found by name, listed and copied. No torch."""

import difflib
import os
from pathlib import Path

FOLDER = Path(__file__).parent / "configs"
KINDS = {  # folder -> the command that runs such a configuration
    "pretrain": "pretrain",
    "finetune": "finetune",
    "active_learning": "active-learning",
}


def shipped(kind: str) -> dict[str, Path]:
    """Name -> YAML file of every configuration of a kind, by name."""
    return {path.stem: path for path in sorted((FOLDER / kind).glob("*.yaml"))}


def summary(path: Path) -> str:
    """The first line of a YAML file, a comment, without its `#`."""
    with path.open() as file:
        return file.readline().strip().removeprefix("#").strip()


def find_config(given: Path, kind: str) -> Path:
    """The file that `--config` means: a path, or the name of a shipped configuration with or without .yaml.

    ValueError for a name of another kind, with its command, and for an unknown one, with the nearest names.
    """
    if given.is_file() or given.parent != Path():
        return given
    name = given.name.removesuffix(".yaml")
    if name in shipped(kind):
        return shipped(kind)[name]
    for other in KINDS:
        if name in shipped(other):
            raise ValueError(
                f"--config: {name} is a configuration of `rspretrain {KINDS[other]}`, not of `rspretrain "
                f"{KINDS[kind]}`. Use `rspretrain {KINDS[other]} --config {name}`."
            )
    close = difflib.get_close_matches(name, shipped(kind), n=3)
    nearest = f"Did you mean {' or '.join(close)}? " if close else ""
    raise ValueError(
        f"--config: {given} is neither a file nor a shipped configuration. {nearest}`rspretrain configs` lists them."
    )


def copy_config(name: str, destination: Path | None) -> Path:
    """Write a shipped configuration to `destination` (a file or a folder; None: here) and return the new file's path.

    ValueError where there is no such configuration, or a file of that name exists already.
    """
    stem = name.removesuffix(".yaml").removesuffix(".json")
    known = {path.stem: path for kind in KINDS for path in shipped(kind).values()} | deepspeed_files()
    if stem not in known:
        close = difflib.get_close_matches(stem, known, n=3)
        nearest = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"{name} is not a shipped configuration.{nearest} `rspretrain configs` lists them.")
    source = known[stem]
    target = destination or Path(source.name)
    if target.is_dir():
        target = target / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("xb") as file:
            file.write(source.read_bytes())
    except FileExistsError:
        raise ValueError(f"{target} exists, expected a new file. Choose another name or remove it.") from None
    return target


def deepspeed_files() -> dict[str, Path]:
    """Name -> JSON file of every shipped DeepSpeed configuration: zero0 to zero3."""
    return {path.stem: path for path in sorted((FOLDER / "deepspeed").glob("*.json"))}


def find_deepspeed(given: Path) -> Path:
    """A DeepSpeed JSON file: a path, or a shipped one by name (`zero1`) or as `configs/deepspeed/zero1.json`.

    ValueError where there is no such file.
    """
    if given.is_file():
        return given
    # Runs of earlier releases saved paths inside of the repository.
    known, folder = deepspeed_files(), given.parent.as_posix()
    if given.stem in known and given.suffix in ("", ".json") and folder in (".", "configs/deepspeed"):
        return known[given.stem]
    raise ValueError(
        f"strategy.deepspeed: got {os.fspath(given)!r}, expected a DeepSpeed JSON file or one of {', '.join(known)}."
    )
