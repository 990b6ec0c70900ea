# SPDX-License-Identifier: Apache-2.0
"""Figures of a series and the tables they stand in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.processes import Times

_HEAD = f"{'':14}{'guard, us':^27}{'C floor, us':^27}{'ratio':^19}"
_COLUMNS = f"{'drift':<14}" + f"{'median':>9}{'p90':>9}{'p99':>9}" * 2 + f"{'median':>9}{'p99':>7}"


@dataclass(frozen=True)
class Figures:
    """Median, 90th and 99th percentile, in microseconds."""

    median: float
    p90: float
    p99: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Figures:
        """Return the figures of at least one time."""
        ordered = sorted(times)
        last = len(ordered) - 1
        return cls(*(ordered[min(last, len(ordered) * share // 100)] for share in (50, 90, 99)))

    def __str__(self) -> str:
        return f"{self.median:9.0f}{self.p90:9.0f}{self.p99:9.0f}"


def print_head(title: str) -> None:
    """Print the title and the head of a table."""
    print(f"\n{title}\n{_HEAD}\n{_COLUMNS}", flush=True)


def print_row(name: str, times: Times) -> None:
    """Print one series; what was not restored right stands behind it."""
    note = f"   {times.missed} NOT RESTORED" if times.missed else ""
    if not times.guard or not times.floor:
        print(f"{name:<14}{'':>54}{'':>16}{note}", flush=True)
        return
    guard, floor = Figures.of(times.guard), Figures.of(times.floor)
    ratios = f"{guard.median / floor.median:9.1f}{guard.p99 / floor.p99:7.1f}"
    print(f"{name:<14}{guard}{floor}{ratios}{note}", flush=True)
