import torch

from engine.runs import BYOL, job, write_config
from rspretrain.engine.evaluator import Pretraining
from rspretrain.nn.weights import load_backbone


def test_pretraining_exports_backbones_at_the_end_only(tmp_path):
    run = job(write_config(tmp_path, samples=32), BYOL)
    evaluator = run.evaluator
    assert isinstance(evaluator, Pretraining)
    assert not any(evaluator.is_due(step) for step in (1, run.total_steps))
    assert evaluator.evaluate(1, iter(())) == {}
    evaluator.restore([{"step": 1, "val/ap_macro": 1.0}])
    assert (evaluator.best_step, evaluator.should_stop) == (None, False)
    weights = {name: value + 1 for name, value in run.objective.state_dict().items()}
    folders = evaluator.finish(7, weights.items())
    assert folders == {name: tmp_path / "run/export" / name for name in ("s1", "s2")}
    backbone, contract = load_backbone(folders["s1"])
    assert contract["provenance"]["step"] == 7
    names = {part: name for name, part in run.objective.named_modules()}
    prefix = names[run.objective.backbones()["s1"]]
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, weights[f"{prefix}.{name}"])
