import numpy as np
import pandas
import pyarrow as pa
import pytest

from rspretrain.shardset.filter import matching_rows

COLUMNS = {
    "country": ["Finland", "Austria", None, "Finland", "Serbia"],
    "lat": [60.5, 47.0, 44.0, None, 44.8],
    "snow": [1, 0, 0, 1, 0],
    "labels_19": [["Pastures"], [], ["Arable land", "Pastures"], ["Urban fabric"], ["Arable land"]],
}


class Table:
    def column(self, name):
        if name not in COLUMNS:
            raise ValueError(f"has no column {name!r}")
        return pa.chunked_array([COLUMNS[name][:2], COLUMNS[name][2:]])

    def __len__(self):
        return 5


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("country == 'Finland'", [0, 3]),
        ("'Finland' == country and lat > 50", [0]),
        ("country != 'Finland'", [1, 4]),
        ("not country == 'Finland'", [1, 4]),
        ("45 < lat <= 60.5", [0, 1]),
        ("lat >= 44 and (snow == 1 or country == 'Serbia')", [0, 4]),
        ("country in ['Austria', 'Serbia']", [1, 4]),
        ("country not in ('Austria', 'Serbia')", [0, 3]),
        ("'Pastures' in labels_19", [0, 2]),
        ("'Pastures' not in labels_19 and 'Arable land' in labels_19", [4]),
        ("'land' in country", [0, 3]),
        ("lat is None or country is None", [2, 3]),
        ("lat is not None", [0, 1, 2, 4]),
        ("snow in [1]", [0, 3]),
        ("lat < -5", []),
    ],
)
def test_expressions(expression, rows):
    assert np.flatnonzero(matching_rows(Table(), expression)).tolist() == rows


def test_results_equal_pandas():
    frame = pandas.DataFrame({name: COLUMNS[name] for name in ("country", "lat", "snow")})
    for expression in ("lat > 44.5 and snow == 0", "country in ['Serbia', 'Finland'] or lat == 44", "30 < lat < 50"):
        assert np.flatnonzero(matching_rows(Table(), expression)).tolist() == frame.query(expression).index.tolist()


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("country = 'Finland'", "cannot be used: invalid syntax"),
        ("country == ", "cannot be used: invalid syntax"),
        ("countri == 'Finland'", "has no column 'countri'"),
        ("lat == 'high'", "cannot be used: "),
        ("country == lat", "'lat' is not supported there"),
        ("__import__('os').system('true')", "is not supported there. Expected comparisons of columns with values"),
        ("country.upper() == 'FINLAND'", "'country.upper\\(\\)' is not supported there"),
        ("lat == None", "'None' is not supported there"),
    ],
)
def test_invalid_input(expression, message):
    with pytest.raises(ValueError, match=message):
        matching_rows(Table(), expression)
