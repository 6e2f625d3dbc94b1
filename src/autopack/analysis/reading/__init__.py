"""Events as they are found: in the database, in an export, in a log."""
