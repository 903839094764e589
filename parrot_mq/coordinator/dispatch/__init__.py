"""What goes to which worker, and when: one dispatcher for each model."""
