"""What becomes of the tasks of a session: planned, entered into its graph, handed over, finished."""
