"""Other people's clients, as processes, against a server in the test's own loop."""
