"""Processes that compare what is with what should be, and mend. They take no input, so that a lost message costs time, never truth."""
