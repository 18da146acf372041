"""Where the bytes are. A store knows bytes and URLs: hashing, quotas, failover and audit live outside it and work for all."""
