# SPDX-License-Identifier: Apache-2.0
"""What the standard library lacks of Linux; the only users of ctypes."""
