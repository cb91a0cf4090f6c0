"""Where things lie that tests read: the repository, and the shared data beside it, which may be absent."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
VECTORS = SHARED / "vectors"
LC25000 = Path(os.environ.get("MEDFL_LC25000") or SHARED / "lc25000")
MITOSES = Path(os.environ.get("MEDFL_MITOSES") or SHARED / "mitoses")
