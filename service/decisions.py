"""May the first match be believed? Pure functions over cosines."""

from collections.abc import Sequence
from typing import Literal

from gallery.entry import Match
from service.errors import InvalidRequest
from service.manifest import Thresholds

Decision = Literal["match", "unknown", "ambiguous"]


def choose_threshold(thresholds: Thresholds | None, *, threshold: float | None, far: float | None) -> float | None:
    """Settle the cosine that a match must reach: the caller's, the one at its false-accept rate, or the model's.

    Returns:
        None when the caller gave nothing and the model has no calibration.

    Raises:
        InvalidRequest: both given, or a rate the calibration does not cover.
    """
    if threshold is not None and far is not None:
        raise InvalidRequest("got threshold and far, wanted one of them: far is turned into a threshold")
    if threshold is not None:
        return threshold
    if far is not None:
        if thresholds is None:
            raise InvalidRequest("far: this model has no calibration; give a threshold, or calibrate the model")
        return thresholds.at_far(far)
    return None if thresholds is None else thresholds.default


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
