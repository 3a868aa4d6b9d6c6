"""What the makers of a device add to planish: an operator, passes that write it, the device, and a view of what changed."""
