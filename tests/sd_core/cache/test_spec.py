"""The cache's spec and identity."""

import json
from typing import Any

import pytest
import torch

from sd_core.cache.latents import (
    mean_latents,
    posterior_mean,
    sample_posterior,
    scale_latents,
    unscale_latents,
)
from sd_core.cache.spec import (
    CacheMismatchError,
    CacheSpec,
    CacheSpecError,
    check_identity,
    read_spec,
)
from tests.sd_core.cache.cases import make_spec


def changed(spec: CacheSpec, part: str, **values: Any) -> CacheSpec:
    tree = spec.model_dump()
    tree["identity"][part].update(values)
    return CacheSpec.model_validate(tree)


def test_the_spec_round_trips_through_json() -> None:
    spec = make_spec()
    assert read_spec(spec.to_json(), where="spec.json") == spec
    assert spec.to_json() == make_spec().to_json()


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("autoencoder", "weights_sha256", "1" * 64),
        ("autoencoder", "scaling_factor", 0.13025),
        ("autoencoder", "shift_factor", 0.1),
        ("autoencoder", "latent_channels", 16),
        ("text_encoder", "tokenizer_sha256", "1" * 64),
        ("text_encoder", "token_length", 77),
        ("text_encoder", "pad_token_id", 0),
    ],
)
def test_a_differing_identity_names_its_field(part: str, field: str, value: Any) -> None:
    spec = make_spec()
    other = changed(spec, part, **{field: value})
    with pytest.raises(CacheMismatchError) as caught:
        check_identity(spec.identity, other.identity, a_name="cache A", b_name="cache B")
    message = str(caught.value)
    assert "1 field(s) differ" in message
    assert f"identity.{part}.{field}: " in message
    assert f"{value!r} in cache B" in message


def test_form_dtype_resolution_and_format_may_differ() -> None:
    spec = make_spec()
    other = make_spec(form="mean", dtype="float32", resolution_px=64, format="parquet")
    check_identity(spec.identity, other.identity)


def test_a_foreign_file_is_refused_with_every_fault() -> None:
    tree = json.loads(make_spec().to_json())
    del tree["form"]
    tree["scaled"] = True
    with pytest.raises(CacheSpecError, match=r"here: not a cache's spec: form: .*; scaled: "):
        read_spec(json.dumps(tree).encode(), where="here")
    with pytest.raises(CacheSpecError, match="Invalid JSON"):
        read_spec(b"\x89PNG", where="here")


def test_another_schema_version_is_refused() -> None:
    tree = json.loads(make_spec().to_json()) | {"schema_version": 2}
    with pytest.raises(CacheSpecError, match="schema_version"):
        read_spec(json.dumps(tree).encode(), where="here")


def test_scaling_and_unscaling_are_inverse() -> None:
    spec = changed(make_spec(), "autoencoder", shift_factor=0.5, scaling_factor=0.25)
    raw = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = scale_latents(raw, spec)
    torch.testing.assert_close(latents, (raw - 0.5) * 0.25)
    torch.testing.assert_close(unscale_latents(latents, spec), raw)


def test_moments_cannot_be_scaled_by_mistake() -> None:
    with pytest.raises(ValueError, match="latents of 8 channels, the autoencoder has 4"):
        scale_latents(torch.zeros(1, 8, 4, 4), make_spec())


def test_sampling_moments_is_the_mean_plus_deviation_times_noise() -> None:
    mean, log_variance = torch.full((1, 4, 2, 2), 3.0), torch.full((1, 4, 2, 2), 2.0)
    moments = torch.cat([mean, log_variance], dim=1)
    noise = torch.ones_like(mean)
    expected = mean + torch.e  # exp(2 / 2)
    torch.testing.assert_close(sample_posterior(moments, noise=noise), expected)
    assert torch.equal(posterior_mean(moments), mean)
    assert torch.equal(mean_latents(moments, make_spec(form="moments")), mean)
    assert torch.equal(mean_latents(mean, make_spec(form="mean")), mean)
    wild = torch.cat([mean, torch.full((1, 4, 2, 2), 1000.0)], dim=1)
    assert sample_posterior(wild, noise=noise).isfinite().all()
