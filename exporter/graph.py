"""The exported module: uint8 crops in, unit-length f_i out, so that no arithmetic is left for the service to get wrong."""

from torch import Tensor, nn

from training import transforms
from training.model import BNNeck

INPUT, OUTPUT = "crops", "embeddings"


class EmbeddingGraph(nn.Module):
    """uint8 [N, H, W, 3] RGB -> normalise -> f_i -> float32 [N, D] of unit length; the classifier stays behind."""

    def __init__(self, model: BNNeck) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.neck = model.neck

    def forward(self, crops: Tensor) -> Tensor:
        images = transforms.normalize(crops).contiguous()  # channels last would be exported as a gather after the pooling
        f_i = self.neck(self.backbone(images))
        return nn.functional.normalize(f_i, dim=1)
