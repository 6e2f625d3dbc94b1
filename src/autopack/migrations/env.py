"""Alembic's environment: runs the migrations on the connection that `autopack.migrations` hands over."""

from alembic import context

from autopack.migrations import VERSION_TABLE
from autopack.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()
