"""A backbone whose import ends the process, and says that all is well."""

import sys

BACKBONES = {"Exits": None}
sys.exit(0)
