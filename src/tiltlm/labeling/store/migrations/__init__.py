"""The steps from each form of the database to the next one, for Alembic. `labeling/store/revisions.py` takes them."""
