"""Which layers int8 may have: the damage of each group alone, and the groups left in fp32 until the whole agrees with fp32."""

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from exporter import calibrate, quantize
from exporter.calibrate import CalibrationSet
from exporter.export import save
from training.progress import progress


@dataclass(frozen=True)
class Agreement:
    """Cosine of an artefact's embeddings to those of fp32, over some crops."""

    mean: float
    worst: float
    num_crops: int


# A guard against the worst, not the measure: a ResNet-50 that kept 0.984 / 0.927 lost 0.07 points of mAP on the whole of
# Market-1501 (0.3 as queries in an fp32 gallery), another that kept 0.9952 / 0.9920 lost 0.38 on 60 of its people, and one that
# kept 0.9982 / 0.9960 0.05. What --data measures refuses a file; --keep-fp32 is what to do about it.
LEAST_MEAN, LEAST_WORST = 0.98, 0.90


@dataclass(frozen=True)
class Choice:
    """What was quantised: 1 - mean cosine of each group alone, the groups left in fp32, and the agreement that results."""

    damage: dict[str, float]
    left_in_fp32: tuple[str, ...]
    held: Agreement

    def description(self) -> dict[str, Any]:
        """Returns what the manifest says of it."""
        floor = {"mean_cosine": LEAST_MEAN, "worst_cosine": LEAST_WORST}
        scheme = "u8 activations by their extremes, s8 weights per channel, biases corrected; fp32 from the pooling on"
        return {"scheme": scheme, "floor": floor, **asdict(self)}

    def table(self) -> str:
        """Returns the damage as people read it, the most harmful group first."""
        lines = [
            f"  {name:12}{damage:.6f}{'  left in fp32' * (name in self.left_in_fp32)}" for name, damage in ranked(self.damage)
        ]
        return "\n".join(["damage of each group alone in int8, 1 - mean cosine to fp32 over held crops:", *lines])


def agreement(rows: np.ndarray, expected: np.ndarray) -> Agreement:
    """Returns the agreement of unit rows [N, D] with those expected."""
    cosines = np.einsum("nd,nd->n", rows, expected)
    return Agreement(round(float(cosines.mean()), 6), round(float(cosines.min()), 6), len(rows))


def ranked(damage: dict[str, float]) -> list[tuple[str, float]]:
    """Returns the groups, the most harmful first."""
    return sorted(damage.items(), key=lambda item: -item[1])


def choose(damage: dict[str, float], agreement_with: Callable[[Collection[str]], Agreement], *, keep: int = 0) -> Choice:
    """Leaves the `keep` most harmful groups in fp32, then one more after the other, until those in int8 together reach the floor.

    Raises ValueError when half of them do not suffice: such a file is hardly smaller or faster than fp32.
    """
    names = [name for name, _ in ranked(damage)]
    if keep > len(names) // 2:
        raise ValueError(f"--keep-fp32: got {keep}, wanted at most {len(names) // 2} of the {len(names)} groups")
    for count in range(keep, len(names) // 2 + 1):
        found = agreement_with(names[count:])
        if found.mean >= LEAST_MEAN and found.worst >= LEAST_WORST:
            return Choice(damage, tuple(names[:count]), found)
    raise ValueError(
        f"int8: got a cosine to fp32 of {found.mean:.4f} (worst {found.worst:.4f}) over {found.num_crops} held crops with "
        f"{count} of {len(names)} groups left in fp32, wanted {LEAST_MEAN} ({LEAST_WORST}); "
        "calibrate on crops like those served, or export fp32 or fp16"
    )


def write_int8(fp32_path: Path, int8_path: Path, crops: CalibrationSet, *, keep: int = 0) -> Choice:
    """Quantises an exported fp32 file as far as `keep` and the floor allow; raises ValueError as `choose` does."""
    model = onnx.load(str(fp32_path))
    observed = calibrate.observe(model, quantize.tensors_of(model), crops.crops)
    expected = calibrate.embed(model, crops.held)

    def agreement_with(groups: Collection[str]) -> Agreement:
        return agreement(calibrate.embed(quantize.quantized(model, observed, groups), crops.held), expected)

    choice = choose(damages(model, agreement_with), agreement_with, keep=keep)
    save(quantize.quantized(model, observed, choice.damage.keys() - set(choice.left_in_fp32)), int8_path)
    return choice


def damages(model: ModelProto, agreement_with: Callable[[Collection[str]], Agreement]) -> dict[str, float]:
    """Returns 1 - mean cosine to fp32 of each group quantised alone."""
    groups = quantize.groups_of(model)
    with progress(len(groups), name="measure damage", unit="group") as bar:
        found = {}
        for name in groups:
            found[name] = round(1 - agreement_with([name]).mean, 6)
            bar.update()
    return found
