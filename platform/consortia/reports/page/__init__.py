"""`consortia report`: makes one self-contained page about a finished run from its records."""
