"""Counter-based random numbers: splitmix64, arrays, permutations."""

import numpy as np

from rspretrain.rng import MASK, mix, mix_array, permutation, sample_seeds


def test_mixer_is_splitmix64() -> None:
    # The first outputs of the reference implementation seeded with 0 (Steele et al. 2014; Vigna's splitmix64.c).
    assert [mix(0x9E3779B97F4A7C15 * n) for n in range(3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


def test_order_and_number_of_words_matter() -> None:
    assert len({mix(1, 2), mix(2, 1), mix(1), mix(1, 2, 0), mix(12)}) == 5
    assert mix(-1) == mix(MASK)


def test_arrays_are_integers_one_by_one() -> None:
    words = np.array([0, 1, 2**40, 2**62])
    assert mix_array(mix(3, 4), words).tolist() == [mix(3, 4, int(word)) for word in words]
    assert sample_seeds(3, 4, words).view(np.uint64).tolist() == [mix(3, 4, int(word)) for word in words]


def test_permutations_are_deterministic_and_complete() -> None:
    one = permutation(1000, 7, 1)
    assert sorted(one.tolist()) == list(range(1000))
    assert np.array_equal(one, permutation(1000, 7, 1))
    assert not np.array_equal(one, permutation(1000, 7, 2))
    assert permutation(0, 1).shape == (0,)
    fixed = np.mean([np.mean(permutation(100, seed) == np.arange(100)) for seed in range(200)])
    assert 0.005 < fixed < 0.015  # one fixed point in expectation


def test_permutation_is_pinned() -> None:
    assert permutation(8, 42).tolist() == [0, 3, 2, 4, 5, 6, 1, 7]


def test_epochs_and_seeds_share_no_sample_key() -> None:
    keys = np.concatenate([sample_seeds(seed, epoch, np.arange(5000)) for seed in range(3) for epoch in range(3)])
    assert len(np.unique(keys)) == 45_000
