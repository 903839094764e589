"""Who leads: one coordinator acts, the others stand by."""
