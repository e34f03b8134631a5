"""Ray's command for tests: a node that takes longer than Ray waits for, as it may on a busy machine, is waited for."""

from __future__ import annotations

import sys

RAY = (sys.executable, "-m", "deploy.cluster.patience")
