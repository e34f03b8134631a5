"""What the exit code of ``hogshead`` says."""

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
