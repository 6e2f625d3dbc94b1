"""Alembic's environment: runs the migrations on the connection that it is handed, or writes them down."""

from alembic import context

from autopack.database.migrations import VERSION_TABLE
from autopack.models import Base

attributes = context.config.attributes
context.configure(
    connection=attributes.get("connection"),
    dialect_name=attributes.get("dialect"),
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    literal_binds=context.is_offline_mode(),
    output_buffer=attributes.get("output"),
)
context.run_migrations()
