"""The `parrot-mq` command: one module for each subcommand."""

from parrot_mq.cli.app import main

__all__ = ["main"]
