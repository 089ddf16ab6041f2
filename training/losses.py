"""The losses of the strong baseline, each a pure function of tensors.

Shapes: B batch, C feature channels, I identities.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor


def smoothed_cross_entropy(logits_BI: Tensor, labels_B: Tensor, *, epsilon: float) -> Tensor:
    """Label-smoothed cross-entropy, mean over the batch.

    Luo et al. 2019, eq. 5: 1 - epsilon + epsilon / I on the true identity, epsilon / I on each other; PyTorch's definition.
    """
    return F.cross_entropy(logits_BI, labels_B, label_smoothing=epsilon)


def euclidean(f_t_BC: Tensor) -> Tensor:
    """Returns Euclidean distances [B, B]; the square root is clamped at 1e-12, as in the released code, to keep its gradient."""
    sq_norm_B = f_t_BC.pow(2).sum(dim=1)
    sq_dist_BB = sq_norm_B[:, None] + sq_norm_B[None, :] - 2 * f_t_BC @ f_t_BC.T
    return sq_dist_BB.clamp(min=1e-12).sqrt()


def batch_hard_triplet(f_t_BC: Tensor, labels_B: Tensor, *, margin: float) -> Tensor:
    """Batch-hard triplet loss on unnormalised f_t: mean over anchors of max(0, margin + hardest positive - hardest negative).

    Hermans et al. 2017. As in the released code the anchor counts among its positives (distance 0), so an identity alone in
    the batch gives no error; a batch of one identity has no negative and raises ValueError (on the CPU; P x K batches of a
    valid TrainConfig always hold two).
    """
    is_positive_BB = labels_B[:, None] == labels_B[None, :]
    if not labels_B.is_cuda and bool(is_positive_BB.all()):  # on a GPU the answer would cost a wait in every step
        raise ValueError(f"triplet loss: got a batch of {len(labels_B)} crops of one identity, wanted at least two identities")
    dist_BB = euclidean(f_t_BC)
    hardest_positive_B = dist_BB.masked_fill(~is_positive_BB, -torch.inf).amax(dim=1)
    hardest_negative_B = dist_BB.masked_fill(is_positive_BB, torch.inf).amin(dim=1)
    return F.relu(margin + hardest_positive_B - hardest_negative_B).mean()


def center_loss(f_t_BC: Tensor, labels_B: Tensor, centers_IC: Tensor) -> Tensor:
    """Mean over the batch of the squared Euclidean distance between f_t and its identity's center.

    Wen et al. 2016; Luo et al. 2019, eq. 8, print half the sum. We follow the released code, whose weight of 0.0005 belongs to
    the mean: at a batch of 64 the printed form is 32 times stronger. Clamped per crop to 1e-12 .. 1e12, as there.
    """
    sq_dist_B = (f_t_BC - centers_IC[labels_B]).pow(2).sum(dim=1)
    return sq_dist_B.clamp(1e-12, 1e12).mean()
