"""The worker process: an engine that runs prompts, and the actor that joins it to the bus."""
