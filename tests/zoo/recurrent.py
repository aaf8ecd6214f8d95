"""An LSTM that tags words and a GRU that classifies sentences."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Tagger(nn.Module):
    """Reads both ways; a hidden layer stands between the LSTM and the tags."""

    def __init__(self, words: int = 5000, tags: int = 17) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 100)
        self.lstm = nn.LSTM(100, 128, num_layers=2, batch_first=True, bidirectional=True, dropout=0.25)
        self.hidden, self.relu = nn.Linear(2 * 128, 256), nn.ReLU()
        self.dropout, self.fc = nn.Dropout(0.25), nn.Linear(256, tags)

    def forward(self, text: Tensor) -> Tensor:
        outputs, (hidden, cell) = self.lstm(self.dropout(self.embedding(text)))
        return self.fc(self.dropout(self.relu(self.hidden(outputs))))


class Classifier(nn.Module):
    """Takes the last states of both ways; time comes first, as a GRU has it by default."""

    def __init__(self, words: int = 5000, classes: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 64)
        self.gru = nn.GRU(64, 96, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(192, 128), nn.ReLU(), nn.Linear(128, classes))

    def forward(self, text: Tensor) -> Tensor:
        embedded = self.embedding(text.t())
        _, hidden = self.gru(embedded)
        return self.head(torch.cat((hidden[-2], hidden[-1]), dim=1))
