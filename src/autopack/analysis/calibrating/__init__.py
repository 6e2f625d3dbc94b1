"""`autopack calibrate`: coefficients and budgets as far as the data carry them."""
