"""A small convolutional network in PyTorch as a task. Jobs: fashion_cnn_downpour, fashion_cnn_easgd and fashion_cnn_eamsgd.
Needs PyTorch: pip install 'hogshead[torch]'."""

import torch
from torch import nn

import hogshead
from worker.data.dense import read_dense


class CNN(nn.Module):
    """Two convolutions with batch normalisation and pooling, and a linear layer, on images of 28 x 28 pixels.

    Args:
      channels: of the first convolution; the second has twice as many.
      dropout: before the linear layer.
    """

    def __init__(self, channels: int = 16, dropout: float = 0.1):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classify = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(2 * channels * 7 * 7, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, 10) of images (n, 1, 28, 28) in 0..255."""
        return self.classify(self.features(images.float() / 255))


def images(folder: str, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, of which one byte per pixel is kept in shared memory, and their classes."""
    x, y = read_dense(folder, part=part)
    return torch.from_numpy(x).view(-1, 1, 28, 28), torch.from_numpy(y.astype("int64"))


FashionCNN = hogshead.torch_task(
    CNN,
    nn.functional.cross_entropy,
    dataset=lambda train: images(train, "train"),
    test=lambda test: images(test, "test"),
    metrics="accuracy",
    predict=lambda output: output.argmax(1),
    load_inputs=lambda path: images(path, "test")[0],
    paths=["train", "test"],
)
