"""The parameters of /search as models; what they answer is in schemas.py."""

from typing import Annotated, Literal

import orjson
from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from gallery.checks import MAX_BEST_OF
from gallery.online import MAX_K1, MAX_SHORTLIST, Rerank
from service.fields import Cosine, Moment, Name
from service.schemas import Strict

MAX_K = 1000
MAX_WANTED_LENGTH = 4096  # characters; a whole head ends at 65,536 bytes, and one character may take twelve of them
MAX_WANTED = 32  # attributes that one search may ask for: each is looked up among all there are


def wanted_attributes(text: str) -> str:
    """Refuse what is no JSON object of values that a search can ask for."""
    try:
        wanted = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f'should be a JSON object, like {{"site":"north"}}: {error}') from None
    if not isinstance(wanted, dict):
        raise ValueError('should be a JSON object, like {"site":"north"}')
    if len(wanted) > MAX_WANTED:
        raise ValueError(f"should name at most {MAX_WANTED} attributes, not {len(wanted)}")
    for name, value in wanted.items():
        if not isinstance(value, str | int | float):
            raise ValueError(f"should hold strings, numbers and booleans alone; {name!r} is none of them")
    return text


class SearchQuery(Strict):
    """Parameters of POST /search."""

    k: int = Field(default=10, ge=1, le=MAX_K)
    group_by: Literal["identity", "entry"] = "identity"
    pool: Literal["max", "mean", "best"] = Field(
        default="max",
        description="What identities are ranked by: their highest cosine, the mean of all, or that of the `best_of` highest.",
    )
    best_of: int = Field(
        default=3,
        ge=1,
        le=MAX_BEST_OF,
        description="With `pool=best`: how many of an identity's highest cosines are averaged; all, where it has fewer entries.",
    )
    attributes: Annotated[str, AfterValidator(wanted_attributes)] | None = Field(
        default=None,
        max_length=MAX_WANTED_LENGTH,
        description="Only entries whose attributes hold every pair of this JSON object, like "
        '`{"site":"north","floor":1}`: top-level strings, numbers and booleans, each equal and of the same JSON type.',
    )
    pid: list[Name] = []
    camid: list[Name] = []
    exclude_camid: list[Name] = []
    since: Moment | None = None
    until: Moment | None = None
    threshold: Cosine | None = None
    far: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Threshold by false-accept rate: the share of comparisons of two different people that reach it. "
        "One search makes a comparison with every identity, so its own rate grows with the gallery.",
    )
    rerank: bool = Field(
        default=False,
        description="Order the matches by `rerank_distance`: k-reciprocal re-ranking of the `shortlist` entries of the highest "
        "cosines; of a large gallery a few of the last may be missed. The decision is still made from cosines, and speaks "
        "of the first match shown.",
    )
    k1: int = Field(default=Rerank.k1, ge=1, le=MAX_K1, description="With `rerank`: neighbours in a list; see `shortlist`.")
    k2: int = Field(
        default=Rerank.k2,
        ge=1,
        le=MAX_K1,
        description="With `rerank`: entries, up to `k1`, whose neighbourhoods are averaged.",
    )
    blend: float = Field(
        default=Rerank.blend,
        alias="lambda",
        ge=0,
        le=1,
        description="With `rerank`: the share of the original distance; 1 is the original order.",
    )
    shortlist: int = Field(
        default=Rerank.shortlist,
        ge=1,
        le=MAX_SHORTLIST,
        description="With `rerank`: how many entries are re-ranked; where fewer are admitted, these, and `k1` shrinks with them.",
    )

    @field_validator("best_of")
    @classmethod
    def check_pool(cls, best_of: int, info: ValidationInfo) -> int:
        """Refuse a best_of that would be ignored; its default may be sent, as generated clients send every default."""
        if best_of != cls.model_fields["best_of"].default and info.data.get("pool", "best") != "best":
            raise ValueError(f"goes with pool=best, not pool={info.data['pool']}")
        return best_of

    @field_validator("k1", "k2", "blend", "shortlist")
    @classmethod
    def check_rerank(cls, value: float, info: ValidationInfo) -> float:
        """Refuse what would be ignored; defaults may be sent."""
        if value != cls.model_fields[str(info.field_name)].default and not info.data.get("rerank", True):
            raise ValueError("goes with rerank=true")
        return value


class SearchByQuery(SearchQuery):
    """Parameters of GET /search: those of POST /search, and the query itself."""

    entry_id: int | None = Field(default=None, ge=1, lt=2**63)
    embedding: str | None = None
