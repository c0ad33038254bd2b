"""What was agreed: the contract, the roster, the policy, and how they are read and checked."""
