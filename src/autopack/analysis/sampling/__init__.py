"""Which of the events are samples, the evidence of verdict and calibration."""
