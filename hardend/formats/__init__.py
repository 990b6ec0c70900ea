# SPDX-License-Identifier: Apache-2.0
"""Sendmail file formats as lossless documents: bytes in, the same bytes out, no I/O."""
