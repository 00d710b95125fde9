"""``python -m llm_bridge`` is the same as ``llm-bridge``."""

import sys

from llm_bridge.cli.main import main

sys.exit(main())
