"""parrot-mq."""
