"""What is done to a database as a whole: import, copy, prune, schema, redelivery, health."""
