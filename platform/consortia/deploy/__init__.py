"""What a deployment needs besides the code: keys and certificates."""
