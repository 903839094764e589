"""`python -m parrot_mq` is the `parrot-mq` command."""

from parrot_mq.cli import main

main()
