"""Opening a cache's folder, and checking that caches belong together."""

from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from sd_core.cache.latent_cache import check_caches, open_cache
from sd_core.cache.samples import CacheShardError
from sd_core.cache.spec import CacheIdentity, CacheMismatchError, CacheSpecError
from tests.sd_core.cache.caches import make_empty_caption, write_cache
from tests.sd_core.cache.cases import make_spec

OWN_FILES = ["spec.json", "index.parquet", "empty_caption.safetensors"]


def write(tmp_path: Path, name: str = "run", **spec: Any) -> Path:
    write_cache(str(tmp_path / name), tmp_path, make_spec(**spec), shard_rows=[5, 0, 3])
    return tmp_path / name / "latents"


def changed_identity(field: str, value: object) -> CacheIdentity:
    tree = make_spec().identity.model_dump()
    part, _, name = field.partition(".")
    tree[part][name] = value
    return CacheIdentity.model_validate(tree)


def test_a_cache_opens_with_its_spec_empty_caption_and_shards(tmp_path: Path) -> None:
    folder = write(tmp_path)
    cache = open_cache(str(folder))
    assert cache.spec == make_spec()
    assert cache.empty_caption.to_bytes() == make_empty_caption(make_spec()).to_bytes()
    assert [shard.num_rows for shard in cache.shards] == [5, 3]  # the one without rows is left out
    assert cache.num_rows == 8
    for shard in cache.shards:
        assert Path(shard.path).stat().st_size == shard.num_bytes


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_cache_opens_from_any_fsspec_url(tmp_path: Path, slash: str) -> None:
    write_cache("memory://opened/run", tmp_path, make_spec(), shard_rows=[4])
    cache = open_cache(f"memory://opened/run/latents{slash}")
    assert cache.num_rows == 4
    assert not cache.is_local


def test_a_copied_folder_may_have_another_name(tmp_path: Path) -> None:
    folder = write(tmp_path)
    folder.rename(tmp_path / "curated")
    assert open_cache(str(tmp_path / "curated")).num_rows == 8


@pytest.mark.parametrize("url", ["{tmp}/none/latents", "memory://no/such/run", "nosuch://bucket/x"])
def test_a_missing_folder_is_named(tmp_path: Path, url: str) -> None:
    path = url.format(tmp=tmp_path)
    with pytest.raises(CacheSpecError, match="no cache can be read there") as caught:
        open_cache(path)
    assert path in str(caught.value)


@pytest.mark.parametrize("name", OWN_FILES)
def test_a_missing_file_of_the_cache_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path)
    (folder / name).unlink()
    with pytest.raises(CacheSpecError, match=f"latents/{name}: missing"):
        open_cache(str(folder))


@pytest.mark.parametrize("name", OWN_FILES)
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 something else", "half"])
def test_a_foreign_or_cut_file_of_the_cache_is_named(
    tmp_path: Path, name: str, content: bytes | str
) -> None:
    path = write(tmp_path) / name
    whole = path.read_bytes()
    path.write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])
    with pytest.raises(CacheSpecError, match=name):
        open_cache(str(path.parent))


def test_an_index_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path) / "index.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["num_rows"]), path)
    with pytest.raises(CacheSpecError, match=r"index\.parquet: not a cache's index"):
        open_cache(str(path.parent))


def test_a_missing_shard_is_named_before_anything_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path)
    shard = sorted(folder.glob("*.tar"))[2]
    shard.unlink()
    with pytest.raises(CacheShardError, match=f"{shard.name}: the index names this shard"):
        open_cache(str(folder))


@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_truncated_shard_is_named_with_both_sizes(tmp_path: Path, where: str) -> None:
    url = str(tmp_path / "run") if where == "local" else "memory://cut/run"
    write_cache(url, tmp_path, make_spec(), shard_rows=[5, 3])
    filesystem, root = fsspec.core.url_to_fs(f"{url}/latents")
    path = sorted(filesystem.glob(f"{root}/*.tar"))[1]
    content = filesystem.cat_file(path)
    filesystem.pipe_file(path, content[:-512])
    size = len(content)
    with pytest.raises(CacheShardError, match=rf"\.tar: {size - 512} bytes, the index says {size}"):
        open_cache(f"{url}/latents")


@pytest.mark.parametrize("shard_rows", [[], [0, 0]])
def test_a_cache_without_rows_is_refused(tmp_path: Path, shard_rows: list[int]) -> None:
    if shard_rows:
        write_cache(str(tmp_path), tmp_path, make_spec(), shard_rows=shard_rows)
    else:
        write_cache(str(tmp_path), tmp_path, make_spec(), shard_rows=[1])
        path = tmp_path / "latents" / "index.parquet"
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(CacheShardError, match="the cache holds no rows"):
        open_cache(str(tmp_path / "latents"))


def test_options_and_passwords_are_not_shown(tmp_path: Path) -> None:
    write_cache("memory://secrets/run", tmp_path, make_spec(), shard_rows=[1])
    cache = open_cache("memory://secrets/run/latents", storage_options={"secret": "hunter2"})
    assert "hunter2" not in repr(cache)
    with pytest.raises(CacheSpecError) as caught:
        open_cache("nosuch://me:hunter2@host/x")
    assert "hunter2" not in str(caught.value)


def test_caches_of_one_identity_belong_together(tmp_path: Path) -> None:
    caches = [
        open_cache(str(write(tmp_path, "a"))),
        open_cache(str(write(tmp_path, "b", form="mean", format="parquet", dtype="float32"))),
    ]
    check_caches(caches, model_identity=None)
    check_caches(caches, model_identity=make_spec().identity)


def test_each_differing_field_of_caches_is_named(tmp_path: Path) -> None:
    identity = changed_identity("autoencoder.scaling_factor", 1.0)
    caches = [
        open_cache(str(write(tmp_path, "a"))),
        open_cache(str(write(tmp_path, "b", identity=identity.model_dump(), resolution_px=32))),
    ]
    with pytest.raises(CacheMismatchError) as caught:
        check_caches(caches, model_identity=None)
    text = str(caught.value)
    assert f"identity.autoencoder.scaling_factor: 1.0 in {caches[1].path}" in text
    assert f"0.18215 in {caches[0].path}" in text
    assert f"resolution_px: 32 in {caches[1].path}, 16 in {caches[0].path}" in text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("autoencoder.weights_sha256", "d" * 64),
        ("autoencoder.shift_factor", 0.1),
        ("text_encoder.weights_sha256", "d" * 64),
        ("text_encoder.tokenizer_sha256", "d" * 64),
        ("text_encoder.pad_token_id", 0),
    ],
)
def test_each_field_that_differs_from_the_model_is_named(
    tmp_path: Path, field: str, value: object
) -> None:
    cache = open_cache(str(write(tmp_path)))
    message = rf"identity\.{field}: .* in the model"
    with pytest.raises(CacheMismatchError, match=message):
        check_caches([cache], model_identity=changed_identity(field, value))
