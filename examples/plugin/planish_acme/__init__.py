"""What a device's makers add to planish: an operator, passes that write it, the device, and a view of what changed."""
