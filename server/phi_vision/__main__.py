"""`python -m phi_vision`, the same as the `phi-vision` command."""

import sys

from phi_vision.cli.main import main

sys.exit(main())
