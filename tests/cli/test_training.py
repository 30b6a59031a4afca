import pytest
import torch

from rspretrain.cli.common import training_parser
from rspretrain.cli.training import refuse
from rspretrain.world import World


def test_every_machine_reports_its_error(capsys):
    for rank, local_rank, printed in (
        (0, 0, "rspretrain probe: error: full\n"),
        (9, 1, ""),
        (8, 0, "rspretrain probe: error on rank 8: full\n"),
    ):
        assert refuse("probe", ValueError("full"), World(rank, 16, local_rank, torch.device("cpu"))) == 2
        assert capsys.readouterr().err == printed


@pytest.mark.parametrize(
    ("command", "key", "meaning"),
    [
        ("pretrain", "objective.momentum", "objective.momentum  (moco_v3)"),
        ("finetune", "tune.mode", "Trainable parameters."),
        ("active-learning", "budget.rounds", "Number of queries."),
    ],
)
def test_explain_needs_no_configuration(command, key, meaning, capsys):
    with pytest.raises(SystemExit) as stopped:
        training_parser(command, None).parse_args(["--explain", key])
    assert stopped.value.code == 0
    assert meaning in capsys.readouterr().out


def test_explain_an_unknown_key(capsys):
    with pytest.raises(SystemExit) as stopped:
        training_parser("pretrain", None).parse_args(["--explain", "optim.lrr"])
    assert stopped.value.code == 2
    assert "error: --explain: unknown key 'optim.lrr'. Did you mean 'optim.lr'?" in capsys.readouterr().err
