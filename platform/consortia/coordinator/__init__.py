"""The coordinator's side: rounds, mailbox, aggregation, and its state of each participant."""
