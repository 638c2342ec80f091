"""Numbers that change over the epochs of a training (DiffAI v3, scheduling)."""

from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """A number at a time, in epochs."""

    def at(self, epoch: float) -> float: ...


@dataclass(frozen=True)
class Constant:
    """The same at all times."""

    value: float

    def at(self, epoch: float) -> float:
        return self.value


@dataclass(frozen=True)
class Lin:
    """`start` for `wait` epochs, and then on a straight line to `end` over `length` epochs."""

    start: float
    end: float
    length: float
    wait: float = 0.0

    def at(self, epoch: float) -> float:
        gone = min(max((epoch - self.wait) / self.length, 0.0), 1.0) if self.length > 0 else float(epoch >= self.wait)
        return self.start + gone * (self.end - self.start)


@dataclass(frozen=True)
class Until:
    """`first` up to that epoch and then `then`, whose own time begins there."""

    epoch: float
    first: Schedule
    then: Schedule

    def at(self, epoch: float) -> float:
        return self.first.at(epoch) if epoch < self.epoch else self.then.at(epoch - self.epoch)
