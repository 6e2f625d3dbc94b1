"""`autopack replay`: today's estimator beside the prediction of then and what really came."""
