"""Alembic's environment and revisions of the preference database."""
