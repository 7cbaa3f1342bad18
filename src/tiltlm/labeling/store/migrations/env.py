"""Run by Alembic: bring the database of the connection that the caller gives to the newest revision."""

from alembic import context

from tiltlm.labeling.store.tables import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
