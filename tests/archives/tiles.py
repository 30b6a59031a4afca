"""The archive law for tiles of scenes."""

import pickle

import numpy as np
import rasterio
from laws import check_record
from rasterio.windows import Window, from_bounds

from rspretrain.patch import KEY_PATTERN, PatchError
from rspretrain.shardset.record import NAME_LIMIT, encode, fixed_layout, matches_layout


def check_tiles(archive, faults_expected, slack_px=0.01):
    """The archive law for tiles: one order, unique keys that fit, pixels equal to rasterio's, faults named.

    Returns the patches. `slack_px`: largest offset of a coarse or paired window from the bounds, in its own pixels.
    """
    entries, faults = archive.entries()
    again = pickle.loads(pickle.dumps(archive)).entries()
    assert ([entry.key for entry in entries], faults) == ([entry.key for entry in again[0]], again[1])
    assert len({entry.key for entry in entries}) == len({entry.name for entry in entries}) == len(entries)
    found = {fault.name: fault.reason for fault in faults}
    assert len(found) == len(faults)
    patches = []
    layout = fixed_layout(archive.groups, False, archive.metadata_bytes)
    for entry in entries:
        assert KEY_PATTERN.fullmatch(entry.key)
        try:
            patch = archive.read(pickle.loads(pickle.dumps(entry)))
        except PatchError as error:
            found[entry.name] = str(error)
            continue
        assert list(patch.images) == [group.name for group in archive.groups]
        check_record(archive, patch)
        assert matches_layout(encode(patch, archive.groups, {}, archive.metadata_bytes), layout)
        for scene in (entry.source.scene, *entry.source.partners):
            groups = [group for group in archive.groups if group.sensor == scene.sensor]
            for group, layer in zip(groups, scene.layers, strict=True):
                image = patch.images[group.name]
                assert (image.dtype, image.shape) == (group.dtype, (len(group.bands), *group.shape))
                assert len(f"{entry.key}.{group.name}.npy") <= NAME_LIMIT
                assert np.array_equal(
                    image, pixels_at(archive.roots[scene.sensor], patch, layer, group.shape, slack_px)
                )
        patches.append(patch)
    assert found.keys() == faults_expected.keys(), found
    for name, part in faults_expected.items():
        assert part in found[name], found[name]
    return patches


def pixels_at(root, patch, layer, shape, slack_px):
    """The pixels that rasterio reads from a layer at the bounds of the patch."""
    images = []
    for path, bands in layer.files:
        with rasterio.open(root / path) as source:
            row, col = patch.attributes["row"], patch.attributes["col"]
            if patch.bounds is not None:
                window = from_bounds(*patch.bounds, source.transform)
                row, col = round(window.row_off), round(window.col_off)
                assert max(abs(window.row_off - row), abs(window.col_off - col)) <= slack_px
            images.append(source.read(list(bands), window=Window(col, row, *reversed(shape))))
    return np.concatenate(images)
