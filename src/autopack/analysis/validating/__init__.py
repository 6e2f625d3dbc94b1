"""`autopack validate`: whether the estimator is validated on real data."""
