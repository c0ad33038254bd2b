"""The coordinator's side: rounds, mailbox, aggregation, what it keeps of each participant."""
