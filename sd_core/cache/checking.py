"""Look at everything in a cache before anything learns from it."""

from collections.abc import Sequence
from pathlib import Path

from sd_core.cache.latent_cache import CacheShard, LatentCache
from sd_core.cache.reading import check_finite, open_shard_reader


def check_contents(
    caches: Sequence[LatentCache],
    *,
    rank: int = 0,
    world_size: int = 1,
    scratch: Path | None = None,
) -> int:
    """Read every sample of this rank's share of the shards; gives how many there were.

    Cost: the reading of the whole cache once, over all ranks.

    Raises:
        CacheShardError: a file is not the one that the index names, is damaged, or holds a value
            that is not finite; names the shard, and the key where there is one.
    """
    shards = [(cache, shard) for cache in caches for shard in cache.shards]
    return sum(_check_shard(*place, scratch) for place in shards[rank::world_size])


def _check_shard(cache: LatentCache, shard: CacheShard, scratch: Path | None) -> int:
    reader = open_shard_reader(cache, shard, scratch=scratch, check=True)
    try:
        for row in range(shard.num_rows):
            check_finite(reader.read(row))
    finally:
        reader.close()
    return shard.num_rows
