"""References to weights, their hashes, and the one error."""

import hashlib
import http.server
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from sd_core.model import weights as subject
from sd_core.model.weights import (
    WeightsError,
    WeightsNeed,
    check_weights,
    digest_file,
    digest_folder,
    resolve_weights,
    weights_identity,
    weights_sha256,
)


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A loopback server of a folder with `head.bin`."""
    monkeypatch.setenv("LATENT_FOUNDRY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "head.bin").write_bytes(b"weights")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path / "served"))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_local_path_and_a_preset_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "head.bin").write_bytes(b"x")
    monkeypatch.setattr(subject, "PRESETS", tmp_path)
    assert resolve_weights("preset:tiny/head.bin") == tmp_path / "tiny" / "head.bin"
    assert resolve_weights(str(tmp_path / "tiny")) == tmp_path / "tiny"
    with pytest.raises(WeightsError, match=r"presets that ship with the package: tiny/head\.bin"):
        resolve_weights("preset:tiny/other")


def test_a_url_is_fetched_once_and_its_hash_checked(url: str, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    path = resolve_weights(f"{url}/head.bin", sha256=digest)
    assert path.read_bytes() == b"weights"
    (tmp_path / "served" / "head.bin").unlink()
    assert resolve_weights(f"{url}/head.bin", sha256=digest.upper()) == path
    with pytest.raises(
        WeightsError, match=f"has sha256 {digest}, the configuration says {'0' * 64}"
    ):
        resolve_weights(f"{url}/head.bin", sha256="0" * 64)


def test_a_failed_fetch_leaves_nothing_behind(url: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be fetched"):
        resolve_weights(f"{url}/missing.bin")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_the_error_says_where_to_put_the_weights_and_no_secret(url: str) -> None:
    secret = url.replace("http://", "http://user:hunter2@") + "/missing.bin?token=hunter2"
    with pytest.raises(WeightsError) as caught:
        resolve_weights(secret, where="score.clip.checkpoint")
    message = str(caught.value)
    assert "set score.clip.checkpoint to their path" in message
    assert "hunter2" not in message
    assert message.startswith(f"score.clip.checkpoint: {url}/missing.bin: cannot be fetched")


def test_a_hub_reference_needs_a_pinned_revision() -> None:
    with pytest.raises(WeightsError, match="no revision is pinned; write hub:org/name@<commit>"):
        resolve_weights("hub:org/name/vae")
    with pytest.raises(WeightsError, match="not of the form hub:org/name@revision"):
        resolve_weights("hub:name")


def test_a_hub_folder_and_file_are_asked_for_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: dict[str, object] = {}

    def snapshot(repo: str, **options: object) -> str:
        asked.update(options, repo=repo)
        (tmp_path / "vae").mkdir(exist_ok=True)
        (tmp_path / "vae" / "model.safetensors").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert resolve_weights("hub:org/name@abc/vae") == tmp_path / "vae"
    assert (asked["repo"], asked["revision"]) == ("org/name", "abc")
    assert asked["allow_patterns"] == ["vae/*"]
    assert resolve_weights("hub:org/name@abc/vae/model.safetensors").is_file()
    assert asked["allow_patterns"] == ["vae/model.safetensors"]


def test_an_unreachable_hub_is_one_short_error_without_retries(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from huggingface_hub import constants

    from sd_core.model import download

    with socket.socket() as closed:  # bound and not listening: a connection is refused
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        download.hub_answers.cache_clear()
        with pytest.raises(WeightsError) as caught:
            resolve_weights("hub:org/name@abc/vae", where="encode.autoencoder.model")
        download.hub_answers.cache_clear()
    assert str(caught.value) == (
        "encode.autoencoder.model: hub:org/name@abc/vae: revision abc was not fetched before, and "
        "the model hub does not answer; put the weights on a disk that every worker sees and set "
        "encode.autoencoder.model to their path"
    )
    assert not caplog.records


def test_everything_missing_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    needs = [
        WeightsNeed("score.clip.checkpoint", str(tmp_path / "missing-1")),
        WeightsNeed("score.nsfw.weights", str(tmp_path / "there")),
        WeightsNeed("encode.autoencoder.model", str(tmp_path / "missing-2")),
    ]
    with pytest.raises(WeightsError) as caught:
        check_weights(needs)
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 set(s) of weights cannot be had:"
    assert lines[1].startswith("  - score.clip.checkpoint: ")
    assert lines[2].startswith("  - encode.autoencoder.model: ")
    check_weights([needs[1]])


def test_a_folders_digest_is_that_of_the_documented_command(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.bin", "sub/a.bin", "a.json"):
        (tmp_path / name).write_text(name)
    command = "find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    shell = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=True)
    assert digest_folder(tmp_path) == shell.stdout.decode().split()[0]
    (tmp_path / ".cache").write_text("hidden")
    assert digest_folder(tmp_path) == shell.stdout.decode().split()[0]


def test_a_modules_digest_depends_on_name_dtype_shape_and_bytes() -> None:
    linear = nn.Linear(4, 4)
    base = weights_sha256(linear)
    assert weights_sha256(nn.Linear(4, 4).requires_grad_(False)) != base
    copy = nn.Linear(4, 4)
    copy.load_state_dict(linear.state_dict())
    assert weights_sha256(copy) == base
    assert weights_sha256(nn.Sequential(copy)) != base
    assert weights_sha256(copy.double()) != base
    with torch.no_grad():
        linear.weight[0, 0] += 1
    assert weights_sha256(linear) != base


def test_a_modules_digest_does_not_depend_on_memory_layout() -> None:
    convolution = nn.Conv2d(3, 4, 3)
    base = weights_sha256(convolution)
    assert weights_sha256(convolution.to(memory_format=torch.channels_last)) == base


def test_other_weights_under_the_same_path_have_another_identity(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    path.write_bytes(b"one")
    first = weights_identity(str(path), None)
    assert first == weights_identity(str(path), digest_file(path))
    path.write_bytes(b"two")
    assert weights_identity(str(path), None) != first


def test_what_a_public_reference_hides_still_tells_weights_apart() -> None:
    identities = [weights_identity(f"https://host/weights?id={n}", None) for n in (1, 2)]
    assert identities[0]["ref"] == identities[1]["ref"] == "https://host/weights"
    assert identities[0] != identities[1]
