# SPDX-License-Identifier: Apache-2.0
"""``python -m hardend`` is the command."""

import sys

from hardend.cli.main import main

sys.exit(main())
