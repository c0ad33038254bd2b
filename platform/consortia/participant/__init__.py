"""The participant's side: it handles one message, trains, measures, and writes the receipt."""
