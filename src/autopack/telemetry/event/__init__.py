"""What an event is: its fields, its bytes, and its way from bytes to a row or a rejection. Pure."""
