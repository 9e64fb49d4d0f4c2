"""The weights in force and the answers given, in one file that is replaced whole.

Both together: an order that was carried out and its answer are kept or lost as one, so that an
order that comes again after a restart gets the same answer. Weights that an operator changes in
the configuration win over kept ones. This file refuses to decide on weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from redline.errors import ConfigFault
from serving.router.traffic import Split, WeightsInvalid, validate

ANSWERS_MAX = 64


class Answer(msgspec.Struct, frozen=True):
    """What an order was answered."""

    status: int
    body: dict[str, object]


class _Kept(msgspec.Struct):
    configured: dict[str, float]
    weights: dict[str, float]
    answers: dict[str, Answer] = {}


class Weights:
    """One router's weights."""

    def __init__(self, path: Path, configured: Mapping[str, float]) -> None:
        self._path = path
        self._versions = tuple(configured)
        try:
            self._configured = validate(configured, self._versions)
        except WeightsInvalid as error:
            raise ConfigFault(
                "router.backends", dict(configured), str(error), "correct their weights"
            ) from error
        self.answers: dict[str, Answer] = {}
        self.split = Split(self._configured)
        self._load()

    def _load(self) -> None:
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigFault(
                "data_dir", str(self._path), f"cannot be read: {error}", "correct or remove it"
            ) from error
        self.answers = kept.answers
        if kept.configured == self._configured:
            self.split = Split(validate(kept.weights, self._versions))

    def set(self, weights: Mapping[str, float], answers: Mapping[str, Answer] = {}) -> None:
        """Put weights in force and keep them, with the answers to what asked for them.

        Raises:
            WeightsInvalid: they are no split; nothing changes.
            OSError: they cannot be kept; nothing changes.
        """
        split = Split(validate(weights, self._versions))
        every = {**self.answers, **answers}
        newest = dict(list(every.items())[-ANSWERS_MAX:])
        self._keep(_Kept(self._configured, split.weights, newest))
        self.answers = newest
        self.split = split

    def _keep(self, kept: _Kept) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(msgspec.json.encode(kept))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
