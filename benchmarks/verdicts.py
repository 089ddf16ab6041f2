"""The programme's figures beside the paper's: a line for every recipe tested, the acceptance bands, and the pace."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.programme import STRONG, Step
from training import recipes

# Percent rank-1 and mAP on Market-1501, set beside what others reached with this recipe (94.0 to 94.65 / 85.4 to 86.3).
RUN_BAND = (93.9, 85.3)  # a single run
PARITY_BAND = (94.2, 85.7)  # the mean of three seeds
RERANKED_BAND = (95.0, 93.9)
PARITY_SEEDS = 3

Score = tuple[float, float]


def report(plan: Sequence[Step], state: Mapping[str, Any]) -> str:
    """Returns everything that has been measured so far, as people read it."""
    lines = [*speed_lines(state), *pace_lines(plan, state), *table_lines(plan, state), *acceptance_lines(plan, state)]
    return "\n".join(lines) if lines else "nothing has been measured yet"


def percent(figures: Mapping[str, Any]) -> Score:
    """Returns rank-1 and mAP in percent, to the digits that shares are kept with: 0.939 must reach 93.9."""
    return round(100 * figures["rank1"], 4), round(100 * figures["mAP"], 4)


def tested(plan: Sequence[Step], state: Mapping[str, Any]) -> list[tuple[Step, Mapping[str, Any]]]:
    """Returns every evaluation that is done, with its figures, in the order of the plan."""
    entries = state["steps"]
    return [
        (step, entries[step.name]["figures"])
        for step in plan
        if step.kind == "test" and entries.get(step.name, {}).get("status") == "done"
    ]


def table_lines(plan: Sequence[Step], state: Mapping[str, Any]) -> Iterator[str]:
    """Yields one line for every recipe and training, ours beside the paper's; R where the paper has it."""
    done, known = tested(plan, state), recipes.by_name()
    if done:
        title = f"{'recipe':<24}{'seed':>4}  {'from':<22}{'ours r-1 / mAP':>15}{'mINP':>6}{'paper':>13}{'difference':>15}"
        yield title + "   R, paper's"
    for step, figures in done:
        assert step.training is not None and step.evaluation is not None
        rank1, mean = percent(figures)
        for name in step.evaluation.recipes:
            recipe = known[name]
            paper = apart = ratio = ""
            if recipe.market:
                paper = f"{recipe.market[0]:.1f} / {recipe.market[1]:.1f}"
                apart = f"{rank1 - recipe.market[0]:+.1f} / {mean - recipe.market[1]:+.1f}"
            if recipe.ratio and figures["intra_inter"] is not None:
                ratio = f"   {figures['intra_inter']:.3f}, {recipe.ratio[0]:.3f}"
            ours = f"{rank1:.1f} / {mean:.1f}"
            begun = f"{step.training.config.seed:>4}  {step.training.weights.name[:21]:<22}"
            yield f"{name:<24}{begun}{ours:>15}{100 * figures['mINP']:>6.1f}{paper:>13}{apart:>15}{ratio}"


def acceptance_lines(plan: Sequence[Step], state: Mapping[str, Any]) -> Iterator[str]:
    """Yields whether each strong baseline, re-ranked too, and the mean of each initial weights' seeds are within the bands."""
    scores: dict[str, list[Score]] = {}
    for step, figures in tested(plan, state):
        assert step.training is not None and step.evaluation is not None
        if STRONG not in step.evaluation.recipes:
            continue
        scores.setdefault(step.training.weights.name, []).append(percent(figures))
        yield verdict(step.training.name, percent(figures), RUN_BAND)
        again = figures["rerank"]
        yield f"{verdict(f'{step.training.name} re-ranked', percent(again), RERANKED_BAND)}, mINP {100 * again['mINP']:.1f}"
    for begun, found in scores.items():
        if len(found) < PARITY_SEEDS:
            yield f"parity from {begun}: {len(found)} of {PARITY_SEEDS} seeds are tested"
            continue
        rank1, mean = (sum(values) / len(found) for values in zip(*found, strict=True))
        yield verdict(f"parity from {begun}, mean of {len(found)} seeds", (round(rank1, 4), round(mean, 4)), PARITY_BAND)


def verdict(name: str, score: Score, band: Score) -> str:
    """Returns a score, the band it must reach both ways, and whether it does."""
    passes = "passes" if score[0] >= band[0] and score[1] >= band[1] else "fails"
    return f"{name}: {score[0]:.2f} / {score[1]:.2f}, wanted {band[0]} / {band[1]}: {passes}"


def pace_lines(plan: Sequence[Step], state: Mapping[str, Any]) -> Iterator[str]:
    """Yields how fast every finished training went."""
    for step in plan:
        entry = state["steps"].get(step.name, {})
        if step.kind != "train" or entry.get("status") != "done":
            continue
        found = entry["figures"]
        pace = f"{found['seconds_per_epoch']:.2f} s an epoch, {found['crops_per_s']:.0f} crops/s"
        yield f"{step.name}: {found['epochs']} epochs in {entry['wall_s']:.0f} s, {pace} on {entry['machine']['device']}"


def speed_lines(state: Mapping[str, Any]) -> Iterator[str]:
    """Yields the speed figures."""
    entry = state["steps"].get("speed", {})
    if entry.get("status") != "done":
        return
    for case in entry["figures"]["cases"]:
        yield f"speed, {case['name']}: {case['error'] or str(case['crops_per_s']) + ' crops/s'}"
