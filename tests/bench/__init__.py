# SPDX-License-Identifier: Apache-2.0
"""How long a drift lasts: the guard against a minimal C program that does the same restore."""
