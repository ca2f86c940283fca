"""python -m turbosparse.cli"""

import sys

from .main import main

sys.exit(main())
