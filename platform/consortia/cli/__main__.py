"""`python -m consortia.cli`."""

from consortia.cli import main

main()
