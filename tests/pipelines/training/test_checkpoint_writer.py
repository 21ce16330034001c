"""The thread that stores checkpoints ends with the training, however that ends."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.training import checkpoint_writer
from pipelines.training.checkpoint_writer import CheckpointWriter


def test_a_last_checkpoint_that_cannot_be_stored_ends_its_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, "publish_checkpoint", full)
    held = SimpleNamespace(hold=lambda checkpoint: SimpleNamespace(arrived=lambda: checkpoint))
    monkeypatch.setattr(checkpoint_writer, "HostMemory", lambda: held)
    store: Any = None
    checkpoint: Any = None
    writer = CheckpointWriter(store, keep=1)
    with pytest.raises(OSError, match="No space left"), writer:
        writer.publish(checkpoint)
    writer._thread.join(5)
    assert not writer._thread.is_alive()
