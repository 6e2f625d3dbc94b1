"""PostgreSQL: the store, its connections, its COPY format, its errors."""
