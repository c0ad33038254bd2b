"""Differential privacy: events, accounting, the durable ledger, DP-SGD and the release gate.

This package knows nothing of Flower, industries or strategies: each of its guarantees can be read and
tested here alone. Import from its modules (``privacy.ledger``, ``privacy.dp_sgd``, ...).
"""

import os

# On some processors MKL adds up a row by its place in the table. A pass would then take one row at a time
# (`privacy.bookkeeping`); with this, each row has the same bits at every place. MKL reads it at its first product.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
