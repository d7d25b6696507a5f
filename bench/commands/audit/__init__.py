"""What batching policies make of given data, before anything is trained: what is used, what is lost and why, and what a step costs."""
