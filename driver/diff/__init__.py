"""`planish diff`: two models node by node, aligned by names, places in the user's model, and structure."""
