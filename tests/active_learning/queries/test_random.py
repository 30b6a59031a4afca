import numpy as np

from active_learning.queries.cases import candidates, query


def test_every_image_is_drawn_equally_often() -> None:
    pool = candidates()
    counts = np.bincount(np.concatenate([query("random")(pool, 6, seed) for seed in range(1000)]), minlength=60)
    assert np.abs(counts - 100).max() < 5 * np.sqrt(100)


def test_draws_belong_to_rows() -> None:
    large, small = candidates(60), candidates(30)
    order = large.rows[query("random")(large, 60, seed=1)]
    assert small.rows[query("random")(small, 30, seed=1)].tolist() == [row for row in order if row in small.rows]
