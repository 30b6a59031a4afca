"""The simulated land: labels follow from the map; images have the units and resolutions of the sensors."""

import numpy as np
import pytest

from rspretrain.archives import simulate
from rspretrain.archives.corine import NOMENCLATURES


def scene(seed, landscape="fields"):
    rng = np.random.default_rng(seed)
    land, labels = simulate.draw_land(rng, landscape)
    textures = simulate.draw_textures(rng)
    return rng, land, labels, textures, simulate.cover_of(land, textures)


@pytest.mark.parametrize("landscape", simulate.LANDSCAPES)
def test_labels_are_the_classes_above_the_minimum_share(landscape):
    for seed in range(5):
        _, land, labels, _, _ = scene(seed, landscape)
        shares = {name: (land == number).mean() for number, name in enumerate(simulate.CLASSES)}
        assert labels == [name for name, share in shares.items() if share >= simulate.MIN_SHARE]
        assert 1 <= len(labels) <= 4
        assert set(labels) <= set(simulate.LANDSCAPES[landscape]) <= set(NOMENCLATURES["43"].names)


def test_every_class_occurs_in_a_landscape():
    assert {name for classes in simulate.LANDSCAPES.values() for name in classes} == set(simulate.CLASSES)


def test_textures_are_standard():
    for field in simulate.draw_textures(np.random.default_rng(0)).values():
        assert field.shape == (120, 120)
        assert abs(field.mean()) < 1e-3
        assert field.std() == pytest.approx(1.0, abs=1e-3)


def test_s2_is_digital_numbers_at_three_resolutions():
    rng, _, _, textures, cover = scene(1)
    bands = simulate.render_s2(rng, cover, textures, simulate.draw_sky(rng, 180))
    assert {band: image.shape for band, image in bands.items()} == {
        band: (1, 1200 // gsd_m, 1200 // gsd_m) for band, gsd_m in simulate.GSD_M.items()
    }
    assert {image.dtype.name for image in bands.values()} == {"uint16"}
    assert bands["B08"].mean() > bands["B04"].mean()  # fields in June are green


def test_bands_of_all_resolutions_are_consistent():
    rng, _, _, textures, cover = scene(3)
    bands = simulate.render_s2(rng, cover, textures, simulate.draw_sky(rng, 180))
    nir = bands["B08"][0].reshape(60, 2, 60, 2).mean((1, 3))  # B08 and B8A are neighbours in the spectrum
    assert np.corrcoef(nir.ravel(), bands["B8A"][0].ravel())[0, 1] > 0.98


def test_speckle_has_the_stated_looks():
    rng = np.random.default_rng(0)
    textures = {name: np.zeros((120, 120), np.float32) for name in simulate.TEXTURES}
    cover = np.full((120, 120), list(simulate.COVERS).index("lake"))
    bands = simulate.render_s1(rng, cover, textures, simulate.Radar(0.0, 0.0, 0.0))
    power = 10 ** (bands["VV"].astype(np.float64) / 10)
    assert power.mean() ** 2 / power.var() == pytest.approx(simulate.LOOKS, rel=0.05)
    assert 10 * np.log10(power.mean()) == pytest.approx(simulate.COVERS["lake"].backscatter_db[0], abs=0.1)


def test_winter_is_less_green():
    textures = simulate.draw_textures(np.random.default_rng(0))
    cover = np.full((120, 120), list(simulate.COVERS).index("broadleaf"))
    winter = simulate.Sky(0.0, np.ones(12, np.float32), 0.0)
    summer = simulate.Sky(1.0, np.ones(12, np.float32), 0.0)

    def ndvi(sky):
        bands = simulate.render_s2(np.random.default_rng(5), cover, textures, sky)
        red, nir = bands["B04"].astype(float), bands["B08"].astype(float)
        return ((nir - red) / (nir + red)).mean()

    assert ndvi(summer) > ndvi(winter) + 0.2
