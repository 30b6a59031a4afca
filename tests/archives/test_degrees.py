import numpy as np

from rspretrain.archives.degrees import to_degrees


def test_known_places():
    degrees = to_degrees("EPSG:32633", np.array([[500_000.0]]), np.array([[0.0]]))
    np.testing.assert_allclose(degrees, [[[15.0, 0.0]]], atol=1e-9)
    assert to_degrees("EPSG:4326", np.array([15.0]), np.array([48.0])).tolist() == [[15.0, 48.0]]


def test_no_place_on_earth():
    assert np.isnan(to_degrees("here and there", np.array([1.0]), np.array([2.0]))).all()
    assert to_degrees("EPSG:32633", np.empty((0, 5)), np.empty((0, 5))).shape == (0, 5, 2)
