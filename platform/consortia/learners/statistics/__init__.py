"""Statistics before training: noisy counts of public cells and moments, released once, and what follows from them.

`layout` says what is counted, `estimates` turns released numbers into statistics with error bars, `differ` compares
sites. None of it reads a contract or a message.
"""
