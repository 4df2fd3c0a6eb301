"""The ranking page: people order candidates in a browser, and every judgement goes to the preference database."""
