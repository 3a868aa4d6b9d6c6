"""What builds remember: graphs after steps of a pipeline, and whole artifacts, by the content they were made of."""
