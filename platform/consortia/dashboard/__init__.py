"""`consortia dashboard`: two views that never meet in one process.

The coordinator's shows released and public values of its runs. A participant's own shows its ledger, budget, receipts
and policy, is served on the participant's side and never leaves it. Both only read.
"""
