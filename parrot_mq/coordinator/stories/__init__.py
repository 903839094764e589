"""What happened to the tasks, for people and tools."""
