"""The losses against loops over every pair, and by hand."""

import pytest
import torch

from training.losses import batch_hard_triplet, euclidean, smoothed_cross_entropy


def random_case(seed):
    """A batch of 3 identities x 3 crops, each feature of another size."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(9, 5, generator=generator) * torch.rand(9, 1, generator=generator) * 3
    return features, torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])[torch.randperm(9, generator=generator)]


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


def test_the_triplet_loss_of_a_worked_example():
    # On a line: identity 0 at 0 and 2, identity 1 at 3 and 7. Positives: 2, 2, 4, 4; nearest negatives: 3, 1, 1, 5.
    features, labels = torch.tensor([[0.0], [2.0], [3.0], [7.0]]), torch.tensor([0, 0, 1, 1])
    assert batch_hard_triplet(features, labels, margin=0.5).item() == pytest.approx((0 + 1.5 + 3.5 + 0) / 4, abs=1e-6)


def test_the_triplet_loss_ends_where_the_margin_is_kept():
    features, labels = torch.tensor([[0.0], [1.0], [9.0], [10.0]]), torch.tensor([0, 0, 1, 1])
    assert batch_hard_triplet(features, labels, margin=0.3).item() == 0


def test_an_identity_alone_in_the_batch_is_its_own_positive():
    features, labels = torch.tensor([[0.0], [0.2], [5.0]]), torch.tensor([0, 1, 1])
    assert batch_hard_triplet(features, labels, margin=0.3).item() == pytest.approx((0.1 + 4.9 + 0.1) / 3, abs=1e-5)


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


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_the_smoothed_cross_entropy_is_the_formula(epsilon):
    logits, labels = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 4, 2])
    total = 0.0
    for row, label in zip(logits.double(), labels, strict=True):
        log_share = row - row.exp().sum().log()
        total -= sum(((1 - epsilon) * (identity == label) + epsilon / 5) * log_share[identity] for identity in range(5)).item()
    assert smoothed_cross_entropy(logits, labels, epsilon=epsilon).item() == pytest.approx(total / 6, abs=1e-5)
