"""One loop that trains a graph's weights, judged on data that are held out, and passes that train with it."""
