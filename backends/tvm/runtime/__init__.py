"""What an artifact is loaded and run with; it imports nothing of the compiler."""
