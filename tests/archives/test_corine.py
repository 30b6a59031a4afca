"""The two nomenclatures of BigEarthNet and their mapping."""

import pytest

from rspretrain.archives.corine import CLC19, CLC43, NOMENCLATURES, TO_19, label_sets, sort_labels


def test_counts_and_order():
    assert (len(NOMENCLATURES["43"].names), len(NOMENCLATURES["19"].names), len(TO_19)) == (43, 19, 32)
    assert list(CLC43) == sorted(CLC43)
    firsts = [min(codes) for codes in CLC19.values()]
    assert firsts == sorted(firsts)
    dropped = set(CLC43) - {code for codes in CLC19.values() for code in codes}
    assert dropped == {122, 123, 124, 131, 132, 133, 141, 142, 332, 334, 423}


def test_labels_have_the_order_of_the_nomenclature():
    labels = label_sets(["Sea and ocean", "Rice fields", "Non-irrigated arable land", "Airports"])
    assert labels["43"] == ("Airports", "Non-irrigated arable land", "Rice fields", "Sea and ocean")
    assert labels["19"] == ("Arable land", "Marine waters")


def test_a_patch_without_any_of_the_19_keeps_its_43():
    assert label_sets(["Burnt areas"]) == {"43": ("Burnt areas",), "19": ()}


def test_an_unknown_label_names_the_nearest():
    with pytest.raises(
        ValueError, match=r"label 'Pasture' is not one of the 43 CORINE classes \(nearest: 'Pastures'\)"
    ):
        label_sets(["Pasture"])


def test_names_of_the_19_are_sorted_and_unique():
    names = ["Marine waters", "Pastures", "Urban fabric", "Pastures"]
    assert sort_labels(names, "19") == ("Urban fabric", "Pastures", "Marine waters")
    with pytest.raises(
        ValueError, match=r"label 'Pasture' is not one of the 19 CORINE classes \(nearest: 'Pastures'\)"
    ):
        sort_labels(["Pasture"], "19")
