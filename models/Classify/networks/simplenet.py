"""Two small networks of Distiller: `SimpleNet` for CIFAR, `SimpleNetMnist` for digits."""

import torch
from torch import Tensor, nn


class SimpleNet(nn.Module):
    """Two 5 x 5 convolutions (6, 16) and three linear layers (120, 84, classes); layers named as in Distiller.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: height and width, at least 16 pixels.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2
        if side < 1:
            raise ValueError("it needs 16 pixels or more")
        self.conv1, self.relu1, self.pool1 = nn.Conv2d(in_channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2, 2)
        self.conv2, self.relu2, self.pool2 = nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2, 2)
        self.fc1, self.relu3 = nn.Linear(16 * side * side, 120), nn.ReLU()
        self.fc2, self.relu4 = nn.Linear(120, 84), nn.ReLU()
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = torch.flatten(self.pool2(self.relu2(self.conv2(x))), 1)
        return self.fc3(self.relu4(self.fc2(self.relu3(self.fc1(x)))))


class SimpleNetMnist(nn.Module):
    """Two 5 x 5 convolutions (20, 50) and two linear layers (500, classes); layers named as in Distiller.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: height and width, at least 16 pixels.
    """

    def __init__(self, num_classes: int, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2
        if side < 1:
            raise ValueError("it needs 16 pixels or more")
        self.conv1, self.relu1, self.pool1 = nn.Conv2d(in_channels, 20, 5), nn.ReLU(), nn.MaxPool2d(2, 2)
        self.conv2, self.relu2, self.pool2 = nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2, 2)
        self.fc1, self.relu3, self.fc2 = nn.Linear(50 * side * side, 500), nn.ReLU(), nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool2(self.relu2(self.conv2(self.pool1(self.relu1(self.conv1(x))))))
        return self.fc2(self.relu3(self.fc1(torch.flatten(x, 1))))
