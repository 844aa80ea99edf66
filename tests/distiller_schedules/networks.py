"""Small networks with the weights' names of those that Distiller's schedules were written for."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block of the CIFAR networks."""

    def __init__(self, wide_in: int, wide: int) -> None:
        super().__init__()
        stride = 1 if wide_in == wide else 2
        self.conv1, self.bn1 = nn.Conv2d(wide_in, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide)
        self.relu1 = nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide)
        self.relu2 = nn.ReLU()
        self.downsample = None
        if stride == 2:
            self.downsample = nn.Sequential(nn.Conv2d(wide_in, wide, 1, 2, bias=False), nn.BatchNorm2d(wide))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + (x if self.downsample is None else self.downsample(x)))


class ResNet20(nn.Module):
    """Three stages of three blocks, a quarter of the usual width of 16."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        a, b, c = width, 2 * width, 4 * width
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, a, 3, 1, 1, bias=False), nn.BatchNorm2d(a), nn.ReLU()
        self.layer1 = nn.Sequential(Block(a, a), Block(a, a), Block(a, a))
        self.layer2 = nn.Sequential(Block(a, b), Block(b, b), Block(b, b))
        self.layer3 = nn.Sequential(Block(b, c), Block(c, c), Block(c, c))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(c, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class AlexNet(nn.Module):
    """Five convolutions of which Distiller wraps only `features` in DataParallel."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 4, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(4, 8, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU()]
        layers += [nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
        self.features = nn.Sequential(*layers)
        head = [nn.Dropout(), nn.Linear(32, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 16), nn.ReLU()]
        self.classifier = nn.Sequential(*head, nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class SimpleNet(nn.Module):
    """Two convolutions and three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1, self.pool1 = nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)
        self.conv2, self.relu2, self.pool2 = nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
        self.fc1, self.relu3 = nn.Linear(16 * 25, 12), nn.ReLU()
        self.fc2, self.relu4 = nn.Linear(12, 8), nn.ReLU()
        self.fc3 = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool2(self.relu2(self.conv2(self.pool1(self.relu1(self.conv1(x))))))
        return self.fc3(self.relu4(self.fc2(self.relu3(self.fc1(torch.flatten(x, 1))))))


class WordModel(nn.Module):
    """Embedding, two LSTM layers, decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.rnn, self.decoder = nn.Embedding(20, 8), nn.LSTM(8, 8, 2), nn.Linear(8, 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.rnn(self.encoder(x))[0])
