"""One module per engine. Each runs as a process of its own, in the environment of its engine."""
