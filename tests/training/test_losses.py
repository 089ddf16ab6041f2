"""The losses against loops over every pair, by hand, and against pytorch-metric-learning where it has them."""

import pytest
import torch

from training.losses import batch_hard_triplet, center_loss, euclidean, smoothed_cross_entropy


def random_case(seed, *, ids=3, crops=3, dim=5):
    """A batch of `ids` identities x `crops` crops, mixed, each feature of another size."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(ids * crops, dim, generator=generator) * torch.rand(ids * crops, 1, generator=generator) * 3
    labels = torch.arange(ids).repeat_interleave(crops)
    return features, labels[torch.randperm(ids * crops, generator=generator)]


# Batch-hard triplet.


def triplet_by_loops(features, labels, margin):
    total = 0.0
    for anchor in range(len(labels)):
        gaps = [torch.dist(features[anchor], features[other]).item() for other in range(len(labels))]
        hardest_positive = max(gap for gap, label in zip(gaps, labels, strict=True) if label == labels[anchor])
        hardest_negative = min(gap for gap, label in zip(gaps, labels, strict=True) if label != labels[anchor])
        total += max(0.0, margin + hardest_positive - hardest_negative)
    return total / len(labels)


@pytest.mark.parametrize("seed", range(20))
def test_the_triplet_loss_equals_a_loop_over_all_pairs(seed):
    features, labels = random_case(seed)
    wanted = triplet_by_loops(features.double(), labels, 0.3)
    assert batch_hard_triplet(features, labels, margin=0.3).item() == pytest.approx(wanted, abs=1e-4)


@pytest.fixture(scope="module", name="library_triplet")
def library_triplet_fixture():
    """The batch-hard triplet loss of pytorch-metric-learning, averaged over every triplet, those without error too."""
    from pytorch_metric_learning import distances, losses, miners, reducers  # slow to import: only where it is used

    distance = distances.LpDistance(normalize_embeddings=False, p=2, power=1)
    miner = miners.BatchHardMiner(distance=distance)
    loss = losses.TripletMarginLoss(margin=0.3, distance=distance, reducer=reducers.MeanReducer())
    return lambda features, labels: loss(features, labels, miner(features, labels))


@pytest.mark.parametrize("seed", range(5))
def test_the_triplet_loss_and_its_gradient_are_those_of_pytorch_metric_learning(library_triplet, seed):
    features, labels = random_case(seed, ids=4, crops=4, dim=16)
    own, other = features.clone().requires_grad_(), features.clone().requires_grad_()
    got, wanted = batch_hard_triplet(own, labels, margin=0.3), library_triplet(other, labels)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    got.backward()
    wanted.backward()
    assert other.grad.abs().max() > 0
    torch.testing.assert_close(own.grad, other.grad, atol=1e-4, rtol=1e-4)


def test_unlike_pytorch_metric_learning_an_identity_alone_in_the_batch_is_an_anchor_too(library_triplet):
    features, labels = torch.tensor([[0.0], [0.2], [5.0]]), torch.tensor([0, 1, 1])  # theirs averages over two anchors
    assert library_triplet(features, labels).item() == pytest.approx((4.9 + 0.1) / 2, abs=1e-5)
    assert batch_hard_triplet(features, labels, margin=0.3).item() == pytest.approx((0.1 + 4.9 + 0.1) / 3, abs=1e-5)


def test_the_triplet_loss_of_a_worked_example():
    # On a line: identity 0 at 0 and 2, identity 1 at 3 and 7. Positives: 2, 2, 4, 4; nearest negatives: 3, 1, 1, 5.
    features, labels = torch.tensor([[0.0], [2.0], [3.0], [7.0]]), torch.tensor([0, 0, 1, 1])
    assert batch_hard_triplet(features, labels, margin=0.5).item() == pytest.approx((0 + 1.5 + 3.5 + 0) / 4, abs=1e-6)


def test_the_triplet_loss_ends_where_the_margin_is_kept():
    features, labels = torch.tensor([[0.0], [1.0], [9.0], [10.0]]), torch.tensor([0, 0, 1, 1])
    assert batch_hard_triplet(features, labels, margin=0.3).item() == 0


def test_features_are_not_normalised_by_the_triplet_loss():
    features, labels = random_case(0)
    assert batch_hard_triplet(2 * features, labels, margin=0.6) == pytest.approx(
        2 * batch_hard_triplet(features, labels, margin=0.3).item(), abs=1e-5
    )


@pytest.mark.parametrize("seed", range(5))
def test_loss_and_gradient_are_finite_for_identical_features(seed):
    same = torch.randn(1, 8, generator=torch.Generator().manual_seed(seed))  # rounding makes some squares negative
    features = same.repeat(4, 1).requires_grad_()
    loss = batch_hard_triplet(features, torch.tensor([0, 0, 1, 1]), margin=0.3)
    loss.backward()
    assert loss.item() == pytest.approx(0.3, abs=1e-2)
    assert torch.isfinite(features.grad).all()


def test_the_gradient_pulls_positives_together_and_pushes_negatives_away():
    features = torch.tensor([[0.0], [2.0], [3.0]], requires_grad=True)
    batch_hard_triplet(features, torch.tensor([0, 0, 1]), margin=0.3).backward()
    assert features.grad[1].item() > 0  # towards 0, away from 3
    assert features.grad[2].item() < 0


def test_a_batch_of_one_identity_is_refused():
    with pytest.raises(ValueError, match="got a batch of 3 crops of one identity, wanted at least two identities"):
        batch_hard_triplet(torch.randn(3, 4), torch.tensor([7, 7, 7]), margin=0.3)


@pytest.mark.parametrize("seed", range(5))
def test_distances_are_euclidean(seed):
    features, _ = random_case(seed)
    got, wanted = euclidean(features), torch.cdist(features.double(), features.double()).float()
    assert got.diagonal().max() < 1e-2  # rounding under a square root
    torch.testing.assert_close(got.fill_diagonal_(0), wanted, atol=1e-4, rtol=1e-4)


def test_a_distance_of_zero_is_clamped_before_the_root():
    assert euclidean(torch.ones(2, 4)).tolist() == [[pytest.approx(1e-6)] * 2] * 2


# ID loss.


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_the_smoothed_cross_entropy_is_the_formula(epsilon):
    logits, labels = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 4, 2])
    total = 0.0
    for row, label in zip(logits.double(), labels, strict=True):
        log_share = row - row.exp().sum().log()
        total -= sum(((1 - epsilon) * (identity == label) + epsilon / 5) * log_share[identity] for identity in range(5)).item()
    assert smoothed_cross_entropy(logits, labels, epsilon=epsilon).item() == pytest.approx(total / 6, abs=1e-5)


# Center loss: pytorch-metric-learning has none with centers apart from the classifier, so a loop is the reference.


def center_by_loops(features, labels, centers):
    return sum(
        sum((value - middle) ** 2 for value, middle in zip(feature.tolist(), centers[label].tolist(), strict=True))
        for feature, label in zip(features, labels, strict=True)
    ) / len(labels)


@pytest.mark.parametrize("seed", range(5))
def test_the_center_loss_is_the_mean_over_the_batch_and_not_half_the_sum(seed):
    features, labels = random_case(seed)
    centers = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))
    wanted = center_by_loops(features.double(), labels, centers.double())
    assert center_loss(features, labels, centers).item() == pytest.approx(wanted, rel=1e-5)


def test_the_center_loss_of_a_worked_example():
    features, labels = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([1, 0])
    centers = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert center_loss(features, labels, centers).item() == (1 + 4) / 2


def test_at_a_batch_of_64_the_papers_center_loss_would_be_32_times_ours():
    features, labels = random_case(0, ids=16, crops=4)
    centers = torch.zeros(16, 5)
    printed = 0.5 * features.pow(2).sum()
    assert printed.item() == pytest.approx(32 * center_loss(features, labels, centers).item(), rel=1e-5)


def test_a_center_is_pulled_by_its_own_crops_and_an_absent_one_by_none():
    features, labels = random_case(0, ids=16, crops=4)
    centers = torch.randn(17, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    center_loss(features, labels, centers).backward()
    means = torch.stack([features[labels == pid].mean(dim=0) for pid in range(16)])
    wanted = (centers.detach()[:16] - means) / 8  # 2 K / B; times the rate 0.5: 1/16 of the way
    torch.testing.assert_close(centers.grad[:16], wanted)
    assert torch.all(centers.grad[16] == 0)


def test_the_center_loss_is_clamped_crop_by_crop():
    features, labels = torch.tensor([[0.0], [1e7], [2.0]]), torch.tensor([0, 0, 0])
    assert center_loss(features[:1], labels[:1], torch.zeros(1, 1)).item() == pytest.approx(1e-12)
    assert center_loss(features, labels, torch.zeros(1, 1)).item() == pytest.approx((1e-12 + 1e12 + 4) / 3)
