"""Files as strangers might write them: seeds of every format, mutated with knowledge of their structure."""
