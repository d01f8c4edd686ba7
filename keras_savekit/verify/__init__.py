"""CHECK: findings about a checkpoint, at a depth."""
