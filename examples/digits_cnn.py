"""A small convolutional network on handwritten digits, written in PyTorch. Job: digits_cnn.toml.
Needs PyTorch: pip install 'hogshead[torch]'."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import hogshead

TEST = 360


def digits(part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The last 360 of the shuffled digits are for testing. Images are (1, 8, 8) in 0..1."""
    x, y = map(torch.from_numpy, load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))  # the same in every process
    chosen = order[:-TEST] if part == "train" else order[-TEST:]
    return x[chosen].view(-1, 1, 8, 8).float() / 16, y[chosen]


def cnn(channels: int = 16, dropout: float = 0.1) -> nn.Module:
    """Convolution, batch normalisation, pooling and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(channels * 16, 10),
    )


DigitsCNN = hogshead.torch_task(
    cnn,
    nn.functional.cross_entropy,
    dataset=lambda: digits("train"),
    test=lambda: digits("test"),
    metrics="accuracy",
    predict=lambda output: output.argmax(1),
)
