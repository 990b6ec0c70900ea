# SPDX-License-Identifier: Apache-2.0
"""The approved state: objects named by digest, and the generations that name them."""
