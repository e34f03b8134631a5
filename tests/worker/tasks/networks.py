"""Small modules and data for tests of tasks in PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import hogshead
from worker.data.dataset import as_dataset

torch.set_num_threads(1)  # small operations on a busy machine would wait for each other's threads
EXAMPLES, FEATURES, CLASSES = 50, 6, 3


def network(width: int = 5, dropout: float = 0.0, norm: bool = True, double: bool = False):
    """Two layers, for tests."""
    layers = [nn.Linear(FEATURES, width), *([nn.BatchNorm1d(width)] if norm else []), nn.Tanh()]
    module = nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(width, CLASSES))
    return module.double() if double else module


def data(seed: int = 0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((EXAMPLES, FEATURES))), torch.from_numpy(
        rng.integers(0, CLASSES, EXAMPLES)
    )


Network = hogshead.torch_task(
    network, F.cross_entropy, dataset=data, test=lambda: data(1), metrics="accuracy", predict=lambda out: out.argmax(1)
)


def batch_of(task, count: int = 9):
    return as_dataset(task.dataset()).take(np.random.default_rng(3).permutation(EXAMPLES)[:count])


def start(task, seed: int = 1):
    return task.parameters(np.random.default_rng(seed))


class Words(nn.Module):
    """Two sparse tables, one of them used twice, beside a dense layer and a frozen one."""

    def __init__(self, sparse: bool = True):
        super().__init__()
        self.words = nn.Embedding(11, 4, sparse=sparse)
        self.bags = nn.EmbeddingBag(7, 4, mode="sum", sparse=sparse)
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.out = nn.Linear(4, CLASSES)
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("mask", torch.ones(2, dtype=torch.bool))
        self.register_buffer("scale", torch.full((1,), 2.0), persistent=False)

    def forward(self, pair, bag):
        if self.training:
            self.seen = self.seen + torch.tensor([1.0, 0.0])
        words = self.words(pair[:, 0]) + self.words(pair[:, 1])
        return self.out(torch.tanh(self.frozen(words) + self.bags(bag))) * self.scale


def words_data():
    rng = np.random.default_rng(0)
    return rng.integers(0, 11, (EXAMPLES, 2)), rng.integers(0, 7, (EXAMPLES, 3)), rng.integers(0, CLASSES, EXAMPLES)


class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return EXAMPLES

    def __getitem__(self, index):
        return torch.full((FEATURES,), float(index)), index % CLASSES


def linear():
    return nn.Linear(FEATURES, CLASSES)


def by_name(module, batch):
    return module(batch["x"])
