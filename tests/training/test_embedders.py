"""From files to rows: decoding order, features, mirrors, lengths."""

import numpy as np
import pytest
import torch

from training import transforms
from training.dataset import Sample, read_dataset
from training.embedders import Embedder, batches, embed_samples, torch_embedder

SIZE = {"height": 64, "width": 32}


def first_pixels(crops):
    """A double of a model: the first pixel of a crop, and twice that under another name."""
    return {"f_t": 2 * crops[:, 0, 0].astype(np.float32), "f_i": crops[:, 0, 0].astype(np.float32)}


@pytest.fixture(name="crops")
def crops_fixture():
    return np.random.default_rng(0).integers(1, 256, (3, 64, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_batches_hold_every_crop_once_and_in_order(drawn, size):
    samples = read_dataset(drawn).train
    wanted = np.stack([transforms.load_crop(sample.path, **SIZE) for sample in samples])
    several = list(batches(samples, size=size, **SIZE))
    assert np.array_equal(np.concatenate(several), wanted)
    assert [len(batch) for batch in several] == [min(size, len(samples) - start) for start in range(0, len(samples), size)]


def test_samples_are_embedded_batch_by_batch(drawn):
    samples = read_dataset(drawn).train[:5]
    rows = embed_samples(lambda crops: first_pixels(crops)["f_i"], samples, batch_size=2, name="", **SIZE)
    wanted = np.stack([transforms.load_crop(sample.path, **SIZE)[0, 0] for sample in samples])
    assert (rows.dtype, rows.tolist()) == (np.float32, wanted.tolist())


def test_a_crop_that_cannot_be_read_ends_the_evaluation_with_its_name(drawn, tmp_path):
    samples = read_dataset(drawn).train[:2]
    (tmp_path / "0002_c1.jpg").write_bytes(b"")
    broken = Sample(tmp_path / "0002_c1.jpg", 2, 1)
    with pytest.raises(ValueError, match=r"0002_c1\.jpg: got a file that cannot be read"):
        embed_samples(Embedder(first_pixels), [*samples, broken], name="", batch_size=1, **SIZE)


def test_an_empty_list_is_refused_by_its_name():
    with pytest.raises(ValueError, match="embed gallery: got no crop, wanted at least one"):
        embed_samples(Embedder(first_pixels), [], name="embed gallery", batch_size=1, **SIZE)


@pytest.mark.parametrize("feature", ["f_t", "f_i"])
def test_an_embedder_gives_its_feature_raw_or_scaled(crops, feature):
    raw = Embedder(first_pixels, feature=feature, normalize=False)(crops)
    assert np.array_equal(raw, first_pixels(crops)[feature])
    unit = Embedder(first_pixels, feature=feature)(crops)
    assert unit == pytest.approx(raw / np.linalg.norm(raw, axis=1, keepdims=True))


def test_a_flip_averages_a_crop_and_its_mirror_before_scaling(crops):
    both = (crops[:, 0, 0].astype(np.float32) + crops[:, 0, -1]) / 2
    assert np.array_equal(Embedder(first_pixels, flip=True, normalize=False)(crops), both)
    unit = both / np.linalg.norm(both, axis=1, keepdims=True)
    assert Embedder(first_pixels, flip=True)(crops) == pytest.approx(unit)


def test_a_flip_makes_a_crop_and_its_mirror_equal(tiny, crops):
    embed = torch_embedder(tiny().eval(), flip=True)
    assert embed(crops) == pytest.approx(embed(crops[:, :, ::-1].copy()), abs=1e-5)


def test_lengths_are_those_before_scaling_and_are_handed_over_once(crops):
    embed = Embedder(first_pixels)
    embed(crops[:1])
    embed(crops[1:])
    norms = embed.take_norms()
    wanted = np.linalg.norm(crops[:, 0, 0].astype(float), axis=1)
    assert (norms["f_i"], norms["f_t"]) == (pytest.approx(wanted), pytest.approx(2 * wanted))
    assert embed.take_norms() == {}


def test_unit_rows_of_an_artefact_tell_no_lengths(crops):
    embed = Embedder(first_pixels, is_raw=False)
    embed(crops)
    assert embed.take_norms() == {}


def test_a_zero_row_stays_zero_and_harms_no_other():
    embed = Embedder(lambda crops: {"f_i": np.array([[0, 0], [3, 4]], np.float32)})
    assert embed(np.zeros((2, 1, 1, 3), np.uint8)).tolist() == [[0, 0], pytest.approx([0.6, 0.8])]


def test_the_reference_gives_the_models_features(tiny, crops):
    model = tiny().eval()
    with torch.inference_mode():
        output = model(transforms.normalize(torch.from_numpy(crops)))
    for feature, wanted in (("f_t", output.f_t_BC), ("f_i", output.f_i_BC)):
        rows = torch_embedder(model, feature=feature, normalize=False)(crops)
        assert (rows.shape, rows.dtype) == ((3, 512), np.float32)
        assert rows == pytest.approx(wanted.numpy(), abs=1e-6)


def test_the_reference_embeds_unit_rows_of_f_i_unless_told_otherwise(tiny, crops):
    rows = torch_embedder(tiny().eval())(crops)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    f_i = torch_embedder(tiny().eval(), normalize=False)(crops)
    assert rows == pytest.approx(f_i / np.linalg.norm(f_i, axis=1, keepdims=True), abs=1e-6)


def test_a_model_in_training_mode_is_refused(tiny):
    with pytest.raises(ValueError, match="got a model in training mode, wanted model.eval()"):
        torch_embedder(tiny().train())
