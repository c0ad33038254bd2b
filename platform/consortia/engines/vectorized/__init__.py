"""The vectorised simulation: participants of one industry train together, in batched matrix products.

It uses the same contract, policies, plans, sampling and DP as the other engines. It has no messages, no outbox and no
ledger on disk. One operator holds all rows, so it is for simulation only, and every record says so.
"""
