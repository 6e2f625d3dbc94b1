"""The names that the schema gives its index and its constraint, for those who must not load SQLAlchemy."""

INDEX = "ix_token_estimation_v2_events_timestamp"
UNIQUE = "uq_token_estimation_v2_events_run_uid"
