"""Convolutional network with a normalizer after each convolution."""

from __future__ import annotations

from torch import Tensor, nn

from rn_rl.normalization import make_normalizers
from rn_rl.tasks.digits import CLASSES


class ConvolutionalNetwork(nn.Module):
    """Two convolutions, 16 and 32 filters of 3 x 3, with normalizers, ReLU and pooling; a linear layer.

    Args:
        norm: spec of the normalizers.

    Shape:
        ``(batch, 1, 16, 16)`` to logits ``(batch, 10)``.
    """

    def __init__(self, norm: str) -> None:
        super().__init__()
        first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        output = nn.Linear(32 * 4 * 4, CLASSES)
        layers: list[nn.Module] = []
        for index, layer in enumerate((first, second)):
            normalizers = make_normalizers(norm, layer.out_channels, layer, index)
            layers += [layer, *normalizers, nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), output)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits
