"""What every room may use: errors, files, logs, words."""
