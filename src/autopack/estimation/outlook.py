"""What a ceiling leaves unused and costs, and which one a retry takes, from how long replies were. Pure.

With c_in and c_out the prices of a token, I input tokens, and a reply of A tokens if no ceiling cut it, a ceiling B
costs

    C(B) = mean[c_in · I + c_out · min(A, B) + 1(A > B) · (c_in · I + c_out · A)]

since a reply that is cut is paid for, and paid again when it is asked for again. Of a recorded reply that was cut only
a lower bound of A is known: C is computed with A at that bound, and with A at the largest ceiling that there is.

A retry after a cut at m is for a reply that is known to be longer than m. Its ceiling is the least length r that at
most a share of those exceeds: S(r) / S(m), S the share of replies longer than that by Kaplan and Meier's estimate
(1958), which counts a reply that was cut as long as it was followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from autopack.estimation.coefficients import Coefficients, Learned, Lengths
from autopack.estimation.suggesting import Suggestion

RETRY_SHARE = 0.1
"""How many of the retries may be cut again."""


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars for a million tokens of input and of output, and who says so."""

    input: float
    output: float
    source: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is to be expected of a ceiling, by the recorded replies.

    unused_tokens            the mean of what replies that end below the ceiling leave of it; None where none does
    least_dollars, most_dollars   of 1,000 calls, with what cut replies needed at its least and at its most; None
                             without a price or without input tokens
    """

    unused_tokens: float | None
    least_dollars: float | None = None
    most_dollars: float | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """The ceiling of a retry, and whether it is a length of replies or the most that there is."""

    max_tokens: int
    basis: Literal["lengths", "maximum"]


@dataclass(frozen=True, slots=True)
class Scaled:
    """How long replies were in tokens: each with its weight, and whether it was cut there; ascending."""

    points: tuple[tuple[float, bool, float], ...]
    input_tokens: float | None

    def outlook(self, ceiling: int, most: int, price: Price | None, input_tokens: float | None) -> Outlook:
        """What is to be expected of a ceiling; `most` is the largest one that there is."""
        left = [
            (ceiling - tokens, weight) for tokens, is_cut, weight in self.points if not is_cut and tokens <= ceiling
        ]
        known = math.fsum(weight for _, weight in left)
        unused = math.fsum(tokens * weight for tokens, weight in left) / known if known else None
        tokens_in = self.input_tokens if input_tokens is None else input_tokens
        if price is None or tokens_in is None:
            return Outlook(unused)
        least, largest = (
            1000 * self._cost(ceiling, most if at_most else 0, price, tokens_in) for at_most in (False, True)
        )
        return Outlook(unused, least, largest)

    def longer_than(self, cut_at: int, share: float) -> float | None:
        """The least length that at most `share` of the replies longer than `cut_at` exceed; None: none is known."""
        beyond = [(tokens, is_cut, weight) for tokens, is_cut, weight in self.points if tokens > cut_at]
        at_risk, surviving = math.fsum(weight for *_, weight in beyond), 1.0
        for tokens, is_cut, weight in beyond:
            if not is_cut:
                surviving *= max(0.0, 1 - weight / at_risk)
                if surviving <= share + 1e-9:
                    return tokens
            at_risk -= weight
        return None

    def _cost(self, ceiling: int, least_of_cut: int, price: Price, input_tokens: float) -> float:
        """C(B) in dollars, with replies that were cut at `least_of_cut` at least."""
        whole = math.fsum(weight for *_, weight in self.points)
        request = price.input * input_tokens
        total = 0.0
        for tokens, is_cut, weight in self.points:
            needed = max(tokens, least_of_cut) if is_cut else tokens
            is_above = needed > ceiling or (is_cut and needed == ceiling)
            again = request + price.output * needed if is_above else 0.0
            total += weight * (request + price.output * min(needed, ceiling) + again)
        return total / whole / 1e6


def lengths_for(
    suggestion: Suggestion, category: str, complexity: str, figures: Coefficients, *, reasoning_level: str | None = None
) -> Iterator[Scaled]:
    """How long replies were that a suggestion rests on, then those of all strata."""
    learned = figures.learned or Learned()
    base = figures.budget_base(suggestion.predicted_output_tokens)
    if suggestion.basis == "memory" and suggestion.remembered is not None and learned.memory_lengths is not None:
        yield _scaled(learned.memory_lengths, suggestion.remembered.largest, learned.pooled_lengths)
    stratum = f"{category}/{complexity}"
    of_model = learned.of_model(suggestion.model, reasoning_level)
    own = (None, None) if of_model is None else (of_model.strata.get(stratum), of_model.pooled)
    own_stratum, own_pooled = (None if each is None else each.lengths for each in own)
    for lengths in (own_stratum, learned.lengths.get(stratum), own_pooled, learned.pooled_lengths):
        if lengths is not None:
            yield _scaled(lengths, base)


def retry_after(cut_at: int, lengths: Iterator[Scaled], most: int, *, share: float = RETRY_SHARE) -> Retry:
    """The ceiling to send after a reply was cut at `cut_at`, by the first lengths that know of longer ones."""
    for each in lengths:
        tokens = each.longer_than(cut_at, share)
        if tokens is not None and math.ceil(tokens) < most:
            return Retry(math.ceil(tokens), "lengths")
    return Retry(most, "maximum")


def _scaled(lengths: Lengths, base: float, of_requests: Lengths | None = None) -> Scaled:
    parts = ((lengths.exact, False, 1 - lengths.cut_share), (lengths.cut, True, lengths.cut_share))
    points = [
        (value * base, is_cut, share / len(values)) for values, is_cut, share in parts for value in values if values
    ]
    return Scaled(tuple(sorted(points)), (of_requests or lengths).input_tokens)
