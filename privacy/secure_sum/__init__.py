"""Secure sums with shared noise: fixed point from the clip bound, masks that cancel, noise shares, their account.

One noisy clipped sum a round (distributed DP-SGD). The coordinator learns the sum of a fixed cohort; every member
adds its share of the noise. The protocol on messages is `consortia.trust.secure_sum`.
"""
