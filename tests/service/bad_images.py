"""Pictures of every kind that may come: odd but whole, damaged, hostile; all drawn here, each with a name that says how.

python -m tests.service.bad_images --minutes 10        sends them to the live application, one by one, mutated ones at last
python -m tests.service.bad_images --folder DIR        sends the files of a folder instead: a corpus of odd pictures

After each a good crop must embed by the bundled model to the same bits. Told are answers by status, the slowest picture, and
memory, freed pages given back first, as the service does twice a minute.
"""

import argparse
import asyncio
import io
import math
import random
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
from PIL import Image, ImageCms

from service.app import create_app
from service.crops import ORIENTATION_TAG, tame_pillow
from service.embedder import Embedder, granted_cores
from service.memory import share_heaps, trim
from service.settings import BUNDLED_MODEL, Settings
from tests.service.conftest import draw

Named = tuple[str, bytes]

READ_EVERY = 1000  # pictures, between two looks at memory: growth that does not end is a leak
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """Encode a picture."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, body: bytes = b"", more: bytes = b"") -> bytes:
    """A PNG whose header says what it likes; more: chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def whole() -> Iterator[Named]:
    """Whole pictures of every kind that the formats have."""
    image = draw(1)
    grey, palette, alpha = image.convert("L"), image.quantize(8), image.copy()
    alpha.putalpha(grey)
    yield "jpeg", encoded(image, "JPEG", quality=90)
    yield "jpeg progressive", encoded(image, "JPEG", progressive=True)
    yield "jpeg grey", encoded(grey, "JPEG")
    yield "jpeg cmyk", encoded(image.convert("CMYK"), "JPEG")
    yield "jpeg 4:4:4", encoded(image, "JPEG", subsampling=0)
    yield "jpeg of two pictures", encoded(image, "MPO", save_all=True, append_images=[draw(2)])
    yield "png", encoded(image, "PNG")
    yield "png palette", encoded(palette, "PNG")
    yield "png palette with transparency", encoded(palette, "PNG", transparency=bytes([0, 128]))
    yield "png grey with alpha", encoded(alpha.convert("LA"), "PNG")
    yield "png alpha", encoded(alpha, "PNG")
    yield "png one bit", encoded(image.convert("1"), "PNG")
    yield "png 16-bit grey", encoded(Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257), "PNG")
    yield "png 16-bit colour", png(2, 2, depth=16, body=(b"\0" + bytes(range(12))) * 2)
    yield "png 16-bit alpha", png(2, 2, depth=16, colour=6, body=(b"\0" + bytes(range(16))) * 2)
    yield "png animated", encoded(image, "PNG", save_all=True, append_images=[draw(2), draw(3)])
    yield "webp", encoded(image, "WEBP")
    yield "webp lossless", encoded(image, "WEBP", lossless=True)
    yield "webp alpha", encoded(alpha, "WEBP")
    yield "webp animated", encoded(image, "WEBP", save_all=True, append_images=[draw(2), draw(3)])
    yield "bmp", encoded(image, "BMP")
    yield "bmp palette", encoded(palette, "BMP")
    yield "bmp one bit", encoded(image.convert("1"), "BMP")
    yield "bmp alpha", encoded(alpha, "BMP")


def odd(*, most_pixels: int = 16_000_000) -> Iterator[Named]:
    """Odd sizes, orientations, colour profiles, and things before or behind a picture."""
    side = math.isqrt(most_pixels)
    for width, height in ((1, 1), (1, 20_000), (20_000, 1), (2, 65_000), (side, side)):
        blank = Image.new("RGB", (width, height), (200, 100, 50))
        yield f"png {width} x {height}", encoded(blank, "PNG")
        yield f"jpeg {width} x {height}", encoded(blank, "JPEG")
    image = draw(1)
    for form in ("JPEG", "PNG", "WEBP"):
        for orientation in (*range(1, 9), 0, 9, 65_535):
            exif = Image.Exif()
            exif[ORIENTATION_TAG] = orientation
            yield f"{form} turned {orientation}", encoded(image, form, exif=exif)
        for name, block in {"garbage": b"Exif\0\0garbage", "cut": b"Exif\0\0MM\0*\0\0\0\x08\0\xff", "loop": exif_loop()}.items():
            yield f"{form} exif {name}", encoded(image, form, exif=block)
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        for name, block in {"whole": profile, "cut": profile[:100], "noise": bytes(range(256)) * 40}.items():
            yield f"{form} icc {name}", encoded(image, form, icc_profile=block)
        content = encoded(image, form)
        yield f"{form} with a tail", content + b"tail" * 1000
        yield f"{form} twice", content * 2
        yield f"{form} with a head", b"head" + content
    yield "png icc bomb", png(1, 1, body=bytes(4), more=chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10_000_000))))
    yield "png text bomb", png(1, 1, body=bytes(4), more=chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(10_000_000))))


def exif_loop() -> bytes:
    """Exif whose second directory is its first."""
    return b"Exif\0\0MM\0*\0\0\0\x08" + b"\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08" + b"\0\0\0\x08"


def hostile() -> Iterator[Named]:
    """Bombs, headers that lie, other formats, and what is no picture."""
    for side in (0, 4001, 30_000, 2**31 - 1):
        yield f"png that says {side} x {side}", png(side, side, body=bytes(1000))
    for width, height in ((65_500, 65_500), (0, 0)):
        yield f"jpeg that says {width} x {height}", resized_jpeg(width, height)
        yield f"bmp that says {width} x {height}", encoded(draw(1), "BMP")[:18] + struct.pack("<ii", width, height) + bytes(100)
    yield "bmp upside down beyond measure", encoded(draw(1), "BMP")[:18] + struct.pack("<ii", 24, -(2**31)) + bytes(100)
    yield "webp that says 16384 x 16384", b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0\xff\x3f\0" + b"VP8 \0\0\0\0"
    yield "jpeg of 100,000 scans", scan_bomb(100_000)
    for colour in (0, 1, 3, 5, 7):
        yield f"png of colour {colour} and no palette", png(4, 4, colour=colour, body=bytes(100))
    yield "png of depth 3", png(4, 4, depth=3, body=bytes(100))
    image = draw(1)
    for form in ("GIF", "TIFF", "PPM", "ICO", "PDF", "TGA", "PCX", "SGI", "JPEG2000", "DDS", "EPS"):
        yield form, encoded(image, form)
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "html", b"<html><script>alert(1)</script>"
    yield "text", b"no picture at all"
    yield "zeros", bytes(1000)
    yield "zip", b"PK\x03\x04" + bytes(100)
    yield "npy", b"\x93NUMPY\x01\x00" + bytes(100)
    for signature in (b"\xff\xd8\xff", SIGNATURE, b"RIFF\xff\xff\xff\xffWEBP", b"BM"):
        yield f"only {signature!r}", signature
        yield f"{signature!r} and noise", signature + random.Random(1).randbytes(1000)


def resized_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header announces another size."""
    content = bytearray(encoded(draw(1), "JPEG"))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def scan_bomb(scans: int, *, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan comes again and again; with a side of 4000 each takes as long as a picture."""
    content = encoded(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + content[-2:]


def truncated(*, percent: int = 1) -> Iterator[Named]:
    """Every whole picture, cut at every so many percent of its length."""
    for name, content in whole():
        for share in range(0, 100, percent):
            yield f"{name} cut at {share} %", content[: len(content) * share // 100]


def mutated(seed: int, *, each: int) -> Iterator[Named]:
    """Every whole picture with bits flipped, bytes overwritten, parts removed, doubled or swapped; `each` of every kind."""
    source = random.Random(seed)
    for name, content in whole():
        for number in range(each):
            yield f"{name} mutated {seed}-{number}", mutate(content, source)


def mutate(content: bytes, source: random.Random) -> bytes:
    """Damage a file in one to eight places, headers as often as the rest."""
    damaged = bytearray(content)
    for _ in range(source.randint(1, 8)):
        at = source.randrange(min(len(damaged), 64) if source.random() < 0.5 else len(damaged))
        length = source.randint(1, 16)
        kind = source.randrange(4)
        if kind == 0:
            damaged[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            damaged[at] = source.choice((0, 1, 127, 128, 254, 255))
        elif kind == 2 and len(damaged) > length + 1:
            del damaged[at : at + length]
        else:
            damaged[at:at] = damaged[at : at + length]
    return bytes(damaged)


async def attack(pictures: Iterator[Named], *, minutes: float) -> tuple[Counter[str], str]:
    """Send pictures to an application in this process until the time is up; a surprise ends it.

    Returns: how often each answer came, and a line on time and memory.
    """
    answers: Counter[str] = Counter()
    slowest, until = (0.0, ""), time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(_env_file=None, gallery=Path(folder) / "gallery", snapshots=Path(folder) / "snapshots")
        app = create_app(settings, embed=Embedder.open(BUNDLED_MODEL))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=None) as http,
        ):
            good = await embed(http, encoded(draw(5), "PNG"))
            memory_kb = [resident_kb()]
            for number, (name, content) in enumerate(pictures, start=1):
                begun = time.monotonic()
                answer = await embed(http, content)
                slowest = max(slowest, (time.monotonic() - begun, name))
                answers[f"{answer.status_code} {answer.json().get('error', {}).get('code', '')}"] += 1
                again = await embed(http, encoded(draw(5), "PNG"))
                if answer.status_code >= 500 or again.content != good.content:
                    keep = Path(tempfile.mkdtemp()) / "picture"
                    keep.write_bytes(content)
                    sys.exit(f"bad_images: {name}: {answer.status_code} {answer.text[:300]}; the picture is {keep}")
                if number % READ_EVERY == 0:
                    memory_kb.append(resident_kb())
                if begun > until:
                    break
            memory_kb.append(resident_kb())
    mib = ", ".join(str(kb // 1024) for kb in memory_kb)
    return answers, f"slowest {slowest[0]:.2f} s: {slowest[1]}; resident memory, every {READ_EVERY} pictures: {mib} MiB"


def everything(seed: int) -> Iterator[Named]:
    """Every picture once, then mutated ones without end."""
    yield from whole()
    yield from odd()
    yield from hostile()
    yield from truncated()
    while True:
        yield from mutated(seed, each=20)
        seed += 1


def files(folder: Path) -> Iterator[Named]:
    """Every file under a folder."""
    yield from ((str(path), path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file())


async def embed(http: httpx.AsyncClient, content: bytes) -> httpx.Response:
    """Embed one file."""
    return await http.post("/embed?encoding_format=base64", files={"crops": content})


def resident_kb() -> int:
    """This process' resident memory, once what is freed is given back."""
    trim()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def main() -> None:
    """Attack for so long, and tell how it was answered."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.service.bad_images", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, metavar="X", help="how long (10)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="send its files, each once, and nothing drawn")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first mutations (0)")
    args = parser.parse_args()
    share_heaps(granted_cores())
    tame_pillow()
    pictures = everything(args.seed) if args.folder is None else files(args.folder)
    answers, cost = asyncio.run(attack(pictures, minutes=args.minutes))
    lines = [f"{answer:<32}{count:>8}" for answer, count in answers.most_common()]
    sys.stdout.write("\n".join([*lines, f"{sum(answers.values())} pictures, no surprise; {cost}", ""]))


if __name__ == "__main__":
    main()
