import pytest

from rspretrain.sensors import BAND_ORDER, PREVIEW_BANDS, SCALINGS, Group, scalings_for


def test_canonical_order():
    names = "VV VH B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12"
    assert " ".join(BAND_ORDER["s1"] + BAND_ORDER["s2"]) == names
    assert all(set(bands) <= set(BAND_ORDER[sensor]) for sensor, bands in PREVIEW_BANDS.items())


def test_scalings_have_the_requested_order():
    red, nir = scalings_for("bigearthnet", ("B04", "B08"))
    assert (red.mean, nir.mean) == (590.23569706, 2218.94553375)
    assert scalings_for("fixed", ("VH",))[0] == SCALINGS["fixed"]["VV"]


def test_fixed_maps_physical_ranges_to_the_unit_interval():
    for bands, low, high in ((("VV",), -25.0, 0.0), (("B02",), 0.0, 1e4), (("R",), 0.0, 255.0)):
        (scaling,) = scalings_for("fixed", bands)
        assert ((low - scaling.mean) / scaling.std, (high - scaling.mean) / scaling.std) == (0.0, 1.0)


def test_bands_without_a_scaling():
    with pytest.raises(ValueError, match=r"'bigearthnet' has no scaling for bands \['B10'\]; it covers \['B01', "):
        scalings_for("bigearthnet", ("B09", "B10"))
    with pytest.raises(ValueError, match=r"Unknown normalisation 'max'; known are \['bigearthnet', 'fixed', "):
        scalings_for("max", ("B02",))


def test_unknown_bands_of_a_group():
    with pytest.raises(ValueError, match=r"Group 's2_10m' has unknown bands \['B13'\] for sensor 's2'"):
        Group("s2_10m", "s2", ("B02", "B13"), "uint16", None, 10.0, "dn")
