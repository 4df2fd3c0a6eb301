"""The preference database: SQLite or PostgreSQL through SQLAlchemy, with a versioned schema."""
