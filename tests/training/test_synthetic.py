"""Drawn people: the same seed gives the same bytes, in the layout of Market-1501."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from training import synthetic
from training.dataset import GALLERY, QUERY, TRAIN, read_dataset
from training.synthetic import draw_camera, draw_crop, draw_person, write_dataset


@pytest.fixture(scope="module", name="people")
def people_fixture(tmp_path_factory):
    """The whole dataset of seed 3, over the remains of an interrupted one of seed 4; tests that write work elsewhere."""
    folder = tmp_path_factory.mktemp("people") / "three"
    begin(folder, seed=4)
    write_dataset(folder, seed=3)
    return folder


def begin(folder, *, seed):
    """Writes the first two identities and is stopped by a folder that stands where the third begins."""
    obstacle = folder / TRAIN / "0003_c1s1_000000_00.jpg"
    obstacle.mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write_dataset(folder, seed=seed)
    obstacle.rmdir()
    return contents(folder)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def drawing(seed):
    rng = np.random.default_rng(seed)
    return draw_crop(draw_person(rng), draw_camera(rng), rng)


def test_the_same_seed_writes_the_same_bytes(people, tmp_path):
    again = begin(tmp_path, seed=3)
    assert len(again) == 2 * synthetic.NUM_CAMERAS * synthetic.CROPS_PER_CAMERA
    assert again.items() <= contents(people).items()


def test_another_seed_writes_other_bytes(people, tmp_path):
    other, mine = begin(tmp_path, seed=5), contents(people)
    assert other.keys() <= mine.keys()
    assert [name for name in other if mine[name] == other[name]] == []


def test_a_folder_is_finished_only_when_everything_is_written(people, tmp_path):
    assert "seed.txt" not in begin(tmp_path, seed=3)
    assert contents(people)["seed.txt"] == b"3\n"


def test_the_folder_reads_back_with_the_expected_counts(people):
    data = read_dataset(people)
    train, test, cameras = synthetic.NUM_TRAIN_IDS, synthetic.NUM_TEST_IDS, synthetic.NUM_CAMERAS
    assert Counter(sample.pid for sample in data.train) == dict.fromkeys(range(1, train + 1), 12)
    assert Counter(sample.pid for sample in data.query) == dict.fromkeys(range(train + 1, train + test + 1), cameras)
    gallery = dict.fromkeys(range(train + 1, train + test + 1), cameras * 2) | {0: synthetic.NUM_DISTRACTORS}
    assert Counter(sample.pid for sample in data.gallery) == gallery
    assert data.num_junk == synthetic.NUM_JUNK


def test_every_list_sees_every_camera(people):
    data = read_dataset(people)
    for samples in (data.train, data.query, data.gallery):
        assert {sample.camid for sample in samples} == set(range(1, synthetic.NUM_CAMERAS + 1))


def test_query_and_gallery_share_no_file(people):
    names = {place: {path.name for path in (people / place).iterdir()} for place in (TRAIN, QUERY, GALLERY)}
    assert not names[QUERY] & names[GALLERY]


def test_every_crop_has_the_size_of_market_1501(people):
    sizes = set()
    for path in people.rglob("*.jpg"):
        with Image.open(path) as image:
            sizes.add((image.size, image.mode))
    assert sizes == {((64, 128), "RGB")}


def test_a_finished_folder_is_left_as_it_is(tmp_path):
    (tmp_path / "seed.txt").write_text("3\n")
    (tmp_path / "mine.txt").write_text("kept")
    write_dataset(tmp_path, seed=3)
    assert contents(tmp_path) == {"seed.txt": b"3\n", "mine.txt": b"kept"}


def test_another_seed_into_a_finished_folder_is_refused(tmp_path):
    (tmp_path / "seed.txt").write_text("3\n")
    with pytest.raises(ValueError, match="got drawn people of seed 3, wanted 4; use a new folder"):
        write_dataset(tmp_path, seed=4)


def test_a_drawing_is_a_function_of_its_generator():
    assert np.array_equal(drawing(1), drawing(1))
    assert not np.array_equal(drawing(1), drawing(2))


@pytest.mark.parametrize("seed", range(40))
def test_every_drawing_has_contrast(seed):
    assert np.asarray(drawing(seed), dtype=float).std() > 10


def test_one_person_looks_more_alike_than_two():
    """Mean colours of the body, between two poses under one camera."""
    camera = draw_camera(np.random.default_rng(0))

    def look(person, pose):
        crop = draw_crop(draw_person(np.random.default_rng(person)), camera, np.random.default_rng((person, pose)))
        return np.asarray(crop, dtype=float)[30:110, 20:44].reshape(4, 20, 24, 3).mean(axis=(1, 2)).ravel()

    same = [np.linalg.norm(look(person, 0) - look(person, 1)) for person in range(20)]
    other = [np.linalg.norm(look(person, 0) - look(person + 1, 1)) for person in range(20)]
    assert np.mean(same) < 0.5 * np.mean(other)
