"""Thresholds of one half of the people tried on the other, the whole command on drawn ones."""

import json

import numpy as np

from benchmarks import calibration
from service.settings import BUNDLED_MODEL
from training.synthetic import draw_camera, draw_crop, draw_person


def test_each_half_is_tried_on_the_other_and_the_embeddings_are_kept(tmp_path, capsys):
    for pid in range(12):
        (tmp_path / "people" / f"p{pid}").mkdir(parents=True)
        person = draw_person(np.random.default_rng((0, pid)))
        for camera in (1, 2):
            crop = draw_crop(person, draw_camera(np.random.default_rng((1, camera))), np.random.default_rng((2, pid, camera)))
            crop.save(tmp_path / "people" / f"p{pid}" / f"c{camera}_0.jpg")
    kept, out = tmp_path / "features.npz", tmp_path / "figures.json"
    command = [str(BUNDLED_MODEL), "--data", str(tmp_path / "people"), "--splits", "2", "--json", str(out)]
    calibration.main([*command, "--features", str(kept)])
    said, figures = capsys.readouterr().out, json.loads(out.read_text())
    assert figures["crops"] == len(np.load(kept)["embeddings"]) == 24
    assert [line["asked"] for line in figures["first half for the second"]] == [0.1]  # 60 pairs of two people a half
    calibration.main([*command, "--features", str(kept)])
    calibration.main(command)
    assert capsys.readouterr().out == 2 * said
