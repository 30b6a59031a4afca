import pytest
import torch
from gloo import run_ranks

from rspretrain import world
from rspretrain.strategies import precision
from rspretrain.strategies.precision import bf16_hardware, precision_text, resolve_precision

CPU = torch.device("cpu")


def has(monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)


@pytest.mark.parametrize(
    ("amx", "avx", "unit", "chosen"),
    [(True, True, "AMX", "bf16"), (False, True, "AVX512-BF16", "bf16"), (False, False, "", "fp32")],
)
def test_auto_is_bf16_where_the_cpu_computes_in_it(monkeypatch, amx, avx, unit, chosen):
    has(monkeypatch, amx, avx)
    assert (bf16_hardware(CPU), resolve_precision("auto", CPU)) == (unit, chosen)
    assert [resolve_precision(asked, CPU) for asked in ("fp32", "bf16")] == ["fp32", "bf16"]


def test_the_start_of_a_run_names_the_precision_and_warns_of_emulation(monkeypatch):
    has(monkeypatch, False, False)
    assert precision_text("bf16", CPU) == (
        "Warning: strategy.precision is bf16 on a CPU without AMX or AVX512-BF16, where it is emulated and 8 to 24 "
        "times slower than fp32; set strategy.precision=auto."
    )
    assert precision_text("fp32", CPU) == "Precision: fp32 (no bf16 hardware on this device)."
    has(monkeypatch, False, True)
    assert precision_text("bf16", CPU) == "Precision: bf16 (AVX512-BF16)."


def unlike_machines() -> str:
    """The second rank's CPU has no bf16."""
    precision.bf16_hardware = lambda device: "AMX" if world.rank() == 0 else ""
    return resolve_precision("auto", CPU)


def test_all_ranks_take_one_precision():
    assert run_ranks(2, unlike_machines) == ["fp32", "fp32"]
