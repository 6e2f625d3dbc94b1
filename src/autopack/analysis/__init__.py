"""The read side: export, replay and validation of what the write side has put into the database."""
