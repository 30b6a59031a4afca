import pytest
import torch
from servers import serving

from engine.runs import job, losses, write_config
from rspretrain import config
from rspretrain.config import ConfigError
from rspretrain.engine.job import describe, parameter_counts, prepare
from rspretrain.engine.trainer import train
from rspretrain.world import World


def test_global_batch_not_divisible_by_the_world_size(tmp_path):
    settings = config.load(write_config(tmp_path, samples=16), ["train.global_batch=10"])
    with pytest.raises(ConfigError, match=r"got 10 for 4 ranks, expected a multiple of 4. Set it to 8 or 12"):
        prepare(settings, World(0, 4, 0, torch.device("cpu")), False)


def test_missing_blocks_are_refused_before_the_run_starts(tmp_path):
    path = write_config(tmp_path, samples=16)
    with pytest.raises(ValueError, match=r"strategy.checkpoint_activations: got true for a network without repeated"):
        job(path, "backbone.name=regnety_002", "strategy.checkpoint_activations=true")


def test_rates_warm_up_per_step_and_end_near_zero(tmp_path):
    made = job(write_config(tmp_path))
    assert made.total_steps == 24
    assert [made.lr(step) for step in (0, 4, 8)] == pytest.approx([0.0, 0.005, 0.01])
    assert 0 < made.lr(23) < 1e-3


def test_rates_of_other_schedules(tmp_path):
    path = write_config(tmp_path)  # 8 steps per epoch, one epoch of warm-up
    constant = job(path, "optim.schedule=constant")
    assert [constant.lr(step) for step in (0, 4, 8, 23)] == pytest.approx([0.0, 0.005, 0.01, 0.01])
    falling = job(path, "optim.schedule=step", "optim.step_epochs=[1.5, 2]", "optim.lr_reference_batch=4")
    steps = (0, 4, 8, 11, 12, 15, 16, 23)
    expected = [0.0, 0.01, 0.02, 0.02, 2e-3, 2e-3, 2e-4, 2e-4]
    assert [falling.lr(step) for step in steps] == pytest.approx(expected)
    assert "learning rate               0.02 after warm-up, then times 0.1 at epoch 1.5, 2" in describe(falling)
    assert "learning rate               0.01 after warm-up, then constant" in describe(constant)


def test_weight_decay_is_constant_or_follows_a_cosine(tmp_path):
    path = write_config(tmp_path)
    assert {job(path, "optim.weight_decay=0.04").weight_decay(step) for step in range(24)} == {0.04}
    rising = job(path, "optim.weight_decay=0.04", "optim.final_weight_decay=0.4")
    assert [rising.weight_decay(step) for step in (0, 12, 24)] == pytest.approx([0.04, 0.22, 0.4])


def test_steps_override_epochs_and_limit_the_warm_up(tmp_path):
    made = job(write_config(tmp_path), "train.steps=4")
    assert made.total_steps == 4
    assert made.lr(2) == pytest.approx(0.005)


def test_initial_weights_are_a_function_of_the_seed(tmp_path):
    path = write_config(tmp_path, samples=16)
    one, same, other = job(path), job(path), job(path, "run.seed=4")
    first = [next(iter(made.objective.parameters())) for made in (one, same, other)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_description(tmp_path):
    made = job(write_config(tmp_path, samples=20))
    text = describe(made)
    assert "samples per epoch           16 of 20; 4 dropped (short last batch)" in text
    assert "steps                       2 per epoch, 6 in all, 8 samples per rank and step" in text
    assert f"total                       {parameter_counts(made.objective)['total']:>14,}"[:20] in text


def test_parameter_counts_add_up(tmp_path):
    counts = parameter_counts(job(write_config(tmp_path, samples=16)).objective)
    assert counts.pop("total") == sum(counts.values())


def test_measured_statistics_are_those_of_the_shard_set(tmp_path):
    path = write_config(tmp_path)
    made = job(path, "sensors.s1.normalise=measured")
    found = made.sources.sets["shards"].manifest.statistics["s1_10m"]
    normalise = made.objective.inputs()["s1"].normalisations()["s1"]
    assert [(s.mean, s.std) for s in normalise.scalings] == [(found[b].mean, found[b].std) for b in ("VV", "VH")]
    assert made.settings.sensors["s1"].statistics["VH"] == (found["VH"].mean, found["VH"].std)  # saved with the run
    given = job(path, "sensors.s1.normalise=measured", "sensors.s1.statistics={VV: [-12, 5], VH: [-19, 6]}")
    assert [s.std for s in given.objective.inputs()["s1"].normalisations()["s1"].scalings] == [5, 6]
    with pytest.raises(ValueError, match=r"bands \['VH'\] have no statistics: got \['VV'\]. Give them"):
        job(path, "sensors.s1.normalise=measured", "sensors.s1.statistics={VV: [-12, 5]}")


def test_a_run_from_a_url_equals_the_run_from_the_folder(tmp_path):
    path = write_config(tmp_path, samples=32)
    with serving(tmp_path / "shards") as server:
        far = [f"data.shards={server.url}", f"data.cache_dir={tmp_path}/cache", "data.fetch_timeout_s=5"]
        runs = {"near": [], "far": far}
        for name, overrides in runs.items():
            train(
                job(path, "train.steps=2", f"run.dir={tmp_path}/{name}", *overrides),
                resume=False,
                log=lambda line: None,
            )
        assert set(server.requests.values()) == {1}
    assert losses(tmp_path / "far") == losses(tmp_path / "near")
    assert len(losses(tmp_path / "far")) == 2
    saved = tmp_path / "near.yaml"
    saved.write_text(config.dump(config.load(path)))
    config.check_same(saved, config.load(path, far))  # the run may be resumed from the URL


def test_an_unusable_cache_is_refused_before_training(tmp_path):
    path = write_config(tmp_path, samples=32)
    with serving(tmp_path / "shards") as server:
        far = [f"data.shards={server.url}", f"data.cache_dir={tmp_path}/run.yaml/cache"]
        with pytest.raises(ValueError, match=r"The cache folder .*/run.yaml/cache cannot be used \(Not a directory\)"):
            job(path, *far)
        with pytest.raises(ValueError, match=r"data.cache_gb is 1e-05, expected at least"):
            job(path, far[0], f"data.cache_dir={tmp_path}/cache", "data.cache_gb=1e-5")
        assert not server.shards()


def test_auto_precision_is_resolved_once_and_kept_on_resume(tmp_path, monkeypatch):
    path = write_config(tmp_path)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert job(path, "strategy.precision=auto").settings.strategy.precision == "bf16"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("strategy: {precision: fp32}\n")  # of a run on another machine
    assert job(path, "strategy.precision=auto").settings.strategy.precision == "fp32"
    assert job(path, "strategy.precision=bf16").settings.strategy.precision == "bf16"
