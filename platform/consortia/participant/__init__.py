"""The participant's side: one message handled, training, metrics, receipt."""
