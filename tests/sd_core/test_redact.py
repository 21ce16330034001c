"""The names that the model and the cache show are redacted by the one implementation."""

from pathlib import Path

import pytest

from sd_core.cache.latent_cache import open_cache
from sd_core.cache.spec import CacheSpecError
from sd_core.model.weights import WeightsError, public_reference, resolve_weights, weights_identity

SECRETS = {
    "user information": "nosuch://me:hunter2@host.example/run",
    "a password with a slash": "nosuch://me:hun/hunter2@host.example/run",
    "a signed value": "nosuch://host.example/run?X-Amz-Signature=hunter2",
    "a fragment": "nosuch://host.example/run#access_token=hunter2",
    "a URL in a URL": "simplecache::nosuch://me:hunter2@host.example/run",
}


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_of_a_caches_path_or_a_models_reference_is_shown(name: str) -> None:
    path = SECRETS[name]
    with pytest.raises(CacheSpecError) as no_cache:
        open_cache(path)
    with pytest.raises(WeightsError) as no_weights:
        resolve_weights(path, where="model")
    identity = weights_identity(path, None)
    for told in (str(no_cache.value), str(no_weights.value), public_reference(path), str(identity)):
        assert "hunter2" not in told
        assert "host.example" in told


@pytest.mark.parametrize(
    ("ref", "shown"),
    [
        ("https://host/a/weights?download=true", "https://host/a/weights"),
        ("https://me:pw@host:80/weights", "https://host:80/weights"),
        ("HTTPS://Host/weights#a", "https://Host/weights"),
        ("s3://bucket/weights", "s3://bucket/weights"),
        ("hub:org/name@main/vae", "hub:org/name@main/vae"),
        (str(Path("/models/a:b@c")), "/models/a:b@c"),
    ],
)
def test_a_references_name_is_as_before_so_that_fingerprints_are(ref: str, shown: str) -> None:
    assert public_reference(ref) == shown
