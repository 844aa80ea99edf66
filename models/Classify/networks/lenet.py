"""LeNet-5 with batch normalisation, for small grey images such as hand signs and digits."""

import torch
from torch import Tensor, nn


class LeNet5(nn.Module):
    """6 and 16 filters of 5 x 5, each with BatchNorm, ReLU and 2 x 2 pooling, then layers of 400, 120 and 84.

    After LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition, with ReLU and max pooling.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: height and width, at least 16 pixels.
        dropout: behind each hidden linear layer, [0, 1).
    """

    def __init__(self, num_classes: int, in_channels: int = 1, image_size: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2
        if side < 1:
            raise ValueError("it needs 16 pixels or more")
        self.conv1, self.bn1 = nn.Conv2d(in_channels, 6, 5, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 16, 5, bias=False), nn.BatchNorm2d(16)
        self.relu, self.pool, self.dropout = nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(dropout)
        self.fc1 = nn.Linear(16 * side * side, 400)
        self.fc2, self.fc3, self.fc4 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.bn1(self.conv1(x))))
        x = self.pool(self.relu(self.bn2(self.conv2(x))))
        x = torch.flatten(x, 1)
        for layer in (self.fc1, self.fc2, self.fc3):
            x = self.dropout(self.relu(layer(x)))
        return self.fc4(x)
