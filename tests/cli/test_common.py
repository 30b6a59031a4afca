import logging
import sys
import warnings

import pytest

from rspretrain.cli.common import announce, fail, quiet_libraries, typed


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("/usr/bin/rspretrain", "rspretrain label-fractions"),
        ("launchers/label_fractions.py", "launchers/label_fractions.py"),
        ("/x/rspretrain/cli/label_fractions.py", "python -m rspretrain.cli.label_fractions"),
    ],
)
def test_commands_have_the_name_that_was_typed(monkeypatch, capsys, program, name):
    monkeypatch.setattr(sys, "argv", [program])
    assert typed("label-fractions") == name
    assert fail("label-fractions", ValueError("full")) == 2
    assert capsys.readouterr().err == f"{name}: error: full\n"


@pytest.mark.parametrize(("variable", "rank", "lines"), [("RANK", "1", 0), ("RANK", "0", 1), ("SLURM_PROCID", "3", 0)])
def test_the_first_rank_announces(monkeypatch, capsys, variable, rank, lines):
    monkeypatch.setenv(variable, rank)
    announce("Loading …")
    assert capsys.readouterr().err.count("\n") == lines


def test_our_own_warnings_stay():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_libraries()
        warnings.warn("`torch.distributed.reduce_op` is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("the cache is nearly full", UserWarning, stacklevel=1)
    assert [str(one.message) for one in caught] == ["the cache is nearly full"]


def test_deepspeed_may_still_warn_of_other_things(capsys):
    quiet_libraries()
    logger, handler = logging.getLogger("DeepSpeed"), logging.StreamHandler()
    logger.addHandler(handler)
    logger.warning("Setting accelerator to CPU. If you have GPU …")
    logger.warning("the loss scale is small")
    logger.removeHandler(handler)
    assert capsys.readouterr().err == "the loss scale is small\n"
