"""One thin module a command. Heavy imports stand inside the functions, so that ``--help`` is instant."""
