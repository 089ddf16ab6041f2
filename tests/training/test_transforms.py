"""From a file to a normalised batch, against torchvision's own transforms, and augmentation against a crop-by-crop reference."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as reference

from training.config import TrainConfig
from training.transforms import Draws, augment, draw, draw_boxes, load_crop, normalize

HEIGHT, WIDTH = 48, 32
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
BLACK = (-2.1179, -2.0357, -1.8044)  # 0 after normalisation
PLAIN = TrainConfig(height=HEIGHT, width=WIDTH, pad=0, flip_prob=0.0, erasing_prob=0.0)


def noise(width=WIDTH, height=HEIGHT, seed=1):
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)


def batch(count=1):
    return torch.from_numpy(np.stack([noise(seed=seed) for seed in range(count)]))


def drawn(count, *, seed=0, **changes):
    return draw(replace(PLAIN, **changes), count, np.random.default_rng(seed))


def by_hand(count=1, *, flip=False, top=0, left=0, box=(0, 0, 0, 0)):
    """The same draws for every crop."""
    return Draws(np.full(count, flip), np.full(count, top), np.full(count, left), np.tile(np.array(box), (count, 1)))


# Reading.


@pytest.mark.parametrize("size", [(64, 128), (WIDTH, HEIGHT), (9, 20), (150, 301), (10, 200)])
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


# Chances.


@pytest.mark.parametrize("name", ["flip_prob", "erasing_prob"])
@pytest.mark.parametrize(("prob", "low", "high"), [(0.0, 0, 0), (0.5, 1800, 2200), (0.1, 300, 500), (1.0, 4000, 4000)])
def test_flip_and_erasing_keep_to_their_probability(name, prob, low, high):
    draws = drawn(4000, **{name: prob})
    taken = {"flip_prob": draws.flip, "erasing_prob": draws.box[:, 2] > 0}
    assert low <= taken.pop(name).sum() <= high
    assert not any(other.any() for other in taken.values())


def test_flip_and_erasing_are_drawn_apart():
    draws = drawn(4000, flip_prob=0.5, erasing_prob=0.5)
    assert 900 < (draws.flip & (draws.box[:, 2] > 0)).sum() < 1100


def test_the_random_crop_reaches_every_offset_and_no_other():
    draws = drawn(2000, pad=2)
    assert set(zip(draws.top.tolist(), draws.left.tolist(), strict=True)) == {
        (top, left) for top in range(5) for left in range(5)
    }


def test_chances_depend_on_the_generator_alone():
    chances = [drawn(50, seed=seed, pad=5, flip_prob=0.5, erasing_prob=0.5) for seed in (3, 3, 4)]
    images = [augment(batch(50), one, pad=5, fill="code") for one in chances]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


@pytest.mark.parametrize(("height", "width"), [(256, 128), (128, 256), (32, 32), (224, 224)])
def test_erased_boxes_keep_to_area_aspect_and_crop(height, width):
    top, left, tall, wide = draw_boxes(height, width, 5000, np.random.default_rng(0)).T
    slack = (tall + wide) / 2  # each side is rounded to a pixel
    assert np.all(tall * wide > 0.02 * height * width - slack) and np.all(tall * wide < 0.4 * height * width + slack)
    assert np.all((tall + 0.5) / (wide - 0.5) > 0.3) and np.all((tall - 0.5) / (wide + 0.5) < 1 / 0.3)
    assert min(tall.min(), wide.min()) > 0 and tall.max() < height and wide.max() < width
    assert (top.min(), left.min()) == (0, 0)
    assert np.all(top + tall <= height) and np.all(left + wide <= width)
    assert (top + tall).max() == height and (left + wide).max() == width


def boxes_by_loops(height, width, count):
    """Random erasing as Zhong et al. and the released code have it: try by try."""
    rng, boxes = random.Random(1), []
    while len(boxes) < count:
        area, aspect = rng.uniform(0.02, 0.4) * height * width, rng.uniform(0.3, 1 / 0.3)
        tall, wide = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if tall < height and wide < width:
            boxes.append((rng.randint(0, height - tall), rng.randint(0, width - wide), tall, wide))
    return np.array(boxes)


def largest_gap(own, other):
    """The largest difference of two samples' cumulative shares (Kolmogorov and Smirnov)."""
    places = np.concatenate([own, other])
    shares = [np.searchsorted(np.sort(values), places, side="right") / len(values) for values in (own, other)]
    return np.abs(shares[0] - shares[1]).max()


@pytest.mark.parametrize(("height", "width"), [(256, 128), (64, 192)])
def test_erased_boxes_are_distributed_as_those_of_a_loop(height, width):
    got, wanted = draw_boxes(height, width, 10_000, np.random.default_rng(0)), boxes_by_loops(height, width, 10_000)
    kinds = [np.column_stack([boxes, boxes[:, 2] * boxes[:, 3], boxes[:, 2] / boxes[:, 3]]).T for boxes in (got, wanted)]
    gaps = [largest_gap(own, other) for own, other in zip(*kinds, strict=True)]
    assert max(gaps) < 0.03  # by chance once in ten thousand; a log-uniform aspect comes to more than 0.2


def test_no_box_is_erased_where_none_is_strictly_smaller_than_the_crop():
    boxes = draw_boxes(400, 1, 50, np.random.default_rng(0))
    assert np.all(boxes[:, 2:] == 0)
    image = augment(torch.zeros(50, 400, 1, 3, dtype=torch.uint8), replace(by_hand(50), box=boxes), pad=0, fill="code")
    torch.testing.assert_close(image[:, :, 0, 0], torch.tensor(BLACK).expand(50, 3), atol=1e-4, rtol=0)


# Their effect.


def augmented_by_loops(crop, *, flip, top, left, box, pad, fill):
    """One crop after another in numpy, in the released code's order; float32 [3, H, W]."""
    height, width = crop.shape[:2]
    padded = np.pad(crop[:, ::-1] if flip else crop, ((pad, pad), (pad, pad), (0, 0)))
    image = (padded[top : top + height, left : left + width].astype(np.float32) - MEAN * 255) / (STD * 255)
    first_row, first_column, tall, wide = box
    image[first_row : first_row + tall, first_column : first_column + wide] = MEAN if fill == "code" else 0
    return image.transpose(2, 0, 1)


@pytest.mark.parametrize("fill", ["code", "mean"])
@pytest.mark.parametrize("pad", [0, 3, 10])
def test_a_batch_is_augmented_bit_for_bit_as_crop_by_crop(pad, fill):
    crops, draws = batch(64), drawn(64, pad=pad, flip_prob=0.5, erasing_prob=0.5)
    got = augment(crops, draws, pad=pad, fill=fill)
    for row, crop in enumerate(crops.numpy()):
        own = {"flip": draws.flip[row], "top": draws.top[row], "left": draws.left[row], "box": draws.box[row]}
        assert got[row].numpy().tobytes() == augmented_by_loops(crop, **own, pad=pad, fill=fill).tobytes()


def test_a_part_of_a_batch_is_augmented_as_within_the_batch():
    crops, draws = batch(12), drawn(12, pad=4, flip_prob=0.5, erasing_prob=0.8)
    whole = augment(crops, draws, pad=4, fill="code")
    parts = [slice(0, 4), slice(4, 8), slice(8, 12)]
    again = [augment(crops[part], draws.rows(part), pad=4, fill="code") for part in parts]
    assert torch.equal(torch.cat(again), whole)


@pytest.mark.parametrize(("flip", "wanted"), [(False, batch()), (True, batch().flip(2))], ids=["never", "always"])
def test_a_flip_is_left_to_right(flip, wanted):
    assert torch.equal(augment(batch(), by_hand(flip=flip), pad=0, fill="code"), normalize(wanted))


def test_a_crop_in_the_middle_of_its_border_is_not_shifted():
    assert torch.equal(augment(batch(), by_hand(top=7, left=7), pad=7, fill="code"), normalize(batch()))


def test_the_border_is_black_before_normalisation_and_so_not_zero_after_it():
    white = torch.full((1, HEIGHT, WIDTH, 3), 255, dtype=torch.uint8)
    image = augment(white, by_hand(top=0, left=6), pad=3, fill="code")[0]  # 3 rows down, 3 columns to the left
    border = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    border[3:, :-3] = False
    for channel, black, shown in zip(image, BLACK, (-2.118, -2.036, -1.804), strict=True):
        assert torch.all(channel[border] == channel[0, 0])
        assert channel[0, 0].item() == pytest.approx(black, abs=1e-4) == pytest.approx(shown, abs=1e-3)
        assert torch.all(channel[~border] > 2)


@pytest.mark.parametrize(("fill", "wanted"), [("code", (0.485, 0.456, 0.406)), ("mean", (0, 0, 0))])
def test_the_erased_box_is_filled_after_normalisation(fill, wanted):
    image = augment(batch(), by_hand(box=(5, 2, 9, 4)), pad=0, fill=fill)[0]
    assert torch.equal(image[:, 5:14, 2:6], torch.tensor(wanted)[:, None, None].expand(3, 9, 4))
    changed = (image != normalize(batch())[0]).all(dim=0)
    assert (changed.sum(), changed[5:14, 2:6].all()) == (9 * 4, True)


@pytest.mark.parametrize(("fill", "pixel"), [("code", (152, 142, 127)), ("mean", (124, 116, 104))])
def test_the_released_fill_is_brighter_than_the_mean_in_pixels(fill, pixel):
    image = augment(batch(), by_hand(box=(0, 0, 1, 1)), pad=0, fill=fill)[0]
    assert np.allclose((image[:, 0, 0].numpy() * STD + MEAN) * 255, pixel, atol=0.7)


def test_augmentation_leaves_its_input_alone_and_keeps_channels_last():
    crops = batch(3)
    result = augment(crops, by_hand(3, flip=True, top=1, left=3, box=(1, 1, 5, 5)), pad=2, fill="code")
    assert (result.shape, result.dtype) == ((3, 3, HEIGHT, WIDTH), torch.float32)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(crops, batch(3))


# Normalisation.


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
    assert result.shape == (1, 3, HEIGHT, WIDTH)
    assert result.is_contiguous(memory_format=torch.channels_last)
