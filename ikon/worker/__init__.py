"""Claims jobs and runs them, step by step, so that another process can go on where this one ended."""
