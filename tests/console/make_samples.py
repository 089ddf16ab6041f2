"""Draws the sample people that the console offers: python -m tests.console.make_samples"""

import json

import numpy as np

from tests.console.browsing import SAMPLES
from training.synthetic import draw_camera, draw_crop, draw_person

PEOPLE = {"Ada": 6, "Ben": 1, "Cleo": 15, "Dev": 12, "Eve": 18}  # pid in the gallery -> which of the drawn people
CAMERAS = {"entrance": 0, "hall": 2, "garden": 3}
ENROLLED, ASKED = ("entrance", "hall"), "garden"
QUERIES = {"Ada": 6, "Cleo": 15, "Dev": 12, None: 22}  # None: a stranger
HOURS = {"entrance": "08", "hall": "12"}


def main() -> None:
    """Writes every crop and samples.json, which names them."""
    SAMPLES.mkdir(exist_ok=True)
    enrolled = [
        {
            "file": write(number, camera),
            "pid": pid,
            "camid": camera,
            "captured_at": f"2026-01-{day:02d}T{HOURS[camera]}:00:00Z",
        }
        for day, (pid, number) in enumerate(PEOPLE.items(), start=5)
        for camera in ENROLLED
    ]
    queries = [{"file": write(number, ASKED), "pid": pid, "camid": ASKED} for pid, number in QUERIES.items()]
    (SAMPLES / "samples.json").write_text(json.dumps({"enroll": enrolled, "search": queries}, indent=1) + "\n")


def write(number: int, camera: str) -> str:
    """Draws one person under one camera, whichever were drawn before; returns the file's name."""
    seen = draw_camera(np.random.default_rng((0, 0, CAMERAS[camera])))
    person = draw_person(np.random.default_rng((0, 1, number)))
    name = f"person-{number:02d}-{camera}.jpg"
    draw_crop(person, seen, np.random.default_rng((0, 2, number, CAMERAS[camera]))).save(SAMPLES / name, quality=88)
    return name


if __name__ == "__main__":
    main()
