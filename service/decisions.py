"""May the first match be believed? Pure functions over cosines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gallery.entry import Match
from service.errors import InvalidRequest
from service.manifest import Thresholds

Decision = Literal["match", "unknown", "ambiguous"]


@dataclass(frozen=True)
class Choice:
    """The cosine that a match must reach and where it comes from, None and None where nobody says one; and the margin in use."""

    threshold: float | None
    source: str | None
    margin: float


def choose_threshold(thresholds: Thresholds | None, name: str, *, threshold: float | None, far: float | None) -> Choice:
    """Settle the cosine that a match must reach: the caller's, the one at its false-accept rate, or the default.

    Args:
        thresholds: those in use.
        name: whose they are.

    Raises:
        InvalidRequest: both given, or a rate the calibration does not cover.
    """
    if threshold is not None and far is not None:
        raise InvalidRequest("got threshold and far, wanted one of them: far is turned into a threshold")
    margin = 0.0 if thresholds is None else thresholds.margin
    if threshold is not None:
        return Choice(threshold, "request", margin)
    if far is not None:
        if thresholds is None:
            raise InvalidRequest("far: this model has no calibration; give a threshold, or calibrate the model")
        return Choice(thresholds.at_far(far), f"far {far:g} of {name}", margin)
    return Choice(None, None, margin) if thresholds is None else Choice(thresholds.default, name, margin)


def decide(best: Sequence[Match], *, threshold: float | None, margin: float) -> Decision:
    """Judge the best matches of different identities, by falling cosine.

    Args:
        best: at least the first two identities, where there are two.
        threshold: None, with neither caller nor calibration to say one, believes nothing.
        margin: two identities over the threshold and closer to each other than this are ambiguous.
    """
    if not best or threshold is None or best[0].cosine < threshold:
        return "unknown"
    if len(best) > 1 and best[1].cosine >= threshold and best[0].cosine - best[1].cosine < margin:
        return "ambiguous"
    return "match"
