"""The BNNeck network: torchvision's ResNet without its classifier, global average pooling, and one of the seven necks.

Shapes: B batch, C channels of the last stage (512 or 2048), I training identities, H x W feature map.

Luo et al. 2019, section IV-F and Fig. 10. Where the paper is silent we follow the authors' released code: the BN's bias stays
0, the classifier after it has no bias and starts at N(0, 0.001); without BN it is PyTorch's ordinary one, with bias. We keep
the ReLU after the stem's BN, which the released code left out.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from training.config import NECKS, Backbone, NeckName


class BNNeckOutput(NamedTuple):
    """f_t [B, C] before the neck, f_i [B, C] after it (the same without BN), logits [B, I] of the identities."""

    f_t_BC: Tensor
    f_i_BC: Tensor
    logits_BI: Tensor


class BNNeck(nn.Module):
    """ResNet -> f_t -> BN without shift, or nothing -> f_i -> classifier; `neck` says which of Fig. 10."""

    def __init__(self, *, backbone: Backbone, num_ids: int, last_stride: int, neck: NeckName = "bnneck") -> None:
        super().__init__()
        parts = NECKS[neck]
        network: ResNet = getattr(torchvision.models, backbone)(weights=None)
        self.embedding_dim: int = network.fc.in_features
        network.fc = nn.Identity()  # pooling and flattening stay: the network now returns f_t
        set_last_stride(network, last_stride)
        self.backbone = network
        self.neck: nn.Module = nn.BatchNorm1d(self.embedding_dim) if parts.has_bn else nn.Identity()
        self.classifier = nn.Linear(self.embedding_dim, num_ids, bias=not parts.has_bn)
        if parts.has_bn:
            self.neck.bias.requires_grad_(False)
            nn.init.normal_(self.classifier.weight, std=0.001)  # released code
        self.classifier.requires_grad_(parts.has_id_loss)  # without an ID loss nothing would train it

    def forward(self, images_B3HW: Tensor) -> BNNeckOutput:
        f_t_BC = self.backbone(images_B3HW).float()
        # The head is cheap, and bf16 would round what the losses compare.
        with torch.autocast(images_B3HW.device.type, enabled=False):
            f_i_BC = self.neck(f_t_BC)
            return BNNeckOutput(f_t_BC, f_i_BC, self.classifier(f_i_BC))


def set_last_stride(network: ResNet, stride: int) -> None:
    """Sets the stride of the last stage; 1 gives a 16 x 8 feature map for 256 x 128 and costs no parameter."""
    block = network.layer4[0]
    convolution = block.conv2 if isinstance(block, Bottleneck) else block.conv1  # where torchvision puts the stride
    convolution.stride = block.downsample[0].stride = (stride, stride)


def stages(model: BNNeck) -> list[list[nn.Module]]:
    """Returns the backbone in the five parts that `frozen_stages` counts: the stem, then layer1 to layer4."""
    net = model.backbone
    return [[net.conv1, net.bn1], [net.layer1], [net.layer2], [net.layer3], [net.layer4]]


def freeze(model: BNNeck, num_stages: int) -> None:
    """Keeps the first `num_stages` parts of the backbone out of the gradient."""
    for part in stages(model)[:num_stages]:
        for module in part:
            module.requires_grad_(False)


def set_training(model: BNNeck, num_frozen_stages: int) -> None:
    """Puts the model in training mode while frozen parts keep their batch-norm statistics."""
    model.train()
    for part in stages(model)[:num_frozen_stages]:
        for module in part:
            module.eval()


def load_backbone(model: BNNeck, weights: str, *, backbone: Backbone) -> None:
    """Loads the backbone from torchvision ("IMAGENET1K_V1", "IMAGENET1K_V2"), a local file, or "none".

    A local file is a state dict (.pth, .pt) or safetensors with torchvision's key names under any prefix; one of our own
    checkpoints serves too, and then brings its neck. The classifier is never loaded: identities differ.
    Raises ValueError when the file is not there, is no state dict, or holds another network than this.
    """
    if weights == "none":
        return
    state = read_weights(weights, backbone)
    anchors = [key for key in state if key.endswith("layer1.0.conv1.weight")]
    if len(anchors) != 1:
        raise ValueError(f"{weights}: got {len(state)} tensors without one 'layer1.0.conv1.weight', wanted a torchvision ResNet")
    prefix = anchors[0].removesuffix("layer1.0.conv1.weight")
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    wanted = model.backbone.state_dict()
    found = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")} | found  # older than 2018: none
    wrong = [key for key in wanted if key not in found or found[key].shape != wanted[key].shape]
    wrong += [key for key in found if key.startswith("layer") and key not in wanted]  # a deeper network has all of a shallow one
    if wrong:
        raise ValueError(
            f"{weights}: got {len(wrong)} tensors that {backbone} does not have so, first {wrong[0]}; wanted a {backbone}: "
            "give the weights' own --backbone"
        )
    model.backbone.load_state_dict({key: found[key] for key in wanted})
    neck = {key.removeprefix("neck."): value for key, value in state.items() if key.startswith("neck.")}
    if neck and isinstance(model.neck, nn.BatchNorm1d):
        model.neck.load_state_dict(neck)


def read_weights(weights: str, backbone: Backbone) -> dict[str, Tensor]:
    """Reads a state dict from torchvision or a file; files are never unpickled beyond tensors."""
    known = {published.name: published for published in torchvision.models.get_model_weights(backbone)}
    if weights in known:
        try:
            state: dict[str, Tensor] = known[weights].get_state_dict(progress=True)
        except OSError as error:  # urllib's are its children
            url = known[weights].url
            raise ValueError(
                f"--backbone-weights {weights}: got {error} for {url}, wanted a download; fetch that file elsewhere and give its "
                "path, or none to start from random weights"
            ) from error
        return state
    path = Path(weights)
    if not path.is_file():
        raise ValueError(f"--backbone-weights: got {weights!r}, wanted {', '.join(known)}, none or a file")
    try:
        loaded: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # every reader has its own family of errors
        reason = f"{type(error).__name__}: {str(error)[:80]}"  # the whole advises to unpickle the file anyway
        raise ValueError(f"{path}: got a file that cannot be read as weights, wanted tensors alone ({reason!r})") from error
    named = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(named, dict):
        raise ValueError(f"{path}: got a {type(named).__name__}, wanted a state dict: tensors by name")
    return {key: value for key, value in named.items() if isinstance(value, Tensor)}
