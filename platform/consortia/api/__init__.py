"""What a data scientist imports, by way of `consortia`: participants with rows, runs, tables, plots, estimators.

Nothing of this is needed by a deployment. The names are stable from version 1.0 on.
"""

from consortia.common.environment import flower_stays_offline

flower_stays_offline()
