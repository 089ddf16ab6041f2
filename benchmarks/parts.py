"""A checkpoint as small files: half-precision weights cut into parts with a digest each, and the way back.

DIR/parts.json          digests and sizes of every part and of the whole, and what the checkpoint is
DIR/checkpoint.json     the run's own
DIR/weights.part00 ...  one safetensors file, cut

Matrices and convolutions are stored as fp16; vectors (batch norm, biases) stay fp32: they weigh nothing and their range is wide.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

from training import checkpoint
from training.checkpoint import FACTS, WEIGHTS
from training.config import Backbone
from training.model import BNNeck, load_backbone

PARTS = "parts.json"
PART_BYTES = 15 * 2**20


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors with matrices and convolutions as fp16. Raises ValueError for a value that fp16 cannot hold."""
    small = {name: t.half() if t.is_floating_point() and t.ndim > 1 else t for name, t in state.items()}
    lost = [name for name, t in small.items() if t.is_floating_point() and not t.isfinite().all()]
    if lost:
        raise ValueError(f"{lost[0]}: got values that are not finite as fp16, wanted weights below 65504")
    return {name: t.contiguous() for name, t in small.items()}


def pack_weights(source: str, out: Path, *, backbone: Backbone) -> int:
    """Writes a file of initial weights as fp16 safetensors of the backbone alone, under torchvision's names; returns its bytes.

    Takes whatever `training.model.load_backbone` takes, and raises ValueError as it does.
    """
    model = BNNeck(backbone=backbone, num_ids=2, last_stride=1)
    load_backbone(model, source, backbone=backbone)
    small = halved(model.backbone.state_dict())
    checkpoint.write_whole({out: lambda path: save_file(small, path)})
    return out.stat().st_size


def cut(run: Path, folder: Path, *, about: Mapping[str, Any], part_bytes: int = PART_BYTES) -> None:
    """Writes a run's checkpoint into `folder` as parts, of which parts.json says `about`. Raises ValueError as `load` does."""
    checkpoint.load(run)  # a broken run must not replace good parts
    with safe_open(run / WEIGHTS, "pt") as file:
        place = file.metadata()
    whole = save(halved(load_file(run / WEIGHTS)), place)
    parts = {
        f"weights.part{number:02d}": whole[start : start + part_bytes]
        for number, start in enumerate(range(0, len(whole), part_bytes))
    }
    contents = {**parts, FACTS: (run / FACTS).read_bytes()}
    listed = {name: {"bytes": len(part), "sha256": digest(part)} for name, part in contents.items()}
    index = {"schema_version": 1, "about": dict(about), "whole": {"bytes": len(whole), "sha256": digest(whole)}, "files": listed}
    contents[PARTS] = (json.dumps(index, indent=2) + "\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_whole({folder / name: writer(part) for name, part in contents.items()})
    for path in folder.glob("weights.part*"):
        if path.name not in parts:  # of an earlier, larger checkpoint
            path.unlink()


def writer(part: bytes) -> Callable[[Path], object]:
    """Returns what writes `part` to a path."""
    return lambda path: path.write_bytes(part)


def digest(part: bytes) -> str:
    """Returns the SHA-256 of `part` in hexadecimal."""
    return hashlib.sha256(part).hexdigest()


def read_index(folder: Path) -> dict[str, Any]:
    """Reads parts.json; raises ValueError when it is missing or not of this version."""
    try:
        index: dict[str, Any] = json.loads((folder / PARTS).read_text())
        if index["schema_version"] != 1 or FACTS not in index["files"] or any(Path(n).name != n for n in index["files"]):
            raise ValueError("wanted schema version 1 and plain file names")
        return index | {"whole": dict(index["whole"]), "about": dict(index["about"])}
    except FileNotFoundError:
        raise ValueError(f"{folder / PARTS}: got no such file, wanted a folder that --keep wrote") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / PARTS}: got no index of parts ({error}), wanted one that --keep wrote; copy it again"
        ) from error


def join(folder: Path, out: Path) -> None:
    """Checks every part and writes the checkpoint, fp32 again, into `out`, which must not hold one yet.

    Raises ValueError naming the first part that is missing or is not what was written.
    """
    if (out / FACTS).exists():
        raise ValueError(f"--out: {out} already holds a checkpoint; name another folder")
    index = read_index(folder)
    contents = {name: read_part(folder / name, listed) for name, listed in index["files"].items()}
    facts = contents.pop(FACTS)
    whole = b"".join(contents[name] for name in sorted(contents))
    if digest(whole) != index["whole"].get("sha256"):
        raise ValueError(f"{folder}: got parts that do not make up the whole of {PARTS}; copy the folder again")
    try:
        state = {name: t.float() if t.is_floating_point() else t for name, t in load(whole).items()}
    except SafetensorError as error:
        raise ValueError(f"{folder}: got parts that are no safetensors file ({error}); keep the checkpoint again") from error
    place = metadata(whole)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.write_whole({out / WEIGHTS: lambda path: save_file(state, path, metadata=place), out / FACTS: writer(facts)})
    checkpoint.load(out)


def read_part(path: Path, listed: Mapping[str, Any]) -> bytes:
    """Returns a part's bytes; raises ValueError when they are missing or not those that were written."""
    if not path.is_file():
        raise ValueError(f"{path}: got no such file, wanted {listed['bytes']} bytes; copy the part again")
    part = path.read_bytes()
    if len(part) != listed["bytes"]:
        raise ValueError(f"{path}: got {len(part)} bytes, wanted {listed['bytes']}; copy the part again")
    if digest(part) != listed["sha256"]:
        raise ValueError(f"{path}: got SHA-256 {digest(part)[:12]}..., wanted {listed['sha256'][:12]}...; copy the part again")
    return part


def metadata(whole: bytes) -> dict[str, str]:
    """Returns the metadata of a safetensors file's bytes: an 8-byte length, then a JSON header."""
    length = int.from_bytes(whole[:8], "little")
    found: dict[str, str] = json.loads(whole[8 : 8 + length]).get("__metadata__", {})
    return found
