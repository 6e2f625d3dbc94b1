"""Predicted tokens: the estimator, its coefficients, deliverables, and how good a prediction was. Pure."""
