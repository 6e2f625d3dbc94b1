"""`autopack export`: recorded events as NDJSON, CSV or Parquet."""
