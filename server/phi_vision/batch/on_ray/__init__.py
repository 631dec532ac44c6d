"""A run on a Ray cluster: its nodes read the files and ask the servers. The queue stays here."""
