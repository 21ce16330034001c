"""`--plan` says what a job would do and take, and writes nothing anywhere."""

import hashlib
from pathlib import Path

import pytest

from jobs import curate, train
from tests.contracts import cases, generation_cases, source_cases, training_cases
from tests.contracts.cases import ServedList

pytestmark = pytest.mark.slow


def everything(folder: Path) -> dict[str, str | None]:
    """Every file and folder under it, with the sha256 of what files hold."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def curate_arguments(served_list: ServedList, output: Path, *options: str) -> list[str]:
    arguments = ["--config", str(cases.ROOT / "configs/curate/demo.yaml"), "--plan", *options]
    for name, value in cases.small_settings(served_list.path, output).items():
        arguments += ["--set", f"{name}={value}"]
    return arguments


def test_a_plan_of_a_curation_tells_what_it_would_take_and_writes_nothing(
    served_list: ServedList,
    unharmed_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "TMPDIR", "LATENT_FOUNDRY_CACHE", "HF_HOME"):
        monkeypatch.setenv(name, str(home))
    before = everything(tmp_path), everything(unharmed_run)
    output = tmp_path / "new"
    assert curate.main(curate_arguments(served_list, output)) == 0
    told = capsys.readouterr().out
    assert "plan: 55 rows in 6 shards, 1 settled already" in told
    assert "score.clip.name: preset:tiny/clip: here, " in told
    assert "models: nothing to fetch" in told
    assert f"disk: output {output}: " in told
    assert "time: unknown: no earlier curate run lies here or beside the output" in told

    fetched = ("--set", "score.aesthetic_v2.weights=https://models.example/head.pth")
    assert curate.main([*curate_arguments(served_list, output, "--limit", "12"), *fetched]) == 0
    told = capsys.readouterr().out
    assert "plan: the first 12 rows in 2 shards" in told
    assert "score.aesthetic_v2.weights: https://models.example/head.pth: to fetch" in told

    done = curate_arguments(served_list, unharmed_run)
    assert curate.main(done) == 0
    told = capsys.readouterr().out
    assert "rows: 55 in 6 shards" in told
    assert "time: nothing is left to do" in told
    recut = ("--steps", "select", "--set", "select.rules=[{column: aesthetic_v1, min: 9}]")
    assert curate.main([*done, *recut]) == 0
    told = capsys.readouterr().out
    assert f"rates: of {unharmed_run}" in told
    assert "  select: 55 rows, " in told
    assert "bytes: about " in told
    assert curate.main([*done, "--limit", "7"]) == 2
    assert curate.main([*done, "--set", "image.size=128"]) == 2
    assert "this run was made with other options" in capsys.readouterr().err
    assert (everything(tmp_path), everything(unharmed_run)) == before
    assert not output.exists()


def test_a_plan_goes_by_the_rates_of_a_run_of_the_first_rows_and_of_one_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = source_cases.write_tar(
        tmp_path / "pictures.tar", [(f"{n:03d}.jpg", source_cases.picture(n)) for n in range(8)]
    )
    run = tmp_path / "run"
    assert source_cases.run_job(source, run, options=("--limit", "4")) == 0
    before = everything(tmp_path)
    for output in (run, tmp_path / "another"):
        capsys.readouterr()
        assert source_cases.run_job(source, output, options=("--plan",)) == 0
        told = capsys.readouterr().out
        assert f"rates: of {run}" in told
        assert "plan: 8 rows in 3 shards" in told
        left = 5 if output == run else 8  # a shard of 3 is whole
        assert f"  download: {left} rows, " in told
        assert "GPU-hours: none" in told
    assert everything(tmp_path) == before


def test_a_plan_of_a_generation_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = generation_cases.write_prompts(tmp_path / "p.parquet", generation_cases.prompts(5))
    before = everything(tmp_path)
    assert generation_cases.command(listed, tmp_path / "run", "--plan") == 0
    told = capsys.readouterr().out
    assert "plan: 5 prompts, 5 images in 1 shards; 5 are new" in told
    assert "generate.model" in told
    assert generation_cases.command(tmp_path / "none.parquet", tmp_path / "run", "--plan") == 2
    assert generation_cases.command(listed, "/proc/self/images", "--plan") == 2
    assert "/proc/self may not be written by this user" in capsys.readouterr().err
    assert everything(tmp_path) == before


def test_a_training_is_planned_and_its_first_steps_go_on_to_the_same_weights(
    latents: Path,
    unharmed_training: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = training_cases.write_config(tmp_path / "config.yaml", latents, tmp_path / "out")
    before = everything(tmp_path)
    assert train.main(["--config", str(config), "--plan"]) == 0
    told = capsys.readouterr().out
    assert "plan: 24 rows in 1 data set(s); 20 steps of 8 rows: 6.7 epochs; 20 steps to do" in told
    assert "time: unknown" in told
    assert everything(tmp_path) == before

    assert train.main(["--config", str(config), "--limit", "6"]) == 0
    assert "6 steps; the model: " in capsys.readouterr().out
    before = everything(tmp_path)
    assert train.main(["--config", str(config), "--plan"]) == 0
    told = capsys.readouterr().out
    assert "14 steps to do" in told
    assert "time: about 0:" in told
    assert everything(tmp_path) == before
    assert train.main(["--config", str(config)]) == 0
    name = "model/unet/diffusion_pytorch_model.safetensors"
    weights = [(each / name).read_bytes() for each in (tmp_path / "out", unharmed_training)]
    assert weights[0] == weights[1]
