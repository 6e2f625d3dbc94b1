"""What tokens cost: as the command line says, or by the list that the extra `prices` installs; nothing is fetched."""

from __future__ import annotations

from typing import Any

import click

from autopack._util.text import escape_terminal
from autopack.commands._options import ParamType
from autopack.estimation.model_limits import bare_names
from autopack.estimation.outlook import Price

_LARGEST_DOLLARS = 1e6
_SAMPLE_TOKENS = 1000  # below every size from which a list asks for more


class PriceOption(ParamType[Price]):
    """`IN,OUT` on the command line, in dollars for a million tokens."""

    name = "price"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Price:
        """Read both numbers, or fail with a message about the option."""
        if isinstance(value, Price):
            return value
        try:
            of_input, of_output = map(float, str(value).split(","))
        except ValueError:
            self.fail(f"{escape_terminal(str(value))} is not of the form IN,OUT, such as 3,15", param, ctx)
        if not all(0 <= each <= _LARGEST_DOLLARS for each in (of_input, of_output)):
            self.fail("a price lies between 0 and 1,000,000 dollars for a million tokens", param, ctx)
        return Price(of_input, of_output, "--price")


def listed_price(model: str) -> Price | None:
    """The list price of a model; None where the list is not installed, or does not know the model."""
    try:
        import genai_prices
    except ImportError:
        return None
    usage = genai_prices.Usage(input_tokens=_SAMPLE_TOKENS, output_tokens=_SAMPLE_TOKENS)
    for name in dict.fromkeys((model, *bare_names(model))):
        try:
            found = genai_prices.calc_price(usage, model_ref=name)
        except LookupError:
            continue
        scale = 1_000_000 / _SAMPLE_TOKENS
        return Price(
            float(found.input_price) * scale,
            float(found.output_price) * scale,
            f"genai-prices {genai_prices.__version__}",
        )
    return None
