"""The database of a labelling project: tables, migrations, people, pairs, the append-only record."""
