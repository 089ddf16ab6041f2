"""From a file to a normalised batch, against torchvision's own transforms."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as reference

from training.transforms import augment, load_crop, normalize

HEIGHT, WIDTH = 32, 16


def noise(width=16, height=32):
    return np.random.default_rng(1).integers(1, 256, (height, width, 3), dtype=np.uint8)


def shifted(crop, *, pad, seed=0, flip_prob=0.0):
    return augment(crop, flip_prob=flip_prob, pad=pad, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("size", [(64, 128), (16, 32), (9, 20), (150, 301), (10, 200)])
def test_a_crop_is_resized_as_torchvision_resizes_it(tmp_path, size):
    image = Image.fromarray(noise(*size))
    image.save(tmp_path / "crop.png")
    wanted = reference.Resize((HEIGHT, WIDTH))(image)
    assert load_crop(tmp_path / "crop.png", height=HEIGHT, width=WIDTH).tobytes() == np.asarray(wanted).tobytes()


def test_a_file_that_is_no_image_is_refused_by_name(tmp_path):
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(ValueError, match=r"notes\.jpg: got a file that cannot be read as an image"):
        load_crop(tmp_path / "notes.jpg", height=HEIGHT, width=WIDTH)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
@pytest.mark.parametrize("kept", [0, 1, 20, 0.5, 0.9])
def test_a_truncated_file_is_refused_by_name(tmp_path, suffix, kept):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise(60, 90)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=rf"cut\.{suffix}: got a file that cannot be read as an image"):
        load_crop(path, height=HEIGHT, width=WIDTH)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.jpg: got a file that cannot be read"):
        load_crop(tmp_path / "gone.jpg", height=HEIGHT, width=WIDTH)


@pytest.mark.parametrize(("flip_prob", "wanted"), [(0.0, noise()), (1.0, noise()[:, ::-1])], ids=["never", "always"])
def test_the_flip_keeps_to_its_probability(flip_prob, wanted):
    for seed in range(20):
        assert np.array_equal(shifted(noise(), pad=0, seed=seed, flip_prob=flip_prob), wanted)


def test_half_the_crops_are_flipped_at_one_half():
    flipped = sum(not np.array_equal(shifted(noise(), pad=0, seed=seed, flip_prob=0.5), noise()) for seed in range(200))
    assert 70 < flipped < 130


def test_the_random_crop_reaches_every_offset_and_no_other():
    padded = np.pad(noise(), ((2, 2), (2, 2), (0, 0)))
    windows = {padded[top : top + 32, left : left + 16].tobytes(): (top, left) for top in range(5) for left in range(5)}
    offsets = {windows[shifted(noise(), pad=2, seed=seed).tobytes()] for seed in range(400)}
    assert offsets == {(top, left) for top in range(5) for left in range(5)}


def test_the_border_is_black():
    white = np.full((32, 16, 3), 255, np.uint8)
    crops = [shifted(white, pad=3, seed=seed) for seed in range(50)]
    assert {value for crop in crops for value in np.unique(crop).tolist()} == {0, 255}


def test_augmentation_depends_on_its_generator_alone():
    assert np.array_equal(shifted(noise(), pad=5, seed=3, flip_prob=0.5), shifted(noise(), pad=5, seed=3, flip_prob=0.5))


def test_augmentation_keeps_shape_and_type_and_leaves_its_input_alone():
    crop = noise()
    result = shifted(crop, pad=4, flip_prob=1.0)
    result[:] = 0
    assert (result.shape, result.dtype) == (crop.shape, np.uint8)
    assert np.array_equal(crop, noise())


def test_normalisation_agrees_with_torchvision():
    crops = np.stack([noise(), noise()[::-1]])
    imagenet = reference.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    single = reference.Compose([reference.ToTensor(), imagenet])
    wanted = torch.stack([single(Image.fromarray(crop)) for crop in crops])
    torch.testing.assert_close(normalize(torch.from_numpy(crops)).contiguous(), wanted, atol=1e-6, rtol=0)


def test_normalisation_leaves_its_input_alone_and_keeps_channels_last():
    crops = torch.from_numpy(noise()[None])
    result = normalize(crops)
    assert np.array_equal(crops[0].numpy(), noise())
    assert result.shape == (1, 3, 32, 16)
    assert result.is_contiguous(memory_format=torch.channels_last)
