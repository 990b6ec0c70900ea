# SPDX-License-Identifier: Apache-2.0
"""hardend keeps a Sendmail host at its approved, hardened state."""

__version__ = "0.1.0"
