"""The paper's tables and figures from one command: what is to be run, running it, and reading what was run."""
