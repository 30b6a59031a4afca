import torch

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
