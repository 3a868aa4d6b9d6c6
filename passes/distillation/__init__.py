"""The source graph teaches the current one."""
