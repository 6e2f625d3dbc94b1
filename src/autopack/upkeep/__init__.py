"""What is done to a database as a whole: its schema, moving it elsewhere, and taking old events out of it."""
