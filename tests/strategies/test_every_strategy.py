"""Every strategy equals one process, on a toy objective with all difficult features (toys.Contrast). Two real ranks."""

import math

import pytest
import torch
from gloo import run_ranks
from torture import times

from strategies.ranks import PARTS, label, on_any_rank
from strategies.toys import ALL, difference

pytestmark = pytest.mark.slow
every = pytest.mark.parametrize("name", [label(*which) for which in ALL])
WORLDS = [1, 4][: times(1, 2)]


def same_but_refused(losses, expected, rel=1e-5):
    assert math.isnan(losses[5])
    assert losses[:5] + losses[6:] == pytest.approx(expected[:5] + expected[6:], rel=rel)


@every
class TestTwoRanks:
    def test_equal_one_rank_after_20_steps(self, found, alone, name):
        weights, state, updates = found[0][name]["whole"]
        assert updates == alone[3] == 19
        same_but_refused(found[0][name]["losses"], alone[0])
        assert difference(weights, alone[1]) < 1e-5
        assert difference(state, alone[2]) < 1e-4  # second moments: squares of gradients

    def test_clip_by_the_total_norm(self, found, alone_sgd, name):
        for losses, norms, weights in (rank[name]["sgd"] for rank in found):
            assert losses == pytest.approx(alone_sgd[0], rel=1e-5)
            assert norms == pytest.approx(alone_sgd[1], rel=1e-4)
            assert min(norms) < 2.0 < max(norms)  # some steps were clipped
            assert difference(weights, alone_sgd[2]) < 1e-5

    def test_load_adam_state_of_another_strategy(self, found, alone_adam, name):
        losses, weights, state = found[0][name]["adam"]
        assert losses == pytest.approx(alone_adam[0], rel=1e-5)
        assert difference(weights, alone_adam[1]) < 1e-5
        assert difference(state, alone_adam[2]) < 1e-4

    @pytest.mark.parametrize("only", PARTS)
    def test_train_only_unfrozen_parts(self, found, alone_frozen, name, only):
        own, one = found[0][name][only], alone_frozen[only]
        weights, state, _ = own["whole"]
        assert own["losses"] == pytest.approx(one["losses"], rel=1e-5)
        assert difference(weights, one["whole"][0]) < 1e-5
        assert difference(state, one["whole"][1]) < 1e-4
        part = {key for key in weights if key.startswith(only)}
        changed = {key for key, value in weights.items() if not torch.equal(value, own["before"][key])}
        assert part <= changed
        assert all(key.startswith(("teacher.", "conv.1.")) for key in changed - part)  # teachers and statistics
        assert not {"conv.1.weight", "conv.1.bias"} & changed
        assert state.keys() == {f"{key}/{parameter}" for key in ("exp_avg", "exp_avg_sq") for parameter in part}
        assert all(rank[name][only]["resumed"] for rank in found)

    def test_weights_are_equal_on_all_ranks(self, found, name):
        one, two = (rank[name]["whole"][0] for rank in found)
        assert all(torch.equal(one[key], value) for key, value in two.items())

    def test_teacher_drift(self, found, name):
        assert 0 < found[0][name]["drift"] < 0.1
        assert found[0][name]["drift"] == pytest.approx(found[0]["ddp0"]["drift"], rel=1e-4)
        assert found[1][name]["drift"] == found[0][name]["drift"]

    def test_continue_bit_for_bit_after_loading(self, found, name):
        assert all(rank[name]["resumed"] for rank in found)
        assert all(rank[name]["reset"] for rank in found)

    def test_all_ranks_refuse_a_step_that_fails_on_one(self, found, name):
        assert all(rank[name]["refused"] for rank in found)

    def test_load_from_ddp_and_into_ddp(self, found, name):
        expected = found[0]["ddp0"]
        for direction in ("from ddp", "to ddp"):
            losses, weights, state = found[0][name][direction]
            assert losses[0] == pytest.approx(expected["losses"][10], rel=1e-6)  # the first after loading
            assert losses == pytest.approx(expected["losses"][10:], rel=1e-5)
            assert difference(weights, expected["whole"][0]) < 1e-5
            assert difference(state, expected["whole"][1]) < 1e-4

    def test_bf16_losses_equal_those_of_ddp(self, found, name):
        losses = found[0]["options"]
        assert losses[f"{name} bf16"] == pytest.approx(losses["ddp0 bf16"], rel=1e-6)
        assert losses[f"{name} bf16"] != pytest.approx(found[0]["ddp0"]["losses"][:4], rel=1e-6)

    def test_activation_checkpointing_does_not_change_losses(self, found, name):
        losses = found[0]["options"][f"{name} checkpoint"]
        assert losses == pytest.approx(found[0][name]["losses"][:4], rel=1e-6)


@pytest.mark.parametrize("ranks", WORLDS)
def test_other_numbers_of_ranks_equal_one_process(ranks, alone):
    found = run_ranks(ranks, on_any_rank, timeout_s=280)
    for name, one in found[0].items():
        same_but_refused(one["losses"], alone[0])
        assert difference(one["whole"][0], alone[1]) < 1e-5, name
        assert difference(one["whole"][1], alone[2]) < 1e-4, name
