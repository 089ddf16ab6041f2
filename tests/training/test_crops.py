"""Decoded or as files, a store gives the same crops; unreadable files are named."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from training.crops import (
    MAX_UNREADABLE,
    SHOWN,
    Decoded,
    Files,
    available_memory,
    check_readable,
    choose,
    open_store,
    report_unreadable,
)
from training.dataset import Sample
from training.transforms import load_crop

CPU = torch.device("cpu")
HEIGHT, WIDTH = 16, 8
ORDER = [[3, 0], [5, 5], [1, 2, 4]]


@pytest.fixture(scope="module", name="samples")
def samples_fixture(tmp_path_factory):
    """Six files of noise, not in the order of their names."""
    folder, rng = tmp_path_factory.mktemp("crops"), np.random.default_rng(3)
    paths = [folder / f"{(5 * number) % 7}.png" for number in range(6)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (20, 10, 3), dtype=np.uint8)).save(path)
    return [Sample(path, pid, 1) for pid, path in enumerate(paths)]


def opened(samples, *, where="files", workers=0, device=CPU):
    return open_store(samples, height=HEIGHT, width=WIDTH, where=where, workers=workers, device=device)


def pixels(samples):
    return np.stack([load_crop(sample.path, height=HEIGHT, width=WIDTH) for sample in samples])


def with_bad(samples, num_good, num_bad, folder):
    """`num_good` readable samples and `num_bad` that are not, the first of these put in front."""
    bad = [Sample(folder / f"bad{number}.jpg", 90 + number, 1) for number in range(num_bad)]
    for sample in bad:
        sample.path.write_text("not a picture")
    return [*bad[:1], *(samples[number % len(samples)] for number in range(num_good)), *bad[1:]]


@pytest.mark.parametrize(
    ("where", "workers", "kind"),
    [("auto", 0, Decoded), ("device", 0, Decoded), ("host", 0, Decoded), ("files", 0, Files), ("files", 1, Files)],
)
def test_every_store_gives_the_same_batches(samples, where, workers, kind):
    store, readable = opened(samples, where=where, workers=workers)
    assert (type(store), readable) == (kind, tuple(samples))
    got = list(store.batches(ORDER))
    assert [batch.dtype for batch in got] == [torch.uint8] * 3
    for batch, chosen in zip(got, ORDER, strict=True):
        assert np.array_equal(batch.numpy(), pixels(samples)[chosen])


@pytest.mark.parametrize("where", ["device", "files"])
def test_a_store_gives_its_batches_again_and_none_for_an_empty_order(samples, where):
    store, _ = opened(samples, where=where)
    first, again = (torch.cat(list(store.batches(ORDER))) for _ in range(2))
    assert torch.equal(first, again)
    assert list(store.batches([])) == []


def test_a_batch_may_be_changed_without_changing_the_store(samples):
    store, _ = opened(samples, where="device")
    for batch in store.batches([[0, 1]]):
        batch.zero_()
    assert np.array_equal(store.crops.numpy(), pixels(samples))


def test_crops_on_the_device_are_served_from_there_under_any_of_its_names(samples):
    store = Decoded(torch.from_numpy(pixels(samples)), torch.device("cpu", 0))  # as "cuda" becomes "cuda:0"
    assert np.array_equal(torch.cat(list(store.batches([[2], [1]]))).numpy(), pixels(samples)[[2, 1]])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_became_unreadable_is_refused_by_name(samples, tmp_path, workers):
    gone = Sample(tmp_path / "gone.jpg", 1, 1)
    store = Files((*samples, gone), HEIGHT, WIDTH, workers, CPU)
    with pytest.raises(ValueError, match=r"gone\.jpg: got a file that cannot be read as an image"):
        list(store.batches([[0, 6]]))


@pytest.mark.parametrize("where", ["device", "files"])
def test_an_unreadable_file_in_a_hundred_is_named_and_left_out(samples, tmp_path, capsys, where):
    listed = with_bad(samples, 99, 1, tmp_path)
    store, readable = opened(listed, where=where)
    assert readable == tuple(listed[1:])
    printed = capsys.readouterr().err
    assert "left out 1 unreadable files of 100:" in printed
    assert "bad0.jpg: got a file that cannot be read" in printed
    (batch,) = store.batches([[0, 7, 98]])
    assert np.array_equal(batch.numpy(), pixels([readable[index] for index in (0, 7, 98)]))


@pytest.mark.parametrize("where", ["device", "files"])
def test_more_unreadable_files_are_refused_by_name(samples, tmp_path, where):
    with pytest.raises(ValueError, match=r"got 2 unreadable files of 8, wanted at most 0:\n  .*bad0\.jpg.*\n  .*bad1\.jpg"):
        opened(with_bad(samples, 6, 2, tmp_path), where=where)


@pytest.mark.parametrize(("num_bad", "total"), [(1, 99), (3, 299), (101, 10_000)])
def test_the_limit_of_unreadable_files_is_one_in_a_hundred(num_bad, total):
    report_unreadable(["bad.jpg"] * num_bad, 100 * num_bad)
    with pytest.raises(ValueError, match=f"got {num_bad} unreadable files of {total}, wanted at most {num_bad - 1}:"):
        report_unreadable(["bad.jpg"] * num_bad, total)


def test_only_the_first_unreadable_files_are_named(capsys):
    errors = [f"{number}.jpg: got nothing" for number in range(SHOWN + 2)]
    report_unreadable(errors, int(len(errors) / MAX_UNREADABLE))
    lines = capsys.readouterr().err.splitlines()
    named = [line.split(":")[0].strip() for line in lines[-SHOWN - 1 :]]
    assert named == [*(f"{number}.jpg" for number in range(SHOWN)), "... and 2 more"]


def test_nothing_is_said_when_every_file_can_be_read(capsys):
    report_unreadable([], 3)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("num_bytes", "wanted"), [(0, "device"), (2**60, "files")])
def test_decoded_crops_are_kept_where_memory_suffices(num_bytes, wanted):
    assert choose("auto", num_bytes, CPU) == wanted


@pytest.mark.parametrize("where", ["device", "host", "files"])
def test_a_place_that_is_asked_for_is_taken_whatever_its_size(where):
    assert choose(where, 2**60, CPU) == choose(where, 0, CPU) == where


def test_the_available_memory_is_a_part_of_the_machines():
    assert 0 < available_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_store_says_where_its_crops_are(samples):
    assert opened(samples, where="device")[0].told() == "6 crops decoded in the memory of cpu: 0.00 GB"
    assert opened(samples, workers=2)[0].told() == "6 crops stay files, decoded by 2 processes as they are needed"


def test_test_lists_may_not_lack_a_crop(samples, tmp_path):
    check_readable(samples, height=HEIGHT, width=WIDTH)
    with pytest.raises(
        ValueError,
        match=r"test lists: got 7 unreadable files of 17, wanted none; replace or remove them:(\n  .*bad\d\.jpg.*){7}$",
    ):
        check_readable(with_bad(samples, 10, 7, tmp_path), height=HEIGHT, width=WIDTH)
