"""What computed a run is on record, and a mixture of processors is said."""

from pathlib import Path

import pytest
import torch

from pipelines.run import processors
from pipelines.run.committed import Committed
from pipelines.run.processors import describe_mixture, describe_processor, noted_processors
from pipelines.run.store import RunStore
from pipelines.steps.model_worker import record_models


def test_a_processor_is_named_by_maker_and_instruction_set() -> None:
    name = describe_processor(torch.device("cpu"))
    assert name == name.strip()
    assert name


def test_a_run_that_goes_on_on_another_type_says_what_it_cannot_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(str(tmp_path))
    made = Committed(store, "score", "f" * 16)

    def work() -> None:
        record_models(made, {"device": "cpu"})

    work()
    work()
    assert describe_mixture(store, made.folder, what="score") is None
    monkeypatch.setattr(processors, "describe_processor", lambda device: "AnotherMaker sve")
    work()
    assert "AnotherMaker sve" in noted_processors(store, made.folder)
    said = describe_mixture(store, made.folder, what="score")
    assert said is not None
    assert said.startswith("score: computed on processors of 2 types (")
    assert "last bits" in said
