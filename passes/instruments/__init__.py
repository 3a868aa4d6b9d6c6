"""The instruments that come with planish, one file each."""
