"""Fuzzes `crops.decode` with atheris: whatever bytes come, a crop, or one of two named refusals, in bounded time.

pip install atheris && python -m tests.service.fuzz_decode --seconds 3600

libFuzzer grows the pictures of bad_images.py, Pillow's Python code tells it what is new (its C code cannot), and it stops at
the first surprise: an exception of another kind, a picture that takes over 10 s, or more than 2 GB. What it learnt is kept in
--corpus, and what it stopped at beside it; `--corpus DIR` goes on from there.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_PIXELS = 1_000_000
SLOWEST_S = 10
MOST_MB = 2048
LONGEST = 20_000  # bytes of a picture


def prepare(atheris: Any) -> tuple[Callable[[bytes], None], list[bytes]]:
    """Import what is fuzzed so that it tells which of its branches were taken.

    Returns: what decodes, keeps and resizes one picture as the service does and raises what the service would not expect; and
    the drawn pictures to begin with.
    """
    with atheris.instrument_imports(include=["PIL", "service.crops"]):
        from PIL import BmpImagePlugin, Image, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

        from service import crops
    from service.errors import ImageTooLarge, UndecodableImage
    from tests.service.bad_images import hostile, odd, whole

    warnings.simplefilter("ignore")
    crops.tame_pillow()

    def decode_one(content: bytes) -> None:
        try:
            image = crops.decode(content, max_pixels=MAX_PIXELS)
        except (UndecodableImage, ImageTooLarge):
            return
        assert image.mode == "RGB"
        crops.kept_jpeg(image)
        assert crops.resize(image, height=32, width=16).shape == (32, 16, 3)

    drawn = [content for _, content in [*whole(), *odd(most_pixels=10_000), *hostile()]]
    return decode_one, [content for content in drawn if len(content) <= LONGEST]


def main() -> None:
    """Fuzz for so long; libFuzzer tells how it went and ends the process."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.service.fuzz_decode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=600, metavar="N", help="how long (600)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the mutations (0: another every time)")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="where pictures are kept and taken from (a new folder)")
    args = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("fuzz_decode: got no atheris, wanted it: pip install atheris")
    decode_one, seeds = prepare(atheris)
    corpus = args.corpus or Path(tempfile.mkdtemp(prefix="fuzz_decode"))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(content)
    limits = {
        "max_total_time": args.seconds,
        "timeout": SLOWEST_S,
        "rss_limit_mb": MOST_MB,
        "max_len": LONGEST,
        "seed": args.seed,
    }
    flags = [f"-{name}={value}" for name, value in limits.items()]
    atheris.Setup(
        [sys.argv[0], *flags, "-print_final_stats=1", f"-artifact_prefix={corpus}-stopped-at-", str(corpus)], decode_one
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
