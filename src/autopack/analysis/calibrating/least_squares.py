"""Normal equations of a model in which each row has one of many overheads and some of a few marginals. Pure.

    weight · (own · x[stratum] + Σ share · y[index]) = pull        summed over rows, plus what holds each unknown

The matrix is diagonal in the overheads, so they are eliminated one by one (Schur's complement), and only a system as
large as the number of marginals is solved, by Gauss with pivots.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Equations:
    """Collects rows, then solves. Every unknown must be held with something above 0: then there is one solution."""

    def __init__(self, strata: Iterable[str], marginals: int) -> None:
        self._diagonal = dict.fromkeys(strata, 0.0)
        self._overhead_side = dict.fromkeys(self._diagonal, 0.0)
        self._cross = {stratum: [0.0] * marginals for stratum in self._diagonal}
        self._matrix = [[0.0] * marginals for _ in range(marginals)]
        self._side = [0.0] * marginals

    def add(self, stratum: str, own: float, shares: Sequence[tuple[int, float]], weight: float, pull: float) -> None:
        """A row: `own` is the factor of its overhead, `shares` are the indices and factors of its marginals."""
        self._diagonal[stratum] += weight * own * own
        self._overhead_side[stratum] += pull * own
        cross = self._cross[stratum]
        for index, share in shares:
            cross[index] += weight * own * share
            self._side[index] += pull * share
            row = self._matrix[index]
            for other, its_share in shares:
                row[other] += weight * share * its_share

    def hold_overhead(self, stratum: str, strength: float, pull: float) -> None:
        """An equation strength · x = pull for one overhead alone."""
        self._diagonal[stratum] += strength
        self._overhead_side[stratum] += pull

    def hold_marginal(self, index: int, strength: float, pull: float) -> None:
        """An equation strength · y = pull for one marginal alone."""
        self._matrix[index][index] += strength
        self._side[index] += pull

    def solved(self) -> tuple[dict[str, float], list[float]]:
        """The overheads and the marginals."""
        matrix, side = [row.copy() for row in self._matrix], self._side.copy()
        for stratum, pivot in self._diagonal.items():
            cross = self._cross[stratum]
            for index, factor in enumerate(cross):
                if factor:
                    side[index] -= factor / pivot * self._overhead_side[stratum]
                    _subtract(matrix[index], factor / pivot, cross)
        marginals = _solved(matrix, side)
        overheads = {
            stratum: (self._overhead_side[stratum] - _product(self._cross[stratum], marginals)) / pivot
            for stratum, pivot in self._diagonal.items()
        }
        return overheads, marginals


def _solved(matrix: list[list[float]], side: list[float]) -> list[float]:
    size = len(side)
    for column in range(size):
        best = max(range(column, size), key=lambda row: abs(matrix[row][column]))
        matrix[column], matrix[best] = matrix[best], matrix[column]
        side[column], side[best] = side[best], side[column]
        for row in range(column + 1, size):
            factor = matrix[row][column] / matrix[column][column]
            _subtract(matrix[row], factor, matrix[column])
            side[row] -= factor * side[column]
    found = [0.0] * size
    for row in reversed(range(size)):
        found[row] = (side[row] - _product(matrix[row], found)) / matrix[row][row]
    return found


def _subtract(row: list[float], factor: float, other: Sequence[float]) -> None:
    for index, value in enumerate(other):
        row[index] -= factor * value


def _product(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(left, right, strict=True))
