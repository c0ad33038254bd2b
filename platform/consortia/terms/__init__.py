"""What was agreed: contract, roster, policy, and how they are read and checked."""
