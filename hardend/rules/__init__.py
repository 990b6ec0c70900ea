# SPDX-License-Identifier: Apache-2.0
"""The rules: what a hardened Sendmail is. One module for each section of the guide, and exposure."""
