"""The vectorised simulation: participants of one industry train together, in batched matrix products.

It plays the same contract, policies, plans, sampling law and DP as the other engines, and sends nothing: no message, no
outbox, no ledger on disk. One operator holds all rows, so it is for simulation only, and every record says so.
"""
