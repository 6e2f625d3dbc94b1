"""Logs and exports, brought into the database: read with `analysis`, written with `telemetry`."""
