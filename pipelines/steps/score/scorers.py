"""The scorers by their key under `score:`; to add one, write its file and add its line here."""

from pipelines.steps.score.clip_scorers import Embeddings, Similarity
from pipelines.steps.score.heads import AestheticV1, AestheticV2, Nsfw, Watermark
from pipelines.steps.score.open_nsfw import OpenNsfw
from pipelines.steps.score.scorer import Scorer
from pipelines.steps.score.text import Text
from pipelines.steps.score.without_text import WithoutText

SCORERS: dict[str, type[Scorer]] = {
    "aesthetic_v1": AestheticV1,
    "aesthetic_v2": AestheticV2,
    "nsfw": Nsfw,
    "watermark": Watermark,
    "similarity": Similarity,
    "embeddings": Embeddings,
    "without_text": WithoutText,  # asked for under `score.clip`
    "text": Text,
    "open_nsfw": OpenNsfw,
}
