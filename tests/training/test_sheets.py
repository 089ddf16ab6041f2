"""Rank lists and erased crops, pixel by pixel."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from training import sheets
from training.dataset import Dataset, Sample
from training.metrics import Evidence
from training.sheets import (
    CAPTION_HEIGHT,
    CORRECT,
    CROP_HEIGHT,
    CROP_WIDTH,
    FILE_HEIGHT,
    FRAME,
    PAPER,
    QUERY,
    QUERY_GAP,
    WRONG,
    common_folder,
    erasing_sheet,
    file_lines,
    tile_corner,
)

ROOT = "/"
GALLERY_COLOURS = {1: (200, 60, 60), 2: (60, 60, 200), 0: (120, 120, 40)}


def evidence_of(top, *, ap=None, is_valid=None):
    count = len(top)
    return Evidence(
        genuine_B=np.zeros(4, np.int64),
        impostor_B=np.zeros(4, np.int64),
        edges=np.linspace(-1, 1, 5),
        is_valid=np.ones(count, bool) if is_valid is None else np.array(is_valid),
        ap=np.linspace(1, 0.5, count) if ap is None else np.array(ap),
        first_hit=np.ones(count, np.int64),
        top_QK=np.array(top, np.int64),
        norms={},
    )


@pytest.fixture(name="data")
def data_fixture(tmp_path):
    """Two queries of identity 1 and 2; a gallery of identities 1, 2 and a distractor, each of one colour."""

    def sample(name, pid, camid):
        Image.new("RGB", (64, 128), GALLERY_COLOURS[pid]).save(tmp_path / name)
        return Sample(tmp_path / name, pid, camid)

    query = (sample("q1.png", 1, 1), sample("q2.png", 2, 1))
    gallery = (sample("g1.png", 1, 2), sample("g2.png", 2, 3), sample("g0.png", 0, 4))
    return Dataset(tmp_path, (), query, gallery, 0)


def drawn(path, top, data, queries=(0, 1)):
    sheets.rank_list(path, evidence_of(top), data, queries, title="title", subtitle="subtitle")
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return image.copy()


def corner_of(row, column):
    return tile_corner(row, column, gap_after_first=QUERY_GAP, caption_height=CAPTION_HEIGHT + FILE_HEIGHT)


def frame_of(image, row, column):
    left, top = corner_of(row, column)
    corners = {(left, top), (left + 2 * FRAME + CROP_WIDTH - 1, top + 2 * FRAME + CROP_HEIGHT - 1), (left + FRAME // 2, top + 50)}
    colours = {image.getpixel(corner) for corner in corners}
    assert len(colours) == 1
    return colours.pop()


def middle_of(image, row, column):
    left, top = corner_of(row, column)
    return image.getpixel((left + FRAME + CROP_WIDTH // 2, top + FRAME + CROP_HEIGHT // 2))


def test_frames_are_green_for_the_query_s_identity_and_red_for_others_and_distractors(tmp_path, data):
    image = drawn(tmp_path / "sheet.png", [[0, 1, 2], [0, 2, 1]], data)
    assert [frame_of(image, 0, column) for column in range(4)] == [QUERY, CORRECT, WRONG, WRONG]
    assert [frame_of(image, 1, column) for column in range(4)] == [QUERY, WRONG, WRONG, CORRECT]


def test_crops_stand_in_rank_order_behind_their_query(tmp_path, data):
    image = drawn(tmp_path / "sheet.png", [[0, 1, 2], [0, 2, 1]], data, queries=[1])
    assert [middle_of(image, 0, column) for column in range(4)] == [GALLERY_COLOURS[pid] for pid in (2, 1, 0, 2)]


def test_a_list_that_ends_early_leaves_paper(tmp_path, data):
    image = drawn(tmp_path / "sheet.png", [[0, -1, -1], [1, 0, -1]], data)
    assert [middle_of(image, 0, column) for column in (2, 3)] == [PAPER, PAPER]
    assert frame_of(image, 1, 2) == WRONG


def test_a_large_sheet_keeps_every_colour_exact(tmp_path, data):
    top = [[0, 1, 2] * 3 + [0], [1, 2, 0] * 3 + [1]]
    image = drawn(tmp_path / "sheet.png", top, data)
    assert [frame_of(image, 0, column) for column in range(11)] == [QUERY, *[CORRECT, WRONG, WRONG] * 3, CORRECT]
    assert image.getpixel((0, 0)) == PAPER
    assert [middle_of(image, 0, column) for column in (1, 2, 3)] == [GALLERY_COLOURS[pid] for pid in (1, 2, 0)]


def test_a_crop_s_file_is_named_below_it(tmp_path, data):
    image = np.asarray(drawn(tmp_path / "sheet.png", [[0, 1], [1, -1]], data))
    for row, column, is_named in ((0, 0, True), (0, 2, True), (1, 1, True), (1, 2, False)):
        left, top = corner_of(row, column)
        below = top + CROP_HEIGHT + 2 * FRAME + CAPTION_HEIGHT - 8
        assert (image[below : below + FILE_HEIGHT, left : left + CROP_WIDTH].min() < 200) == is_named


def test_files_are_named_from_the_folder_that_holds_all_crops(tmp_path, data):
    gallery = tuple(Sample(tmp_path / name, 1, 1) for name in ("anna/yard/1.png", "ben/yard/1.png"))
    assert common_folder(gallery) == str(tmp_path)
    tiles = sheets.match_tiles(data, evidence_of([[0, 1, 2]]), 0, common_folder(data.gallery))
    assert [tile.file for tile in tiles] == ["g1.png", "g2.png", "g0.png"]
    assert sheets.query_tile(data, evidence_of([[0]]), 0, str(tmp_path.parent)).file == f"{tmp_path.name}/q1.png"


def test_relative_and_absolute_files_have_a_common_folder(tmp_path, data):
    assert common_folder([*data.gallery, replace(data.gallery[0], path=Path("crop.png"))])


@pytest.mark.parametrize(
    ("file", "lines"),
    [
        ("1.png", ("1.png", "")),
        ("0003_c4s1_000001_00.jpg", ("0003_c4s1_0000", "01_00.jpg")),
        ("person0005/c1_000001.jpg", ("person0005/", "c1_000001.jpg")),
        ("anna\n/\udcff.jpg", ("anna?/", "?.jpg")),
    ],
)
def test_a_file_s_name_takes_two_lines(file, lines):
    assert file_lines(file, width=79) == lines


def test_a_name_that_does_not_fit_loses_its_middle():
    folder, name = file_lines("person_of_a_very_long_name/camera_in_the_yard_000001.jpg", width=79)
    assert folder.startswith("pers") and folder.endswith("me/")
    assert name.startswith("cam") and name.endswith("1.jpg")
    assert max(ImageFont.load_default(sheets.FILE_SIZE).getlength(line) for line in (folder, name)) <= 79


def test_every_match_is_told_without_colour_too():
    tick, cross = (np.asarray(sheets.mark(is_correct=told), np.int64) for told in (True, False))
    assert tick.max() > 200
    assert np.abs(cross - cross[:, ::-1]).max() < 60  # a cross is its own mirror image
    assert np.abs(tick - tick[:, ::-1]).max() > 200


def test_a_distractor_says_so_and_others_give_their_pid(data):
    captions = [tile.caption for tile in sheets.match_tiles(data, evidence_of([[0, 2]]), 0, ROOT)]
    assert captions == [("pid 1", "cam 2"), ("distractor", "cam 4")]


def test_a_distractor_is_wrong_even_for_a_query_of_its_number(data):
    tile = sheets.match_tile(data.gallery[2], ROOT, pid=0, has_cameras=True)
    assert (tile.is_correct, tile.frame) == (False, WRONG)


def test_without_cameras_no_camera_is_named(data):
    data, evidence = replace(data, has_cameras=False), evidence_of([[0]])
    assert sheets.match_tiles(data, evidence, 0, ROOT)[0].caption == ("pid 1", "")
    assert sheets.query_tile(data, evidence, 0, ROOT).caption == ("pid 1", "AP 100.0 %")


def test_a_crop_that_cannot_be_read_is_named(tmp_path, data):
    data.gallery[1].path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"g2\.png"):
        drawn(tmp_path / "sheet.png", [[0, 1], [0, 1]], data)
    assert not (tmp_path / "sheet.png").exists()


def test_no_query_is_refused(tmp_path, data):
    with pytest.raises(ValueError, match="title: got no crop to draw"):
        drawn(tmp_path / "sheet.png", [[0], [1]], data, queries=[])


def test_best_and_worst_go_by_ap_among_valid_queries():
    evidence = evidence_of([[0]] * 5, ap=[0.5, 0.9, 0.0, 0.1, 0.7], is_valid=[True, True, False, True, True])
    pids = np.arange(5)
    assert sheets.pick_queries(evidence, pids, "best", count=3) == [1, 4, 0]
    assert sheets.pick_queries(evidence, pids, "worst", count=3) == [3, 0, 4]


def test_each_identity_gives_one_query_before_any_gives_two():
    evidence = evidence_of([[0]] * 5, ap=[1.0, 1.0, 0.9, 0.8, 0.2])
    pids = np.array([7, 7, 7, 8, 9])
    assert sheets.pick_queries(evidence, pids, "best", count=4) == [0, 3, 4, 1]
    assert sheets.pick_queries(evidence, pids, "best", count=9) == [0, 3, 4, 1, 2]


def test_random_queries_are_valid_and_drawn_by_seed():
    evidence = evidence_of([[0]] * 40, is_valid=[place % 2 == 0 for place in range(40)])
    pids = np.zeros(40, int)
    chosen = sheets.pick_queries(evidence, pids, "random")
    assert chosen == sheets.pick_queries(evidence, pids, "random")
    assert len(set(chosen)) == 5
    assert all(place % 2 == 0 for place in chosen)
    assert any(sheets.pick_queries(evidence, pids, "random", seed=seed) != chosen for seed in (1, 2, 3))


def test_an_erasing_sheet_shows_each_crop_above_its_erased_version(tmp_path):
    crops = np.full((5, 128, 64, 3), 200, np.uint8)
    erased = crops.copy()
    erased[1, 32:96, 16:48] = (10, 20, 30)
    with Image.open(erasing_sheet(tmp_path / "erasing.png", crops, erased)) as image:
        for row, column, colour in ((0, 1, (200,) * 3), (1, 1, (10, 20, 30)), (1, 2, (200,) * 3)):
            left, top = tile_corner(row, column)
            assert image.getpixel((left + FRAME + CROP_WIDTH // 2, top + FRAME + CROP_HEIGHT // 2)) == colour


@pytest.mark.parametrize(
    ("crops", "erased"),
    [
        (np.zeros((2, 8, 4, 3), np.uint8), np.zeros((1, 8, 4, 3), np.uint8)),
        (np.zeros((2, 8, 4, 3), np.float32), np.zeros((2, 8, 4, 3), np.float32)),
        (np.zeros((2, 3, 8, 4), np.uint8), np.zeros((2, 3, 8, 4), np.uint8)),
        (np.zeros((0, 8, 4, 3), np.uint8), np.zeros((0, 8, 4, 3), np.uint8)),
    ],
    ids=["unequal", "floats", "channels first", "none"],
)
def test_other_crops_are_refused(tmp_path, crops, erased):
    with pytest.raises(ValueError, match="got"):
        erasing_sheet(tmp_path / "erasing.png", crops, erased)
    assert list(Path(tmp_path).iterdir()) == []
